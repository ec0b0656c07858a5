import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from onbook.adapters.database.engine import create_engine, writer
from onbook.adapters.database.sqlite_file import sqlite_path
from onbook.adapters.database.template_store import SqlTemplateStore
from onbook.adapters.files.packaged import packaged_templates
from onbook.domain.templates import Template, content_sha256
from onbook.ports.stores import StoreUnavailable, TemplateStore

AT = datetime(2026, 11, 22, tzinfo=UTC)
Make = Callable[..., Template]


@asynccontextmanager
async def _engine(url: str, *, busy_timeout_s: float = 5.0) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(url, busy_timeout_s=busy_timeout_s)
    try:
        yield engine
    finally:
        await engine.dispose()


async def _sql(engine: AsyncEngine, statement: str) -> None:
    async with writer(engine).begin() as connection:
        await connection.exec_driver_sql(statement)


async def test_templates_come_back_as_they_were_by_name(
    template_store: TemplateStore, make_template: Make
) -> None:
    first = make_template()
    base = make_template(
        template_name="a_base_model",
        model_type="qwen_base",
        target=None,
        user_format="Prompt: {{prompt}}\nBetter:",
        system_prompt="é 汉字 👩‍🚀 " * 1000,
    )
    assert await template_store.seed([first, base], at=AT) == 2
    assert await template_store.active() == [base, first]


async def test_seeding_again_changes_nothing(
    template_store: TemplateStore, make_template: Make
) -> None:
    template = make_template()
    await template_store.seed([template], at=AT)
    before = await template_store.epoch()
    edited = make_template(system_prompt="Something else.")
    assert await template_store.seed([edited], at=AT) == 0
    assert await template_store.active() == [template]
    assert await template_store.epoch() == before


async def test_the_epoch_grows_when_templates_are_added(
    template_store: TemplateStore, make_template: Make
) -> None:
    before = await template_store.epoch()
    await template_store.seed([make_template()], at=AT)
    assert await template_store.epoch() > before


async def test_a_seed_for_a_key_that_is_taken_is_not_active(
    template_store: TemplateStore, make_template: Make
) -> None:
    mine = make_template(template_name="mine", target=None)
    theirs = make_template(target=None)
    assert await template_store.seed([mine], at=AT) == 1
    assert await template_store.seed([theirs], at=AT) == 1
    assert await template_store.active() == [mine]
    assert await template_store.seed([theirs], at=AT) == 0


async def test_all_packaged_templates_can_be_seeded(template_store: TemplateStore) -> None:
    packaged = packaged_templates()
    if not packaged:
        pytest.skip("no packaged template is written yet")
    assert await template_store.seed(packaged, at=AT) == len(packaged)
    assert {item.template_name for item in await template_store.active()} == {
        item.template_name for item in packaged
    }


async def test_the_documented_statements_work_and_are_seen(
    engine: AsyncEngine, make_template: Make
) -> None:
    store = SqlTemplateStore(engine)
    await store.seed([make_template()], at=AT)
    epoch = await store.epoch()
    await _sql(
        engine,
        "UPDATE prompt_templates SET system_prompt = 'New system prompt', version = version + 1 "
        "WHERE template_name = 'enhancement_sdxl_sfw'",
    )
    (edited,) = await store.active()
    assert (edited.version, edited.system_prompt) == (2, "New system prompt")
    assert edited.content_sha256 == content_sha256(edited) != make_template().content_sha256
    assert await store.epoch() > epoch
    epoch = await store.epoch()
    await _sql(
        engine,
        "UPDATE prompt_templates SET is_active = false "
        "WHERE template_name = 'enhancement_sdxl_sfw'",
    )
    assert await store.active() == []
    assert await store.epoch() > epoch
    epoch = await store.epoch()
    await _sql(engine, "DELETE FROM prompt_templates")
    assert await store.epoch() > epoch


async def test_an_edit_that_forgets_the_version_gets_one(
    engine: AsyncEngine, make_template: Make
) -> None:
    store = SqlTemplateStore(engine)
    await store.seed([make_template()], at=AT)
    await _sql(engine, "UPDATE prompt_templates SET system_prompt = 'Edited.'")
    (edited,) = await store.active()
    assert edited.version == 2
    async with engine.connect() as connection:
        stamped = (await connection.execute(text("SELECT updated_at FROM prompt_templates"))).one()
    assert datetime.fromisoformat(stamped[0]) > AT
    await _sql(engine, "UPDATE prompt_templates SET updated_by = 'me'")
    assert (await store.active())[0].version == 2


