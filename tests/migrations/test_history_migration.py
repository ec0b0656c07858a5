"""From the first revision to the history and back, with data in it."""

from pathlib import Path

import pytest

from onbook.adapters.database.chain import downgrade, upgrade
from onbook.adapters.database.postgres_url import is_postgres
from onbook.adapters.database.schema import migrate
from onbook.adapters.database.sqlite_file import sqlite_url
from raw_book import (
    RawBook,
    Row,
    edit,
    insert,
    insert_into,
    literal,
    raw_book,
    the_epoch,
    the_events,
    the_row,
    the_versions,
)

FIRST = "2026_11_22_first_tables"
AT = "2026-11-22T10:00:00.000000+00:00"
LATER = "2026-11-22T11:00:00.000000+00:00"
CONTENT = (
    "template_name, version, model_type, use_case, content_mode, target, system_prompt,"
    " user_format, token_limit, token_unit, max_tokens, sampling, examples, examples_sent,"
    " grammar, variables, negative_prompt, description, is_active, updated_by, change_reason,"
    " created_at, content_sha256"
)


def _first(url: str) -> None:
    upgrade(url, FIRST)
    with raw_book(url) as book:
        book.run(
            insert(
                "seeded",
                version=3,
                updated_by="seed",
                change_reason="packaged template",
                updated_at=LATER,
                created_at=AT,
                content_sha256="a" * 64,
                examples='[{"user": "ü", "assistant": "x"}]',
                grammar='root ::= "x"',
            )
        )
        book.run(insert("by_hand", is_active=False, updated_at=AT, created_at=AT))
        book.run(
            insert_into(
                "enhancement_logs",
                id="l1",
                request_id="r1",
                created_at=AT,
                function="enhance-prompt",
                caller="me",
                content_mode="sfw",
                attempts=1,
                execution_time_ms=1,
                integrity_status="verified",
                prompt_sha256="",
            )
        )


def _rows(book: RawBook) -> list[Row]:
    return book.rows(f"SELECT {CONTENT} FROM prompt_templates ORDER BY template_name")  # noqa: S608 - names of ours


def test_what_is_there_gets_its_history(bare_url: str) -> None:
    _first(bare_url)
    with raw_book(bare_url) as book:
        before = _rows(book)
        epoch = the_epoch(book)
    migrate(bare_url)
    with raw_book(bare_url) as book:
        assert _rows(book) == before
        assert the_versions(book, "version, author, reason, content_sha256, grammar", "seeded") == [
            (3, "seed", "packaged template", "a" * 64, 'root ::= "x"')
        ]
        assert the_events(book, "action, actor, reason, from_version, to_version", "seeded") == [
            ("created", "seed", "packaged template", None, 3)
        ]
        assert the_versions(book, "version, author, reason", "by_hand") == [(1, "migration", None)]
        assert the_events(book, "actor, to_version", "by_hand") == [("migration", 1)]
        for name in ("seeded", "by_hand"):
            assert the_row(book, "event_id", name) == the_events(book, "event_id", name)[0]
            assert the_row(book, "changed_epoch", name) == (epoch + 1,)
            assert the_row(book, "updated_at", name) == the_versions(book, "created_at", name)[0]
        assert the_epoch(book) == epoch + 1
        assert book.rows("SELECT template_name FROM template_events ORDER BY position") == [
            ("by_hand",),
            ("seeded",),
        ]
        assert book.rows("SELECT request_id, template_split FROM enhancement_logs") == [
            ("r1", None)
        ]
        # The triggers take over from here.
        book.run(edit("system_prompt = 'Edited.'", where="template_name = 'seeded'"))
        assert the_versions(book, "version, base_version", "seeded") == [(3, None), (4, 3)]


def test_an_empty_book_has_an_empty_history(bare_url: str) -> None:
    migrate(bare_url)
    with raw_book(bare_url) as book:
        assert the_epoch(book) == 0
        assert book.rows("SELECT 1 FROM template_events") == []


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("use_case", "'nothing'"),
        ("token_unit", "'words'"),
        ("token_limit", "-1"),
        ("max_tokens", "0"),
        ("system_prompt", literal("x" * 100_001)),
        ("version", "0"),
    ],
)
def test_a_row_that_breaks_todays_rules_comes_along_and_can_be_mended(
    bare_url: str, column: str, value: str
) -> None:
    _first(bare_url)
    with raw_book(bare_url) as book:
        book.run(insert(**{column: "@"}).replace("'@'", value))
    _mended(bare_url, column)


