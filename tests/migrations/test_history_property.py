"""Whatever is done to the book by hand, its history holds."""

from itertools import count
from typing import Final

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onbook.adapters.database.migrations.book_rules import RECORDED
from raw_book import (
    RawBook,
    Refused,
    Row,
    edit,
    insert,
    literal,
    the_epoch,
    the_events,
    the_row,
    the_versions,
)

CONTENT: Final = ", ".join(RECORDED)
NAMES: Final = count()

CHANGES: Final = st.one_of(
    st.builds("system_prompt = 'text {}'".format, st.integers(0, 2)),
    st.builds("system_prompt = 'text {}', version = version + 1".format, st.integers(0, 2)),
    st.builds("version = version + {}".format, st.integers(-1, 3)),
    st.builds("token_limit = {}".format, st.integers(-1, 3)),
    st.builds("is_active = {}".format, st.booleans()),
    st.builds("is_active = {}, description = 'd{}'".format, st.booleans(), st.integers(0, 1)),
    st.sampled_from(["updated_by = 'me'", "change_reason = 'why'", "content_sha256 = 'x'"]),
)
STEPS: Final = st.lists(st.one_of(CHANGES, st.just("draft"), st.just("delete")), max_size=12)


@settings(
    max_examples=30,
    deadline=None,
    # The book is shared; each example has a template of its own.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=STEPS)
def test_the_history_of_any_sequence_of_edits_holds(book: RawBook, steps: list[str]) -> None:
    name = f"template_{next(NAMES)}"
    book.run(insert(name))
    seen = _versions(book, name)
    for step in steps:
        _check_step(book, name, step, seen)
        seen = _versions(book, name)


def _check_step(book: RawBook, name: str, step: str, before: dict[object, Row]) -> None:
    row, epoch, events = _row(book, name), the_epoch(book), len(the_events(book, "1", name))
    try:
        book.run(_statement(name, step))
        refused = False
    except Refused:
        refused = True
    after = _versions(book, name)
    # Immutable, and none is lost but a draft.
    lost = before.keys() - after.keys()
    assert all(after[version] == before[version] for version in before.keys() - lost)
    assert step == "delete" or not lost
    assert not lost & _ever_live(book, name)
    # What is live is what its version says.
    now = _row(book, name)
    assert after[now[0]] == now[2:]
    # Each change that matters has one event and one epoch; nothing else has.
    changed = now != row
    assert the_epoch(book) == epoch + changed
    assert len(the_events(book, "1", name)) == events + changed
    if changed:
        assert not refused
        assert the_row(book, "changed_epoch", name) == (epoch + 1,)
        # What is taken out of service leads to no version.
        out = bool(row[1]) and not now[1]
        assert the_events(book, "event_id, from_version, to_version", name)[-1] == (
            (*the_row(book, "event_id", name), row[0], None if out else now[0])
        )
    version, previous = now[0], row[0]
    assert isinstance(version, int)
    assert isinstance(previous, int)
    assert version > previous if now[2:] != row[2:] else version >= previous


def _statement(name: str, step: str) -> str:
    where = f"template_name = {literal(name)}"
    highest = f"(SELECT max(version) FROM prompt_template_versions WHERE {where})"  # noqa: S608 - names of ours
    if step == "delete":
        return f"DELETE FROM prompt_template_versions WHERE {where} AND version = {highest}"  # noqa: S608 - names of ours
    if step == "draft":
        like = CONTENT.replace("description", "'a draft'")
        return (
            f"INSERT INTO prompt_template_versions (template_name, version, author, {CONTENT})"  # noqa: S608 - names of ours
            f" SELECT template_name, {highest} + 1, 'me', {like}"
            f" FROM prompt_templates WHERE {where}"
        )
    return edit(step, where=where)


def _row(book: RawBook, name: str) -> Row:
    return the_row(book, f"version, is_active, {CONTENT}", name)


def _versions(book: RawBook, name: str) -> dict[object, Row]:
    rows = the_versions(book, f"version, {CONTENT}", name)
    found = {row[0]: row[1:] for row in rows}
    assert len(found) == len(rows)
    return found


def _ever_live(book: RawBook, name: str) -> set[object]:
    events = the_events(book, "action, to_version", name)
    return {version for action, version in events if action in ("created", "activated")}