async def test_a_raw_insert_needs_only_what_has_no_default(engine: AsyncEngine) -> None:
    await _sql(
        engine,
        "INSERT INTO prompt_templates (template_name, model_type, use_case, content_mode,"
        " system_prompt, token_limit) VALUES ('mine', 'm', 'chat', 'sfw', 'Hello.', 75)",
    )
    (template,) = await SqlTemplateStore(engine).active()
    assert (template.template_name, template.version, template.target) == ("mine", 1, None)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE prompt_templates SET version = version - 1",
        "UPDATE prompt_templates SET content_mode = 'other'",
        (
            "INSERT INTO prompt_templates (template_name, model_type, use_case, content_mode,"
            " system_prompt, token_limit)"
            " VALUES ('twin', 'qwen_instruct', 'enhancement', 'sfw', 'x', 75)"
        ),
    ],
    ids=["version down", "unknown mode", "second active row for a universal key"],
)
async def test_the_database_refuses(
    engine: AsyncEngine, make_template: Make, statement: str
) -> None:
    await SqlTemplateStore(engine).seed([make_template(target=None)], at=AT)
    with pytest.raises(Exception, match=r"CHECK|UNIQUE|never goes down"):
        await _sql(engine, statement)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("sampling", "'{'"),
        ("sampling", "'[]'"),
        ("examples", f"'{'[' * 5000}'"),
        ("variables", "'not json'"),
        ("token_limit", "'many'"),
        ("token_limit", "-1"),
        ("use_case", "'nothing'"),
        ("system_prompt", "''"),
        ("system_prompt", "x'ff'"),
        ("system_prompt", "CAST(x'ff41' AS TEXT)"),
        ("version", "99999999999999999999 || 'x'"),
    ],
)
async def test_a_broken_row_does_not_take_the_others_down(
    engine: AsyncEngine, make_template: Make, column: str, value: str
) -> None:
    store = SqlTemplateStore(engine)
    good = make_template()
    broken = make_template(template_name="broken", target="wan", examples=(), examples_sent=0)
    await store.seed([good, broken], at=AT)
    statement = f"UPDATE prompt_templates SET {column} = {value} WHERE template_name = 'broken'"  # noqa: S608 - the literals above
    await _sql(engine, statement)
    with structlog.testing.capture_logs() as logs:
        assert await store.active() == [good]
    (event,) = logs
    assert event["event"] == "template_row_invalid"
    assert event["template_name"] == "broken"
    assert "Describe the scene" not in str(event)


async def test_an_error_names_no_value(engine: AsyncEngine, make_template: Make) -> None:
    store = SqlTemplateStore(engine)
    # In two parts, since a traceback quotes this file.
    secret = "a text of" + " a customer"
    await _sql(engine, "DROP TABLE template_epoch")
    with pytest.raises(StoreUnavailable) as caught:
        await store.seed([make_template(system_prompt=secret)], at=AT)
    assert "INSERT" not in str(caught.value)
    assert secret not in "".join(traceback.format_exception(caught.value))
    assert secret not in str(caught.value.__context__)
    with pytest.raises(StoreUnavailable, match="tables are missing"):
        await store.epoch()


async def test_a_database_that_moves_away_and_back(
    url: str, engine: AsyncEngine, make_template: Make
) -> None:
    path = sqlite_path(url)
    away = path.with_name("away.db")
    store = SqlTemplateStore(engine)
    await store.seed([make_template()], at=AT)
    path.rename(away)
    with pytest.raises(StoreUnavailable, match="missing"):
        await store.epoch()
    with pytest.raises(StoreUnavailable, match="missing"):
        await store.seed([make_template(template_name="new", target=None)], at=AT)
    assert not path.exists()
    away.rename(path)
    assert len(await store.active()) == 1


async def test_a_database_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "text.db"
    path.write_text("This is not a database, by any measure. " * 200)
    async with _engine(f"sqlite+aiosqlite:///{path}") as engine:
        with pytest.raises(StoreUnavailable, match="not a SQLite database"):
            await SqlTemplateStore(engine).active()


async def test_every_connection_has_the_pragmas(engine: AsyncEngine) -> None:
    async with engine.connect() as first, engine.connect() as second:
        for connection in (first, second):
            found = [
                (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar()
                for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            ]
            assert found == ["wal", 2, 1, 5000]


async def test_a_writer_takes_the_lock_at_the_beginning(url: str) -> None:
    async with (
        _engine(url, busy_timeout_s=0.0) as engine,
        writer(engine).begin(),
        engine.connect() as reader,
    ):
        assert (await reader.exec_driver_sql("SELECT 1")).scalar() == 1
        with pytest.raises(StoreUnavailable, match="locked"):
            await SqlTemplateStore(engine).seed(packaged_templates()[:1], at=AT)


async def test_seeding_what_is_there_waits_for_nobody(url: str) -> None:
    async with _engine(url, busy_timeout_s=0.0) as engine:
        store = SqlTemplateStore(engine)
        await store.seed(packaged_templates(), at=AT)
        async with writer(engine).begin():
            assert await store.seed(packaged_templates(), at=AT) == 0


async def test_a_row_whose_grammar_does_not_parse_is_left_out_and_named(
    engine: AsyncEngine,
) -> None:
    store = SqlTemplateStore(engine)
    await store.seed(packaged_templates(), at=AT)
    await _sql(
        engine,
        "UPDATE prompt_templates SET grammar = 'root ::= \"{{prompt}}\" nosuchrule' "
        "WHERE template_name = 'enhancement_sdxl_sfw'",
    )
    with structlog.testing.capture_logs() as logs:
        names = {template.template_name for template in await store.active()}
    assert "enhancement_sdxl_sfw" not in names
    assert len(names) == len(packaged_templates()) - 1
    invalid = [event for event in logs if event["event"] == "template_row_invalid"]
    assert [event["fields"] for event in invalid] == [["grammar"]]