@pytest.mark.parametrize(
    "change",
    [
        "sampling = '{'",
        "version = 'many'",
        "version = 9223372036854775807",
        "token_limit = 'many'",
        "system_prompt = x'ff'",
        "system_prompt = 'a' || char(0)",
        "updated_at = 'yesterday'",
        "is_active = 2",
    ],
)
def test_what_sqlite_let_in_comes_along_too(tmp_path: Path, change: str) -> None:
    url = sqlite_url(tmp_path / "onbook.db")
    column, _, value = change.partition(" = ")
    _first(url)
    with raw_book(url) as book:
        book.run(insert(**{column: "@"}).replace("'@'", value))
    _mended(url, column)


def _mended(url: str, column: str) -> None:
    migrate(url)
    good = {
        "use_case": "'chat'",
        "token_unit": "'clip'",
        "system_prompt": "'Good.'",
        "sampling": "'{}'",
        "updated_at": literal(LATER),
        "is_active": "true",
        "version": "version + 1",
    }.get(column, "9")
    with raw_book(url) as book:
        assert len(the_versions(book, "1")) == len(the_events(book, "1")) == 1
        ((created,),) = the_versions(book, "created_at")
        assert "yesterday" not in str(created)
        # A broken row can be put out of service, and mended.
        book.run(edit("is_active = false", where="template_name = 'mine'"))
        book.run(edit(f"{column} = {good}", where="template_name = 'mine'"))
        version, active = the_row(book, "version, is_active")
        assert isinstance(version, int)
        assert version >= 1
        assert active == (column == "is_active")


def test_down_with_data_and_up_again(bare_url: str) -> None:
    _first(bare_url)
    migrate(bare_url)
    with raw_book(bare_url) as book:
        book.run(edit("system_prompt = 'Edited.', tests = '[1]'", where="template_name = 'seeded'"))
        book.run(
            insert_into(
                "template_splits",
                split_id="s",
                template_name="seeded",
                candidate_version=4,
                percent=5,
                started_by="me",
                reason="try",
                started_at=AT,
            )
        )
        before = _rows(book)
        epoch = the_epoch(book)
    downgrade(bare_url, FIRST)
    with raw_book(bare_url) as book:
        assert _rows(book) == before
        assert the_epoch(book) == epoch
        tables = (
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
            if is_postgres(bare_url)
            else "SELECT name FROM sqlite_master WHERE type = 'table'"
        )
        assert {name for (name,) in book.rows(tables)} == {
            "access_keys",
            "alembic_version",
            "enhancement_logs",
            "enhancement_texts",
            "prompt_templates",
            "template_epoch",
        }
        if not is_postgres(bare_url):
            # The first revision's own triggers are back.
            book.run(edit("system_prompt = 'Old way.'", where="template_name = 'seeded'"))
            assert the_row(book, "version", "seeded") == (5,)
            assert the_epoch(book) > epoch
    migrate(bare_url)
    with raw_book(bare_url) as book:
        assert len(the_versions(book, "1", "seeded")) == 1
        assert the_row(book, "tests", "seeded") == ("[]",)


def test_down_leaves_the_first_revision_as_it_was(bare_url: str) -> None:
    upgrade(bare_url, FIRST)
    before = _columns(bare_url)
    migrate(bare_url)
    assert _columns(bare_url) != before
    downgrade(bare_url, FIRST)
    assert _columns(bare_url) == before


def test_an_operators_own_trigger_stays(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "onbook.db")
    upgrade(url, FIRST)
    with raw_book(url) as book:
        book.run(insert())
        book.run("CREATE TABLE audit (name TEXT)")
        book.run(
            'CREATE TRIGGER "their own" AFTER UPDATE ON prompt_templates BEGIN'
            " INSERT INTO audit VALUES (NEW.template_name); END"
        )
    for is_up in (True, False, True):
        if is_up:
            migrate(url)
        else:
            downgrade(url, FIRST)
        with raw_book(url) as book:
            book.run("DELETE FROM audit")
            book.run(edit("system_prompt = 'Edited ' || version"))
            assert book.rows("SELECT DISTINCT name FROM audit") == [("mine",)]
            triggers = [
                name for (name,) in book.rows("SELECT name FROM sqlite_master WHERE type='trigger'")
            ]
            assert ("prompt_templates_stamp" in triggers) == is_up
            assert ("prompt_templates_version_up" in triggers) != is_up


def _columns(url: str) -> list[Row]:
    with raw_book(url) as book:
        if is_postgres(url):
            return book.rows(
                "SELECT table_name::text, column_name::text, data_type, column_default"
                " FROM information_schema.columns WHERE table_schema = 'public'"
                " ORDER BY 1, ordinal_position"
            )
        return [
            (kind, name, " ".join(str(sql).replace(" ,", ",").split()))
            for kind, name, sql in book.rows(
                "SELECT type, name, coalesce(sql, '') FROM sqlite_master ORDER BY type, name"
            )
        ]
