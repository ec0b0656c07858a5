"""Importing: what would change, what was drafted before, and all checked before one is stored."""

from dataclasses import dataclass, replace

import pytest

from onbook.adapters.memory.clock import FixedClock
from onbook.adapters.memory.template_book import MemoryBook
from onbook.adapters.memory.template_library import MemoryTemplateLibrary
from onbook.adapters.memory.templates import MemoryTemplateStore
from onbook.adapters.tokenizers import counters
from onbook.domain.errors import Conflict, DatabaseUnavailable, InvalidPayload
from onbook.domain.templates import Template, TemplateInvalid
from onbook.flows.import_templates import TemplateImport, compare_templates, import_templates
from onbook.flows.manage_templates import activate_template
from onbook.flows.template_editing import TemplateEditing

ONE = Template(
    template_name="one",
    version=1,
    model_type="m",
    use_case="enhancement",
    content_mode="sfw",
    target="sdxl",
    system_prompt="First.",
    token_limit=75,
    token_unit="clip",
    max_tokens=200,
)
TWO = replace(ONE, template_name="two", target="wan")


@dataclass(frozen=True, slots=True)
class Read:
    """A template as a file gives it."""

    template: Template
    base_version: int | None = None


@dataclass(frozen=True, slots=True)
class Desk:
    """A book in memory, and whoever brings files."""

    book: MemoryBook
    editing: TemplateEditing

    async def bring(self, *found: Template, reason: str = "r") -> list[TemplateImport]:
        return await self.bring_files(*map(Read, found), reason=reason)

    async def bring_files(self, *found: Read, reason: str = "r") -> list[TemplateImport]:
        return await import_templates(found, author="ann", reason=reason, editing=self.editing)

    async def activate(self, name: str) -> None:
        await activate_template(name, author="ann", reason="r", editing=self.editing)

    async def versions(self, name: str) -> list[int]:
        return [item.version for item in await self.editing.library.versions(name)]


@pytest.fixture
def desk() -> Desk:
    book = MemoryBook()
    editing = TemplateEditing(
        library=MemoryTemplateLibrary(book),
        epoch=MemoryTemplateStore(book=book).epoch,
        counters=counters(),
        clock=FixedClock(),
    )
    return Desk(book, editing)


def outcomes(done: list[TemplateImport]) -> list[tuple[str, int | None]]:
    return [(item.outcome, item.version) for item in done]


async def test_a_comparison_writes_nothing(desk: Desk) -> None:
    found = [Read(ONE), Read(TWO)]
    done = await compare_templates(found, editing=desk.editing)
    assert outcomes(done) == [("changed", None), ("changed", None)]
    assert [item.template.template_name for item in done] == ["one", "two"]
    assert (done[0].live_version, done[0].diff[0].old) == (None, None)
    assert await desk.versions("one") == []


async def test_the_same_file_is_drafted_once(desk: Desk) -> None:
    assert outcomes(await desk.bring(ONE)) == [("drafted", 1)]
    assert outcomes(await desk.bring(ONE)) == [("drafted_before", 1)]
    await desk.activate("one")
    assert outcomes(await desk.bring(ONE)) == [("unchanged", 1)]

    second = replace(ONE, system_prompt="Second.")
    (done,) = await desk.bring(second)
    assert (done.outcome, done.version, done.live_version) == ("drafted", 2, 1)
    assert [(field.field, field.old, field.new) for field in done.diff] == [
        ("system_prompt", "First.", "Second.")
    ]
    assert outcomes(await desk.bring(second)) == [("drafted_before", 2)]
    assert await desk.versions("one") == [2, 1]


async def test_a_draft_that_cannot_go_live_any_more_is_drafted_again(desk: Desk) -> None:
    await desk.bring(ONE)
    await desk.activate("one")
    late, faster = (replace(ONE, system_prompt=text) for text in ("Late.", "Faster."))
    await desk.bring(faster)
    await desk.bring(late)
    await activate_template("one", 2, author="ann", reason="r", editing=desk.editing)
    # Version 3 was made from version 1.
    assert outcomes(await desk.bring(late)) == [("drafted", 4)]


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (Read(replace(TWO, token_limit=0)), TemplateInvalid),
        (Read(TWO, base_version=3), Conflict),
    ],
    ids=["breaks a rule", "from another version"],
)
async def test_all_are_checked_before_the_first_is_drafted(
    desk: Desk, bad: Read, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await desk.bring_files(Read(ONE), bad)
    assert await desk.versions("one") == []


async def test_a_reason_is_looked_at_before_anything_else(desk: Desk) -> None:
    with pytest.raises(InvalidPayload) as caught:
        await desk.bring(replace(ONE, token_limit=0), reason="two\nlines")
    assert caught.value.details == {"fields": ["reason"]}


async def test_a_book_that_cannot_be_read_is_told(desk: Desk) -> None:
    desk.book.available = False
    with pytest.raises(DatabaseUnavailable):
        await compare_templates([Read(ONE)], editing=desk.editing)
