"""The book as gateways read it, on every adapter."""

import traceback
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog
from sqlalchemy import text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from onbook.adapters.database.engine import create_engine, writer
from onbook.adapters.database.sqlite_file import sqlite_path, sqlite_url
from onbook.adapters.database.tables import gateways
from onbook.adapters.database.template_library import SqlTemplateLibrary
from onbook.adapters.database.template_store import SqlTemplateStore
from onbook.adapters.files.packaged import packaged_templates
from onbook.domain.templates import Template, content_sha256
from onbook.ports.stores import StoreUnavailable, TemplateStore
from onbook.ports.template_library import TemplateFilter
from support_books import NAME, Book, book_at, book_on, template

AT = datetime(2026, 11, 22, tzinfo=UTC)
Make = Callable[..., Template]


@pytest.fixture
async def book(engine: AsyncEngine) -> AsyncIterator[Book]:
    async with book_on(engine) as book:
        yield book


async def _active(store: TemplateStore) -> list[Template]:
    return list((await store.changes(None)).active)


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
    assert await _active(template_store) == [base, first]


async def test_seeding_again_changes_nothing(
    template_store: TemplateStore, make_template: Make
) -> None:
    template = make_template()
    await template_store.seed([template], at=AT)
    before = await template_store.epoch()
    edited = make_template(system_prompt="Something else.")
    assert await template_store.seed([edited, edited], at=AT) == 0
    assert await _active(template_store) == [template]
    assert await template_store.epoch() == before


async def test_one_name_is_seeded_once(template_store: TemplateStore, make_template: Make) -> None:
    twice = [make_template(), make_template(system_prompt="Something else.")]
    assert await template_store.seed(twice, at=AT) == 1
    assert await _active(template_store) == [twice[0]]


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
    assert await _active(template_store) == [mine]
    assert await template_store.seed([theirs], at=AT) == 0


async def test_all_packaged_templates_can_be_seeded(template_store: TemplateStore) -> None:
    packaged = packaged_templates()
    assert await template_store.seed(packaged, at=AT) == len(packaged) > 0
    assert {item.template_name for item in await _active(template_store)} == {
        item.template_name for item in packaged
    }


async def test_a_seed_is_recorded_as_such(store_engine: AsyncEngine | None) -> None:
    async with book_on(store_engine) as book:
        (packaged, *_) = packaged_templates()
        name = packaged.template_name
        await book.store.seed([packaged], at=AT)
        (event,) = await book.library.events(None)
        assert (event.action, event.actor, event.template_name) == ("created", "seed", name)
        assert (event.from_version, event.to_version, event.created_at) == (None, 1, AT)
        (version,) = await book.library.versions(name)
        assert (version.author, version.state, version.created_at) == ("seed", "live", AT)
        assert version.content_sha256 == packaged.content_sha256
        row = await book.library.find(name)
        assert row is not None
        assert (row.updated_by, row.content_sha256) == ("seed", packaged.content_sha256)


async def test_a_seed_whose_name_is_only_a_draft_gets_the_next_number(
    store_engine: AsyncEngine | None, make_template: Make
) -> None:
    async with book_on(store_engine) as book:
        await book.draft("A draft of somebody.")
        assert await book.store.seed([make_template()], at=AT) == 1
        (live,) = await _active(book.store)
        assert live.version == 2
        states = [item.state for item in await book.library.versions(live.template_name)]
        assert states == ["live", "draft"]


async def test_a_seed_never_gets_the_number_of_a_discarded_draft(
    store_engine: AsyncEngine | None, make_template: Make
) -> None:
    async with book_on(store_engine) as book:
        await book.draft("A draft of somebody.")
        await _discard(book, 1)
        assert await book.store.seed([make_template()], at=AT) == 1
        assert [live.version for live in await _active(book.store)] == [2]


@pytest.mark.parametrize("to", ["version + 1", "version", "version + 2"])
@pytest.mark.parametrize("drafts", [1, 2])
async def test_a_raw_edit_never_gets_the_number_of_a_discarded_draft(
    book: Book, to: str, drafts: int
) -> None:
    await book.live("First.")
    for number in range(2, 2 + drafts):
        await book.draft(f"Draft {number}.", base=1)
        await _discard(book, number)
    await book.sql(f"UPDATE prompt_templates SET system_prompt = 'Raw.', version = {to}")  # noqa: S608 - from above
    (edited,) = await _active(book.store)
    assert (edited.version, edited.system_prompt) == (2 + drafts, "Raw.")
    # A draft's own text comes back under another number only.
    assert (await book.draft("Draft 2.", base=2 + drafts)).version == 3 + drafts


