"""What a write by hand cannot do to the record, whichever columns it sets."""

import pytest

from onbook.adapters.database.chain import upgrade
from onbook.adapters.database.postgres_url import is_postgres
from onbook.adapters.database.schema import migrate
from raw_book import (
    RawBook,
    Refused,
    edit,
    insert,
    insert_into,
    raw_book,
    the_epoch,
    the_events,
    the_row,
    the_versions,
)

BAD_NAMES = [
    *("", ".x", "-x", "_x", "a b", "a/b", "a\n", "é", "aé", "ª", "x" * 129, "a'b", "[a]", "a*"),
]


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_a_name_that_no_path_could_hold_is_refused(book: RawBook, name: str) -> None:
    with pytest.raises(Refused, match="template_name must have 1 to 128 letters"):
        book.run(insert(name))
    assert the_epoch(book) == 0


@pytest.mark.parametrize("name", ["a", "0", "A_b.c-9", "x" * 128])
def test_a_name_that_is_one_is_taken(book: RawBook, name: str) -> None:
    book.run(insert(name))
    assert the_row(book, "version", name) == (1,)


def test_a_name_from_before_the_rule_stays_and_can_be_edited(bare_url: str) -> None:
    upgrade(bare_url, "2026_11_22_first_tables")
    with raw_book(bare_url) as book:
        book.run(insert("an old name"))
    migrate(bare_url)
    with raw_book(bare_url) as book:
        book.run(edit("system_prompt = 'Edited.'"))
        book.run(edit("is_active = false, template_name = 'an old name'"))
        assert the_versions(book, "version", "an old name") == [(1,), (2,)]
        assert len(the_events(book, "1", "an old name")) == 3


def _event(book: RawBook, event_id: str, action: str, to_version: int | None) -> None:
    book.run(
        insert_into(
            "template_events",
            event_id=event_id,
            template_name="mine",
            action=action,
            actor="key:me",
            to_version=to_version,
        )
    )


def test_an_old_event_explains_nothing(book: RawBook) -> None:
    book.run(insert())
    book.run("UPDATE prompt_templates SET system_prompt = 'Second.'")
    ((first,), _) = the_events(book, "event_id")
    _event(book, "old", "activated", 3)
    _event(book, "new", "drafted", 9)
    for event_id, version in ((first, 10), ("old", 11)):
        book.run(edit(f"system_prompt = '{event_id}', event_id = '{event_id}'"))
        assert the_row(book, "event_id, version") == (
            *the_events(book, "event_id")[-1],
            version,
        )
        assert the_events(book, "action, actor, to_version")[-1] == (
            ("activated", book.actor, version)
        )
    book.run("UPDATE prompt_templates SET system_prompt = 'Last.'")
    for version in (1, 2, 10, 11):
        with pytest.raises(Refused, match="a version that was live is never deleted"):
            book.run(f"DELETE FROM prompt_template_versions WHERE version = {version}")  # noqa: S608 - a test's own words


@pytest.mark.parametrize(
    ("action", "to_version", "change"),
    [
        ("activated", 3, "system_prompt = 'x', version = 2"),
        ("activated", None, "system_prompt = 'x', version = 2"),
        # Of another number than the one it asks for, the event does not tell.
        ("activated", 2, "system_prompt = 'x'"),
        ("activated", 1, "system_prompt = 'x'"),
        ("drafted", 2, "system_prompt = 'x', version = 2"),
        ("activated", 1, "is_active = false"),
    ],
)
def test_an_event_that_says_something_else_explains_nothing(
    book: RawBook, action: str, to_version: int | None, change: str
) -> None:
    book.run(insert())
    _event(book, "e", action, to_version)
    book.run(edit(f"{change}, event_id = 'e', updated_by = 'key:me'"))
    assert [actor for (actor,) in the_events(book, "actor")] == [book.actor, "key:me", book.actor]
    assert the_row(book, "event_id") == the_events(book, "event_id")[-1]
    version, active = the_row(book, "version, is_active")
    assert the_events(book, "to_version")[-1] == (version if active else None,)


def test_the_newest_event_that_says_what_is_done_explains_it(book: RawBook) -> None:
    book.run(insert())
    for number, (action, to_version, change) in enumerate(
        [
            ("activated", 2, "system_prompt = 'x', version = 2"),
            ("deactivated", None, "is_active = false"),
            ("drafted", 7, "system_prompt = 'y', version = 7"),
            ("activated", 7, "is_active = true"),
        ],
        start=2,
    ):
        _event(book, f"e{number}", action, to_version)
        book.run(edit(f"{change}, event_id = 'e{number}'"))
        assert len(the_events(book, "1")) == number
        assert the_row(book, "event_id, changed_epoch") == (f"e{number}", number)


