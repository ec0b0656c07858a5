"""Reading, counting and comparing long texts leaves the event loop to everybody else."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from onbook.adapters.memory.clock import FixedClock
from onbook.adapters.memory.template_book import MemoryBook
from onbook.adapters.memory.template_library import MemoryTemplateLibrary
from onbook.adapters.memory.templates import MemoryTemplateStore
from onbook.domain.errors import TemplateNotFound
from onbook.domain.template_diff import FieldDiff, diff_templates
from onbook.domain.template_history import TemplateVersion
from onbook.domain.templates import TOKEN_UNITS, Template, TokenUnit
from onbook.domain.token_counting import CharacterCounter
from onbook.flows import import_templates as importing
from onbook.flows.gate_template import try_template
from onbook.flows.import_templates import import_templates
from onbook.flows.manage_templates import activate_template, draft_template
from onbook.flows.read_templates import show_version, versions_to_compare
from onbook.flows.split_traffic import start_split
from onbook.flows.template_editing import TemplateEditing

TEMPLATE = Template(
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


@dataclass
class Threads:
    """The threads that did the work since it was last asked."""

    seen: set[threading.Thread] = field(default_factory=set)

    def note(self) -> None:
        self.seen.add(threading.current_thread())

    def were_others(self) -> bool:
        """Tell whether something was done, and none of it in this thread, that of the loop."""
        seen, self.seen = self.seen, set()
        return bool(seen) and threading.current_thread() not in seen


class NotingCounter(CharacterCounter):
    """Counts characters and notes where."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads

    def count(self, text: str) -> int:
        self._threads.note()
        return super().count(text)


@dataclass(frozen=True, slots=True)
class Read:
    """A template as a file gives it."""

    template: Template
    base_version: int | None = None


@pytest.fixture
def threads() -> Threads:
    return Threads()


@pytest.fixture
def editing(threads: Threads) -> TemplateEditing:
    book = MemoryBook()
    noting: dict[TokenUnit, NotingCounter] = {unit: NotingCounter(threads) for unit in TOKEN_UNITS}
    return TemplateEditing(
        library=MemoryTemplateLibrary(book),
        epoch=MemoryTemplateStore(book=book).epoch,
        counters=noting,
        clock=FixedClock(),
        context_size=lambda: 4096,
    )


async def test_whether_a_template_can_be_served_is_found_out_elsewhere(
    editing: TemplateEditing, threads: Threads
) -> None:
    await draft_template(TEMPLATE, author="a", reason="r", editing=editing)
    assert threads.were_others()
    await try_template("one", editing=editing)
    assert threads.were_others()
    await activate_template("one", author="a", reason="r", editing=editing)
    assert threads.were_others()
    second, third = (replace(TEMPLATE, system_prompt=text) for text in ("Second.", "Third."))
    await draft_template(second, author="a", reason="r", editing=editing)
    await draft_template(third, author="a", reason="r", editing=editing)
    threads.seen.clear()
    await start_split("one", 2, percent=5, author="a", reason="r", editing=editing)
    assert threads.were_others()


async def test_an_activation_without_its_tests_is_checked_elsewhere_too(
    editing: TemplateEditing, threads: Threads
) -> None:
    await draft_template(TEMPLATE, author="a", reason="r", editing=editing)
    threads.seen.clear()
    await activate_template("one", override="now", author="a", reason="r", editing=editing)
    assert threads.were_others()


async def test_an_import_checks_and_compares_elsewhere(
    editing: TemplateEditing, threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = Threads()

    def noting(old: Template | None, new: Template) -> tuple[FieldDiff, ...]:
        compared.note()
        return diff_templates(old, new)

    monkeypatch.setattr(importing, "diff_templates", noting)
    found = [Read(TEMPLATE)]
    await import_templates(found, author="a", reason="r", editing=editing)
    await import_templates(found, author="a", reason="r", editing=editing)
    assert threads.were_others()
    assert compared.were_others()


class NotingLibrary(MemoryTemplateLibrary):
    """Notes how many versions were read with their contents."""

    read = 0

    async def versions(
        self, template_name: str, *, before: int | None = None, limit: int = 100
    ) -> Sequence[TemplateVersion]:
        found = await super().versions(template_name, before=before, limit=limit)
        self.read += len(found)
        return found

    async def version(self, template_name: str, version: int) -> TemplateVersion | None:
        self.read += 1
        return await super().version(template_name, version)


async def test_two_versions_are_compared_without_reading_all_the_others(
    editing: TemplateEditing,
) -> None:
    library = NotingLibrary(MemoryBook())
    editing = replace(editing, library=library)
    for number in range(1, 21):
        changed = replace(TEMPLATE, description=str(number))
        await draft_template(changed, author="a", reason="r", editing=editing)
    for pair in ((None, None), (3, None), (3, 4)):
        library.read = 0
        before, after = await versions_to_compare("one", *pair, editing=editing)
        assert (before.version, after.version) == (pair[0] or 19, pair[1] or 20)
        assert library.read <= 3


async def test_one_version_is_shown_without_reading_all_the_others(
    editing: TemplateEditing,
) -> None:
    library = NotingLibrary(MemoryBook())
    editing = replace(editing, library=library)
    for number in range(1, 21):
        changed = replace(TEMPLATE, description=str(number))
        await draft_template(changed, author="a", reason="r", editing=editing)
    library.read = 0
    assert (await show_version("one", 7, editing=editing)).version == 7
    assert library.read == 1
    for name, version, sentence in (("one", 99, "no version 99"), ("two", 1, "no template")):
        with pytest.raises(TemplateNotFound, match=sentence):
            await show_version(name, version, editing=editing)