async def test_a_raw_insert_never_gets_the_number_of_a_discarded_draft(book: Book) -> None:
    await book.draft("First.")
    await book.draft("Second.")
    await _discard(book, 2)
    await book.sql(
        "INSERT INTO prompt_templates (template_name, model_type, use_case, content_mode,"
        " system_prompt, token_limit, version)"
        " VALUES ('enhancement_sdxl_sfw', 'm', 'chat', 'sfw', 'R.', 75, 2)"
    )
    (added,) = await _active(book.store)
    assert (added.version, added.system_prompt) == (3, "R.")


async def test_an_edit_in_memory_never_gets_the_number_of_a_discarded_draft() -> None:
    async with book_on(None) as book:
        assert book.memory is not None
        await book.live("First.")
        await book.draft("Second.", base=1)
        await _discard(book, 2)
        book.memory.put(template("Raw.", version=2))
        assert [live.version for live in await _active(book.store)] == [3]


async def _discard(book: Book, version: int) -> None:
    who = book.who()
    await book.library.discard(NAME, version, author=who.author, reason="no good", at=who.at)


async def test_a_raw_deactivation_is_recorded_like_any_other(book: Book) -> None:
    await book.live("First.")
    await book.sql("UPDATE prompt_templates SET is_active = false")
    (raw, *_) = await book.library.events(NAME)
    await book.sql("UPDATE prompt_templates SET is_active = true")
    who = book.who()
    await book.library.deactivate(NAME, author=who.author, reason=who.reason, at=who.at)
    (ours, *_) = await book.library.events(NAME)
    assert raw.actor != ours.actor
    for event in (raw, ours):
        assert (event.action, event.from_version, event.to_version) == ("deactivated", 1, None)


async def test_the_documented_statements_work_and_are_seen(book: Book, make_template: Make) -> None:
    store = book.store
    await store.seed([make_template()], at=AT)
    epoch = await store.epoch()
    await book.sql(
        "UPDATE prompt_templates SET system_prompt = 'New system prompt', version = version + 1 "
        "WHERE template_name = 'enhancement_sdxl_sfw';"
    )
    (edited,) = (await store.changes(epoch)).active
    assert (edited.version, edited.system_prompt) == (2, "New system prompt")
    assert edited.content_sha256 == content_sha256(edited) != make_template().content_sha256
    event = (await book.library.events(None))[0]
    assert (event.action, event.from_version, event.to_version) == ("activated", 1, 2)
    assert event.actor.startswith("sql:")
    assert await store.epoch() > epoch
    epoch = await store.epoch()
    await book.sql(
        "UPDATE prompt_templates SET is_active = false "
        "WHERE template_name = 'enhancement_sdxl_sfw';"
    )
    assert (await store.changes(epoch)).gone == ["enhancement_sdxl_sfw"]
    assert await _active(store) == []
    assert (await book.library.events(None))[0].action == "deactivated"


async def test_an_edit_that_forgets_the_version_gets_one(book: Book, make_template: Make) -> None:
    await book.store.seed([make_template()], at=AT)
    await book.sql("UPDATE prompt_templates SET system_prompt = 'Edited.'")
    (edited,) = await _active(book.store)
    assert edited.version == 2
    row = await book.library.find(edited.template_name)
    assert row is not None
    assert row.updated_at > AT
    await book.sql("UPDATE prompt_templates SET updated_by = 'me'")
    assert (await _active(book.store))[0].version == 2


async def test_a_raw_edit_takes_the_next_free_number(book: Book) -> None:
    await book.live("First.")
    await book.draft("A draft.", base=1)
    await book.sql("UPDATE prompt_templates SET system_prompt = 'Raw.', version = version + 1")
    (edited,) = await _active(book.store)
    assert edited.version == 3
    states = [item.state for item in await book.library.versions(edited.template_name)]
    assert states == ["live", "draft", "retired"]