def test_what_a_row_held_is_never_deleted(book: RawBook) -> None:
    book.run(insert(is_active=False))
    book.run("UPDATE prompt_templates SET system_prompt = 'Held, not served.'")
    book.run("UPDATE prompt_templates SET system_prompt = 'Next.'")
    with pytest.raises(Refused, match="never deleted"):
        book.run("DELETE FROM prompt_template_versions WHERE version = 2")


def _split(**changes: object) -> str:
    return insert_into(
        "template_splits",
        **{
            "split_id": "s",
            "template_name": "mine",
            "candidate_version": 1,
            "percent": 10,
            "started_by": "me",
            "reason": "try",
            "started_at": "2026-01-01T00:00:00.000000+00:00",
            **changes,
        },
    )


def _draft(book: RawBook, version: int) -> None:
    columns = "model_type, use_case, content_mode, system_prompt, token_limit, token_unit,"
    columns += " max_tokens, sampling, examples, examples_sent, variables, description, tests"
    book.run(
        f"INSERT INTO prompt_template_versions (template_name, version, author, {columns})"  # noqa: S608 - a test's own words
        f" SELECT template_name, {version}, 'me', {columns} FROM prompt_templates"
    )


def test_the_candidate_of_a_split_is_a_version_of_the_template(book: RawBook) -> None:
    book.run(insert())
    book.run(insert("other", version=2))
    for changes in ({"candidate_version": 2}, {"template_name": "none"}):
        with pytest.raises(Refused, match="candidate_version must be a version of this template"):
            book.run(_split(**changes))
    assert the_epoch(book) == 2
    book.run(_split())


@pytest.mark.parametrize(
    "change",
    [
        "candidate_version = 2",
        "template_name = 'other'",
        "split_id = 't'",
        "started_by = 'x'",
        "reason = 'x'",
        "started_at = '2020-01-01T00:00:00.000000+00:00'",
    ],
)
def test_of_a_split_only_the_share_and_the_end_change(book: RawBook, change: str) -> None:
    book.run(insert())
    book.run(_split())
    with pytest.raises(Refused, match="of a split only percent, ended_at and outcome change"):
        book.run(edit(change, table="template_splits"))
    book.run("UPDATE template_splits SET percent = 11")
    end = "ended_at = '2026-01-02T00:00:00.000000+00:00', outcome = 'aborted'"
    book.run(edit(end, table="template_splits"))


def test_the_candidate_of_a_split_is_never_deleted(book: RawBook) -> None:
    book.run(insert())
    _draft(book, 2)
    _draft(book, 3)
    book.run(_split(candidate_version=2))
    with pytest.raises(Refused, match="a version that was live is never deleted"):
        book.run("DELETE FROM prompt_template_versions WHERE version = 2")
    book.run("DELETE FROM prompt_template_versions WHERE version = 3")


def test_the_next_number_always_fits(book: RawBook) -> None:
    book.run(insert(version=999_999_999))
    for change in ("version = 1000000001", "version = 2147483647, system_prompt = 'x'"):
        with pytest.raises(Refused, match="version must be at most 1000000000"):
            book.run(edit(change))
    for number in range(1_000_000_000, 1_000_000_004):
        grows = number % 2 == 0
        book.run(edit(f"system_prompt = '{number}'" + ", version = version + 1" * grows))
        assert the_row(book, "version") == (number,)


def test_a_version_too_high_from_before_the_rule_is_mended(bare_url: str) -> None:
    upgrade(bare_url, "2026_11_22_first_tables")
    with raw_book(bare_url) as book:
        book.run(insert(version=2_147_483_647))
    migrate(bare_url)
    with raw_book(bare_url) as book:
        assert the_versions(book, "version") == [(1_000_000_000,)]
        book.run("UPDATE prompt_templates SET system_prompt = 'x', version = version + 1")
        assert the_row(book, "version") == (1_000_000_001,)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM template_epoch",
        "UPDATE template_epoch SET epoch = epoch - 1",
        "UPDATE template_epoch SET epoch = 0",
    ],
)
def test_the_epoch_never_goes_down_or_away(book: RawBook, statement: str) -> None:
    book.run(insert())
    with pytest.raises(Refused, match="template_epoch is kept by the database"):
        book.run(statement)
    assert the_epoch(book) == 1
    book.run("UPDATE template_epoch SET epoch = epoch + 1")


def test_the_epoch_is_not_replaced_or_truncated(book: RawBook) -> None:
    book.run(insert())
    statement = (
        "TRUNCATE template_epoch"
        if is_postgres(book.url)
        else "INSERT OR REPLACE INTO template_epoch VALUES (1, 0)"
    )
    with pytest.raises(Refused, match="template_epoch is kept by the database"):
        book.run(statement)
    assert the_epoch(book) == 1
