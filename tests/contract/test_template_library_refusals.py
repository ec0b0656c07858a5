"""What the book refuses: one sentence, the next step, and nothing changed."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from onbook.domain.errors import Conflict, InvalidPayload, OnbookError, TemplateNotFound
from support_books import AT, NAME, Book, book_on

Act = Callable[[Book], Awaitable[object]]
WHO = {"author": "cli:eve", "reason": "too late", "at": AT}


@pytest.fixture
async def book(store_engine: AsyncEngine | None) -> AsyncIterator[Book]:
    async with book_on(store_engine) as book:
        yield book


async def _nothing(_book: Book) -> None:
    pass


async def _draft_only(book: Book) -> None:
    await book.draft("First.")


async def _live(book: Book) -> None:
    await book.live("First.", "Second.")


async def _live_and_draft(book: Book) -> None:
    await _live(book)
    await book.draft("Third.", base=2)


async def _overtaken(book: Book) -> None:
    await _live_and_draft(book)
    await book.draft("Fourth.", base=2)
    await book.activate(4, 2)


async def _inactive(book: Book) -> None:
    await _live_and_draft(book)
    await _deactivate(book)


async def _split(book: Book) -> None:
    await _live_and_draft(book)
    await book.start_split(3, 2)
    await book.draft("Fourth.", base=2)


async def _taken(book: Book) -> None:
    await _live_and_draft(book)
    await book.draft("Mine.", template_name="holder", target="wan")
    await book.activate(1, None, "holder")
    await book.draft("For wan.", base=2, target="wan")


async def _taken_back(book: Book) -> None:
    """Version 1 was for a key that another template has meanwhile."""
    await book.live("First.")
    await book.draft("For wan.", base=1, target="wan")
    await book.activate(2, 1)
    await book.draft("Mine.", template_name="holder")
    await book.activate(1, None, "holder")


async def _deactivate(book: Book, name: str = NAME) -> object:
    return await book.library.deactivate(name, author="a", reason="r", at=book.now())


def _activate(version: int, expected: int | None) -> Act:
    return lambda book: book.activate(version, expected)


def _roll_back(to: int, expected: int) -> Act:
    return lambda book: book.roll_back(to, expected)


def _start(candidate: int, expected: int, percent: int = 20) -> Act:
    return lambda book: book.start_split(candidate, expected, percent)


def _end(outcome: str) -> Act:
    return lambda book: book.library.end_split(NAME, outcome, **WHO)  # type: ignore[arg-type]  # one of the outcomes, and what every change takes


def _discard(version: int) -> Act:
    return lambda book: book.library.discard(NAME, version, **WHO)  # type: ignore[arg-type]  # what every change takes


def _draft(base: int) -> Act:
    return lambda book: book.draft("New.", base=base)


CASES: dict[str, tuple[Act, Act, type[OnbookError], str, str]] = {
    "draft from an old version": (
        _live,
        _draft(1),
        Conflict,
        "was made from version 1, and version 2 is live now",
        "Draft it again from version 2.",
    ),
    "draft of a new template that is there": (
        _live,
        _draft(0),
        Conflict,
        "is in the book already, and version 2 is live now",
        "Draft it again from version 2.",
    ),
    "draft from a version of nothing": (
        _draft_only,
        _draft(1),
        Conflict,
        "not in the book",
        "Draft it as a new template.",
    ),
    "discard nothing": (
        _live,
        _discard(9),
        TemplateNotFound,
        "There is no version 9",
        "GET /v1/templates/NAME/versions, or 'onbook templates history NAME',",
    ),
    "discard what is live": (
        _live,
        _discard(2),
        Conflict,
        "never deleted",
        "Leave it in the history",
    ),
    "discard what was live": (_live, _discard(1), Conflict, "never deleted", "Leave it"),
    "discard a running candidate": (_split, _discard(3), Conflict, "never deleted", "Leave it"),
    "activate nothing": (
        _nothing,
        _activate(1, None),
        TemplateNotFound,
        "There is no version 1",
        "GET /v1/templates/NAME/versions, or 'onbook templates history NAME',",
    ),
    "activate an absurd number": (
        _live,
        _activate(10**30, 2),
        TemplateNotFound,
        "There is no version",
        "GET /v1/templates/NAME/versions, or 'onbook templates history NAME',",
    ),
    "activate when another is expected": (
        _live_and_draft,
        _activate(3, 1),
        Conflict,
        "Version 2 of enhancement_sdxl_sfw is live, not version 1.",
        "Compare the draft with what is live now",
    ),
    "activate when none is expected": (
        _live_and_draft,
        _activate(3, None),
        Conflict,
        "is live, not none",
        "Compare",
    ),
    "activate when one is expected and none is there": (
        _draft_only,
        _activate(1, 1),
        Conflict,
        "has no live version, not version 1",
        "Compare",
    ),
    "activate what is live": (
        _live,
        _activate(2, 2),
        Conflict,
        "is live already",
        "Nothing is left to do",
    ),
    "activate what was live": (
        _live,
        _activate(1, 2),
        Conflict,
        "was live before",
        "Roll back to version 1 instead.",
    ),
    "activate a draft that was overtaken": (
        _overtaken,
        _activate(3, 4),
        Conflict,
        "Version 3 of enhancement_sdxl_sfw was drafted from version 2, and version 4 is live now.",
        "Draft it again from version 4.",
    ),
    "activate during a split": (
        _split,
        _activate(4, 2),
        Conflict,
        "A split of enhancement_sdxl_sfw is running, with version 3",
        "Promote or abort the split first.",
    ),
    "activate the running candidate": (
        _split,
        _activate(3, 2),
        Conflict,
        "A split of enhancement_sdxl_sfw is running",
        "Promote or abort the split first.",
    ),
    "activate for a key that is taken": (
        _taken,
        _activate(4, 2),
        Conflict,
        "holder is active for the same model type",
        "Deactivate holder first",
    ),
    "roll back nothing": (
        _draft_only,
        _roll_back(1, 1),
        TemplateNotFound,
        "There is no template",
        "GET /v1/templates, or 'onbook templates list',",
    ),
    "roll back to nothing": (
        _live,
        _roll_back(9, 2),
        TemplateNotFound,
        "There is no version 9",
        "GET /v1/templates/NAME/versions, or 'onbook templates history NAME',",
    ),
    "roll back when another is expected": (
        _live,
        _roll_back(1, 1),
        Conflict,
        "is live, not version 1",
        "Compare",
    ),
    "roll back to what is live": (
        _live,
        _roll_back(2, 2),
        Conflict,
        "nothing to go back to",
        "Name an earlier version",
    ),
    "roll back to what an inactive template holds": (
        _inactive,
        _roll_back(2, 2),
        Conflict,
        "nothing to go back to",
        "Activate version 2",
    ),
    "roll back to a draft": (
        _live_and_draft,
        _roll_back(3, 2),
        Conflict,
        "was never live",
        "Activate version 3 instead.",
    ),
    "roll back to a key that is taken": (
        _taken_back,
        _roll_back(1, 2),
        Conflict,
        "holder is active for the same model type",
        "Deactivate holder first",
    ),
    "deactivate nothing": (
        _draft_only,
        _deactivate,
        TemplateNotFound,
        "There is no template",
        "GET /v1/templates, or 'onbook templates list',",
    ),
    "deactivate twice": (
        _inactive,
        _deactivate,
        Conflict,
        "is not active",
        "Nothing is left to do",
    ),
    "split nothing": (
        _draft_only,
        _start(1, 1),
        TemplateNotFound,
        "There is no template",
        "GET /v1/templates, or 'onbook templates list',",
    ),
    "split with nothing": (
        _live,
        _start(9, 2),
        TemplateNotFound,
        "There is no version 9",
        "GET /v1/templates/NAME/versions, or 'onbook templates history NAME',",
    ),
    "split when another is expected": (
        _live_and_draft,
        _start(3, 1),
        Conflict,
        "is live, not version 1",
        "Compare",
    ),
    "split an inactive template": (
        _inactive,
        _start(3, 2),
        Conflict,
        "is not active",
        "Activate version 2 first",
    ),
    "split with what is live": (
        _live,
        _start(2, 2),
        Conflict,
        "is live already",
        "Name a draft",
    ),
    "split with what was live": (
        _live,
        _start(1, 2),
        Conflict,
        "was live before",
        "Roll back to version 1",
    ),
    "split with an overtaken draft": (
        _overtaken,
        _start(3, 4),
        Conflict,
        "was drafted from version 2",
        "Draft it again from version 4.",
    ),
    "split twice": (
        _split,
        _start(4, 2),
        Conflict,
        "is running, with version 3",
        "Promote or abort",
    ),
    "split with another key": (
        _taken,
        _start(4, 2),
        Conflict,
        "is for another model type",
        "Activate it instead",
    ),
    "split for nobody": (
        _live_and_draft,
        _start(3, 2, 0),
        InvalidPayload,
        "from 1 to 99",
        "Correct the fields",
    ),
    "split for everybody": (
        _live_and_draft,
        _start(3, 2, 100),
        InvalidPayload,
        "from 1 to 99",
        "Correct the fields",
    ),
    "end the split of nothing": (
        _nothing,
        _end("aborted"),
        TemplateNotFound,
        "There is no template",
        "GET /v1/templates, or 'onbook templates list',",
    ),
    "end no split": (
        _live,
        _end("promoted"),
        Conflict,
        "No split of enhancement_sdxl_sfw is running",
        "Start a split",
    ),
}


@pytest.mark.parametrize("case", CASES)
async def test_a_refusal_says_what_is_so_and_what_to_do(book: Book, case: str) -> None:
    arrange, act, kind, message, action = CASES[case]
    await arrange(book)
    before = await book.state()
    with pytest.raises(kind) as caught:
        await act(book)
    assert type(caught.value) is kind
    assert message in caught.value.message
    assert action in caught.value.suggested_action
    assert await book.state() == before