async def test_a_raw_insert_needs_only_what_has_no_default(book: Book) -> None:
    await book.sql(
        "INSERT INTO prompt_templates (template_name, model_type, use_case, content_mode,"
        " system_prompt, token_limit) VALUES ('mine', 'm', 'chat', 'sfw', 'Hello.', 75)",
    )
    (template,) = await _active(book.store)
    assert (template.template_name, template.version, template.target) == ("mine", 1, None)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE prompt_templates SET version = version - 1",
        "UPDATE prompt_templates SET content_mode = 'other'",
        "DELETE FROM prompt_templates",
        (
            "INSERT INTO prompt_templates (template_name, model_type, use_case, content_mode,"
            " system_prompt, token_limit)"
            " VALUES ('twin', 'qwen_instruct', 'enhancement', 'sfw', 'x', 75)"
        ),
    ],
    ids=["version down", "unknown mode", "delete", "second active row for a universal key"],
)
async def test_the_database_refuses(book: Book, make_template: Make, statement: str) -> None:
    await book.store.seed([make_template(target=None)], at=AT)
    before = await book.state()
    with pytest.raises(
        Exception, match=r"content_mode|another template is active|never goes down|deactivate"
    ):
        await book.sql(statement)
    assert await book.state() == before


async def test_an_error_names_no_value(engine: AsyncEngine, make_template: Make) -> None:
    store = SqlTemplateStore(engine)
    # In two parts, since a traceback quotes this file.
    secret = "a text of" + " a customer"
    async with writer(engine).begin() as connection:
        await connection.execute(text("DROP TABLE template_epoch"))
    with pytest.raises(StoreUnavailable) as caught:
        await store.seed([make_template(system_prompt=secret)], at=AT)
    assert "INSERT" not in str(caught.value)
    assert secret not in "".join(traceback.format_exception(caught.value))
    assert secret not in str(caught.value.__context__)
    with pytest.raises(StoreUnavailable, match="tables are missing"):
        await store.epoch()


async def test_an_epoch_that_was_lost_is_said(book: Book) -> None:
    assert book.engine is not None
    guard = "DROP TRIGGER template_epoch_refuse_delete"
    if book.engine.dialect.name == "postgresql":
        guard = "DROP TRIGGER refuse_delete ON template_epoch"
    await book.sql(guard)
    await book.sql("DELETE FROM template_epoch")
    for call in (book.store.epoch, lambda: book.store.changes(None)):
        with pytest.raises(StoreUnavailable, match="epoch"):
            await call()


async def test_a_database_that_moves_away_and_back(sqlite_file: str, make_template: Make) -> None:
    path = sqlite_path(sqlite_file)
    away = path.with_name("away.db")
    async with book_at(sqlite_file) as book:
        await book.store.seed([make_template()], at=AT)
        path.rename(away)
        with pytest.raises(StoreUnavailable, match="missing"):
            await book.store.epoch()
        with pytest.raises(StoreUnavailable, match="missing"):
            await book.store.changes(None)
        with pytest.raises(StoreUnavailable, match="missing"):
            await book.store.seed([make_template(template_name="new", target=None)], at=AT)
        assert not path.exists()
        away.rename(path)
        assert len(await _active(book.store)) == 1


async def test_a_database_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "text.db"
    path.write_text("This is not a database, by any measure. " * 200)
    async with book_at(sqlite_url(path)) as book:
        with pytest.raises(StoreUnavailable, match="not a SQLite database"):
            await book.store.changes(None)


