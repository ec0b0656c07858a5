import pytest

from raw_book import (
    RawBook,
    Refused,
    edit,
    insert,
    insert_into,
    literal,
    the_epoch,
    the_events,
    the_row,
    the_versions,
)


def _version(book: RawBook, version: int) -> None:
    book.run(
        insert_into(
            "prompt_template_versions",
            template_name="mine",
            version=version,
            model_type="m",
            use_case="chat",
            content_mode="sfw",
            system_prompt="Draft.",
            token_limit=75,
            token_unit="model",
            max_tokens=256,
            sampling="{}",
            examples="[]",
            examples_sent=0,
            variables="[]",
            description="",
            tests="[]",
            author="me",
        )
    )


def _event(book: RawBook, action: str, version: int) -> None:
    book.run(
        insert_into(
            "template_events", template_name="mine", action=action, actor="me", to_version=version
        )
    )


def test_a_version_never_changes(book: RawBook) -> None:
    book.run(insert())
    for change in (
        "system_prompt = 'Other.'",
        "author = 'other'",
        "version = 9",
        "created_at = '2020-01-01T00:00:00.000000+00:00'",
        "origin_version = 1",
        f"content_sha256 = '{'a' * 64}', reason = 'sealed'",
        "content_sha256 = NULL",
    ):
        with pytest.raises(Refused, match="a version of a template never changes"):
            book.run(edit(change, table="prompt_template_versions"))


def test_a_missing_hash_is_filled_in_once(book: RawBook) -> None:
    book.run(insert())
    book.run(edit(f"content_sha256 = '{'a' * 64}'", table="prompt_template_versions"))
    assert the_versions(book, "content_sha256") == [("a" * 64,)]
    with pytest.raises(Refused, match="never changes"):
        book.run(edit(f"content_sha256 = '{'b' * 64}'", table="prompt_template_versions"))
    assert the_epoch(book) == 1


@pytest.mark.parametrize(
    "action", ["created", "activated", "rolled_back", "split_started", "split_promoted"]
)
def test_a_version_that_was_live_is_never_deleted(book: RawBook, action: str) -> None:
    _version(book, 3)
    _version(book, 4)
    _event(book, "drafted", 3)
    _event(book, action, 4)
    book.run("DELETE FROM prompt_template_versions WHERE version = 3")
    with pytest.raises(Refused, match="a version that was live is never deleted"):
        book.run("DELETE FROM prompt_template_versions WHERE version = 4")
    assert the_versions(book, "version") == [(4,)]


def test_the_version_of_a_row_is_never_deleted(book: RawBook) -> None:
    book.run(insert())
    book.run("UPDATE prompt_templates SET is_active = false")
    book.run("UPDATE prompt_templates SET system_prompt = 'Never served.'")
    assert the_events(book, "action, to_version")[-1] == ("drafted", 2)
    with pytest.raises(Refused, match="never deleted"):
        book.run("DELETE FROM prompt_template_versions WHERE version = 2")


def test_an_event_never_changes(book: RawBook) -> None:
    book.run(insert())
    for statement in ("UPDATE template_events SET actor = 'x'", "DELETE FROM template_events"):
        with pytest.raises(Refused, match="an event of a template is never changed or deleted"):
            book.run(statement)


def _split(book: RawBook, split_id: str, *, ended: bool = False) -> None:
    book.run(
        insert_into(
            "template_splits",
            split_id=split_id,
            template_name="mine",
            candidate_version=2,
            percent=10,
            started_by="me",
            reason="try",
            started_at="2026-01-01T00:00:00.000000+00:00",
            ended_at="2026-01-02T00:00:00.000000+00:00" if ended else None,
            outcome="aborted" if ended else None,
        )
    )


END = "ended_at = '2026-01-02T00:00:00.000000+00:00', outcome = 'promoted'"


def test_every_change_of_a_split_counts(book: RawBook) -> None:
    _version(book, 2)
    _split(book, "s1")
    assert the_epoch(book) == 1
    book.run("UPDATE template_splits SET percent = 20")
    assert the_epoch(book) == 2
    book.run(edit(f"{END}", table="template_splits"))
    assert the_epoch(book) == 3
    _split(book, "s2")
    assert the_epoch(book) == 4


