"""Two editors at the same moment, each with an engine of his own."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import AsyncExitStack

import pytest
from sqlalchemy.exc import DBAPIError

from onbook.adapters.database.engine import writer
from onbook.domain.errors import Conflict
from support_books import NAME, Book, book_at, template


@pytest.fixture
async def editors(url: str) -> AsyncIterator[tuple[Book, Book]]:
    async with book_at(url, busy_timeout_s=30) as first, book_at(url, busy_timeout_s=30) as second:
        yield first, second


async def _both(*calls: Awaitable[object]) -> tuple[list[object], list[BaseException]]:
    done = await asyncio.gather(*calls, return_exceptions=True)
    failed = [item for item in done if isinstance(item, BaseException)]
    return [item for item in done if not isinstance(item, BaseException)], failed


def _conflicts(failed: Sequence[BaseException]) -> list[str]:
    assert all(isinstance(error, Conflict) for error in failed), failed
    return [str(error) for error in failed]


async def test_of_two_activations_one_wins(editors: tuple[Book, Book]) -> None:
    first, second = editors
    await first.live("First.")
    for _ in range(5):
        mine, yours = await first.draft("Mine."), await second.draft("Yours.")
        drafted = (mine.version, yours.version)
        live = mine.base_version
        assert live is not None
        done, failed = await _both(
            first.activate(mine.version, live), second.activate(yours.version, live)
        )
        assert len(done) == 1
        (told,) = _conflicts(failed)
        assert "is live" in told
        row = await second.library.find(NAME)
        assert row is not None
        assert row.version in drafted
        states = [item.state for item in await first.library.versions(NAME)]
        assert states.count("live") == 1
    activated = [event for event in await first.library.events(NAME) if event.action == "activated"]
    assert len(activated) == 6


async def test_of_two_activations_of_one_new_draft_one_wins(editors: tuple[Book, Book]) -> None:
    first, second = editors
    await first.draft("First.")
    done, failed = await _both(first.activate(1, None), second.activate(1, None))
    assert len(done) == 1
    assert len(_conflicts(failed)) == 1
    assert len(await first.library.events(NAME)) == 2


async def test_of_two_templates_for_one_key_one_wins(editors: tuple[Book, Book]) -> None:
    first, second = editors
    await first.draft("First.")
    await first.draft("Second.", template_name="twin")
    done, failed = await _both(first.activate(1, None), second.activate(1, None, "twin"))
    assert len(done) == 1
    (told,) = _conflicts(failed)
    assert "is active for the same model type" in told
    assert len(await first.served()) == 1


async def test_drafts_made_together_get_numbers_of_their_own(editors: tuple[Book, Book]) -> None:
    first, second = editors
    drafts = [book.draft(f"Text {n}.") for n in range(4) for book in (first, second)]
    done, failed = await _both(*drafts)
    assert failed == []
    versions = await first.library.versions(NAME)
    assert [item.version for item in versions] == list(range(8, 0, -1))
    texts = {item.template.system_prompt for item in versions if item.template is not None}
    assert texts == {f"Text {n}." for n in range(4)}
    assert len(done) == 8


async def test_of_a_promotion_and_an_abortion_one_wins(editors: tuple[Book, Book]) -> None:
    first, second = editors
    await first.live("First.")
    await first.draft("Second.", base=1)
    await first.start_split(2, 1)
    who = first.who()
    done, failed = await _both(
        first.library.end_split(NAME, "promoted", author="a", reason="r", at=who.at),
        second.library.end_split(NAME, "aborted", author="b", reason="r", at=who.at),
    )
    assert len(done) == 1
    assert "No split" in _conflicts(failed)[0]
    (split,) = await first.library.splits(NAME)
    served = (await first.served())[NAME].version
    assert (split.outcome, served) in {("promoted", 2), ("aborted", 1)}


async def test_editors_and_raw_sql_do_not_deadlock(editors: tuple[Book, Book]) -> None:
    first, second = editors
    names = [f"t{n}" for n in range(3)]
    for name in names:
        for number in (1, 2):
            await first.draft("Text.", template_name=name, model_type=name)
            await first.activate(number, number - 1 or None, name)

    async def edit() -> None:
        for number in range(5):
            await second.sql(f"UPDATE prompt_templates SET token_limit = 100 + {number}")  # noqa: S608 - a number

    async def change() -> None:
        for _ in range(5):
            for name in reversed(names):
                row = await first.library.find(name)
                assert row is not None
                try:
                    await first.roll_back(1, row.version, name)
                except Conflict as error:
                    assert "is live, not version" in str(error)  # noqa: PT017 - an edit in between is no failure

    done, failed = await _both(edit(), change())
    assert (len(done), failed) == (2, [])
    for name in names:
        versions = await first.library.versions(name)
        assert [item.version for item in versions] == list(range(len(versions), 0, -1))


async def test_the_database_refuses_what_no_editor_saw(
    editors: tuple[Book, Book], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the checks miss, the index and the triggers refuse in the same words."""
    first, _ = editors
    await first.live("First.")
    await first.draft("Second.", template_name="twin")
    before = await first.state()

    async def sees_nothing(*_of: object) -> None:
        pass

    monkeypatch.setattr("onbook.adapters.database.template_writes.check_slot", sees_nothing)
    with pytest.raises(Conflict, match=r"[Aa]nother template is active for"):
        await first.activate(1, None, "twin")
    assert await first.state() == before


async def test_a_rule_of_the_database_is_told_in_its_words(editors: tuple[Book, Book]) -> None:
    first, _ = editors
    await first.draft("x" * 90_000)
    async with AsyncExitStack() as stack:
        assert first.engine is not None
        connection = await stack.enter_async_context(writer(first.engine).begin())
        with pytest.raises(DBAPIError, match="a version of a template never changes"):
            await connection.exec_driver_sql("UPDATE prompt_template_versions SET author = 'me'")
    assert template("x" * 90_000).content_sha256