async def test_every_connection_has_the_pragmas(sqlite_file: str) -> None:
    engine = create_engine(sqlite_file)
    async with engine.connect() as first, engine.connect() as second:
        for connection in (first, second):
            found = [
                (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar()
                for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            ]
            assert found == ["wal", 2, 1, 5000]
    await engine.dispose()


async def test_a_writer_takes_the_lock_at_the_beginning(sqlite_file: str) -> None:
    async with book_at(sqlite_file, busy_timeout_s=0.0) as book:
        assert book.engine is not None
        async with writer(book.engine).begin(), book.engine.connect() as reader:
            assert (await reader.exec_driver_sql("SELECT 1")).scalar() == 1
            with pytest.raises(StoreUnavailable, match="locked"):
                await book.store.seed(packaged_templates()[:1], at=AT)


async def test_seeding_what_is_there_waits_for_nobody(sqlite_file: str) -> None:
    async with book_at(sqlite_file, busy_timeout_s=0.0) as book:
        await book.store.seed(packaged_templates(), at=AT)
        assert book.engine is not None
        async with writer(book.engine).begin():
            assert await book.store.seed(packaged_templates(), at=AT) == 0


@pytest.mark.parametrize(
    ("column", "value", "fields"),
    [
        ("sampling", "'[]'", ("sampling",)),
        ("examples", "'{}'", ("examples",)),
        ("variables", "'{}'", ("variables",)),
        ("system_prompt", "' '", ("system_prompt",)),
        ("system_prompt", "'{{nobody}}'", ("system_prompt",)),
        ("grammar", "'root ::= \"{{prompt}}\" nosuchrule'", ("grammar",)),
        ("examples_sent", "5", ("examples_sent",)),
    ],
)
async def test_a_broken_row_does_not_take_the_others_down(
    book: Book, make_template: Make, column: str, value: str, fields: tuple[str, ...]
) -> None:
    good = make_template()
    broken = make_template(template_name="broken", target="wan", examples=(), examples_sent=0)
    await book.store.seed([good, broken], at=AT)
    await book.sql(
        f"UPDATE prompt_templates SET {column} = {value} WHERE template_name = 'broken'"  # noqa: S608 - the literals above
    )
    with structlog.testing.capture_logs() as logs:
        changes = await book.store.changes(None)
        assert list(changes.active) == [broken, good]
        assert changes.stale == {"broken": 2}
        await book.store.changes(None)
    (event,) = [item for item in logs if item["log_level"] == "warning"]
    assert event["event"] == "template_row_invalid"
    assert (event["template_name"], event["version"]) == ("broken", 2)
    assert event["fields"] == fields
    assert "Describe the scene" not in str(event)
    row = await book.library.find("broken")
    assert row is not None
    assert row.template is None
    assert row.problem


async def test_bytes_that_are_no_text_are_never_served(
    sqlite_file: str, make_template: Make
) -> None:
    async with book_at(sqlite_file) as book:
        good = make_template()
        await book.store.seed([good], at=AT)
        await book.sql("UPDATE prompt_templates SET system_prompt = CAST(x'ff41' AS TEXT)")
        assert list((await book.store.changes(None)).active) == [good]
        row = await book.library.find(good.template_name)
        assert row is not None
        assert row.template is None


async def test_a_gateway_that_died_is_forgotten_after_a_day(engine: AsyncEngine) -> None:
    dead = SqlTemplateStore(engine)
    await dead.acknowledge("dead", name="a", epoch=1, active_sha256="0" * 64)
    async with writer(engine).begin() as connection:
        await connection.execute(
            update(gateways).values(seen_at=datetime.now(UTC) - timedelta(days=2))
        )
    alive = SqlTemplateStore(engine)
    await alive.acknowledge("alive", name="b", epoch=1, active_sha256="0" * 64)
    seen = await SqlTemplateLibrary(engine).gateways()
    assert [gateway.gateway_id for gateway in seen] == ["alive"]


async def test_only_what_can_be_written_again_is_not_synced(sqlite_file: str) -> None:
    engine = create_engine(sqlite_file, pool_size=1)
    levels = []
    for synced in (True, False, False, True):
        async with writer(engine, synced=synced).begin() as connection:
            found = await connection.exec_driver_sql("PRAGMA synchronous")
            levels.append(found.scalar_one())
    await engine.dispose()
    full, normal = 2, 1
    assert levels == [full, normal, normal, full]


async def test_a_time_that_is_none_takes_no_other_row_down(
    sqlite_file: str, make_template: Make
) -> None:
    engine = create_engine(sqlite_file)
    await SqlTemplateStore(engine).seed([make_template()], at=AT)
    async with writer(engine).begin() as connection:
        await connection.exec_driver_sql("UPDATE prompt_templates SET updated_at = 'now'")
    (row,) = await SqlTemplateLibrary(engine).list(TemplateFilter())
    await engine.dispose()
    assert row.updated_at == datetime.fromtimestamp(0, UTC)