def test_one_split_of_a_template_runs_and_an_ended_one_stays(book: RawBook) -> None:
    _version(book, 2)
    _split(book, "s1")
    with pytest.raises(Refused, match="uq_template_splits_running"):
        _split(book, "s2")
    _split(book, "s3", ended=True)
    for percent in (0, 100):
        with pytest.raises(Refused):
            book.run(edit(f"percent = {percent}", table="template_splits", where="split_id = 's1'"))
    with pytest.raises(Refused, match="ended"):
        book.run("UPDATE template_splits SET outcome = 'promoted' WHERE split_id = 's1'")
    book.run(edit(f"{END}", table="template_splits", where="split_id = 's1'"))
    with pytest.raises(Refused, match="a split that ended never changes"):
        book.run("UPDATE template_splits SET ended_at = NULL, outcome = NULL")
    with pytest.raises(Refused, match="end a split instead of deleting it"):
        book.run("DELETE FROM template_splits")


BROKEN = [
    ("use_case", "nothing", "use_case must be one of enhancement, chat, generation, playground"),
    ("token_unit", "words", "token_unit must be one of clip, umt5, model, chars"),
    ("token_limit", 0, "token_limit must be at least 1"),
    ("max_tokens", 0, "max_tokens must be from 1 to 32768"),
    ("max_tokens", 32769, "max_tokens must be from 1 to 32768"),
    ("system_prompt", "ß" * 100_001, "system_prompt must have at most 100000 characters"),
]


def test_an_insert_that_breaks_a_rule_is_refused(book: RawBook) -> None:
    for column, value, sentence in [
        *BROKEN,
        ("version", 0, "version must be at least 1"),
        ("version", 1_000_000_001, "version must be at most 1000000000"),
    ]:
        with pytest.raises(Refused, match=sentence):
            book.run(insert(**{column: value}))
    assert the_epoch(book) == 0
    assert the_versions(book, "1") == the_events(book, "1") == []


@pytest.mark.parametrize(("column", "value", "sentence"), BROKEN, ids=lambda value: str(value)[:20])
def test_an_edit_that_breaks_a_rule_is_refused(
    book: RawBook, column: str, value: object, sentence: str
) -> None:
    book.run(insert())
    with pytest.raises(Refused, match=sentence):
        book.run(edit(f"{column} = {literal(value)}"))
    assert the_epoch(book) == len(the_versions(book, "1")) == len(the_events(book, "1")) == 1
    assert the_row(book, "version") == (1,)


def test_the_limits_themselves_are_allowed(book: RawBook) -> None:
    book.run(insert(token_limit=1, max_tokens=1, system_prompt="ß" * 100_000))
    book.run("UPDATE prompt_templates SET max_tokens = 32768")
    assert the_row(book, "version") == (2,)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("system_prompt = 'a' || char(0) || 'b'", "system_prompt holds a NUL character"),
        ("user_format = char(0)", "user_format holds a NUL character"),
        ("system_prompt = x'ff'", "system_prompt must be a text"),
        ("sampling = '{'", "sampling must be valid JSON"),
        ("examples = 'x'", "examples must be valid JSON"),
        ("variables = ''", "variables must be valid JSON"),
        ("tests = 'nul'", "tests must be valid JSON"),
        ("token_limit = 'many'", "token_limit must be a whole number"),
        ("token_limit = 1.5", "token_limit must be a whole number"),
        ("version = '99x'", "version must be a whole number"),
        ("is_active = 2", "is_active must be true or false"),
        ("is_active = 'yes'", "is_active must be true or false"),
    ],
)
def test_sqlite_checks_what_postgres_has_in_its_types(
    sqlite_book: RawBook, change: str, sentence: str
) -> None:
    sqlite_book.run(insert())
    with pytest.raises(Refused, match=sentence):
        sqlite_book.run(edit(change))
