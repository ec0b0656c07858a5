"""Editing the book: drafts, the gate, going live, going back, splits; and two at a time."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from onbook.adapters.memory.clock import CountingIds, FixedClock
from onbook.adapters.memory.template_book import MemoryBook
from onbook.adapters.memory.template_library import MemoryTemplateLibrary
from onbook.adapters.memory.templates import MemoryTemplateStore
from onbook.adapters.tokenizers import counters
from onbook.domain.content_mode.lexicon_detector import LexiconDetector
from onbook.domain.errors import (
    Conflict,
    DatabaseUnavailable,
    GateFailed,
    InvalidPayload,
    TemplateNotFound,
    WorkerUnavailable,
)
from onbook.domain.template_history import TemplateEvent
from onbook.domain.templates import Template, TemplateInvalid, TemplateTest
from onbook.flows import manage_templates as manage
from onbook.flows import read_templates as read
from onbook.flows import split_traffic as splits
from onbook.flows.evaluate_template import TemplateEvaluator
from onbook.flows.gate_template import try_template
from onbook.flows.template_editing import TemplateEditing
from onbook.ports.inference import Completion
from onbook.ports.template_library import TemplateFilter
from onbook.wire.worker_api import Endpoint, InferenceRequest
from support import FakeWorker, completion

IDEA = "a cat in a garden"
# Their vocabularies take a second to load, once.
COUNTERS = counters()
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
TEST = TemplateTest(name="cat", input=IDEA, must_keep=("soft light",))
TESTED = replace(TEMPLATE, system_prompt="Tested.", tests=(TEST,))


@dataclass(frozen=True, slots=True)
class Desk:
    """An editor at work on a book in memory; ``answers`` is what the worker writes."""

    book: MemoryBook
    editing: TemplateEditing
    worker: FakeWorker

    async def draft(self, template: Template, base_version: int | None = None) -> int:
        made = await manage.draft_template(
            template, base_version=base_version, author="ann", reason="new", editing=self.editing
        )
        return made.version

    async def activate(self, version: int | None = None, **options: object) -> manage.Activated:
        given: dict[str, object] = {"author": "ann", "reason": "better", **options}
        return await manage.activate_template("one", version, editing=self.editing, **given)  # type: ignore[arg-type]  # options differ in type

    async def go_live(self, *texts: str) -> None:
        for text in texts:
            await self.activate(await self.draft(replace(TEMPLATE, system_prompt=text)))

    async def events(self) -> list[TemplateEvent]:
        return list(await self.editing.library.events("one"))


@pytest.fixture
def desk(detector: LexiconDetector) -> Desk:
    return desk_with(detector, lambda _endpoint, _request: completion(f"{IDEA}, soft light"))


def desk_with(
    detector: LexiconDetector,
    answer: Callable[[Endpoint, InferenceRequest], Completion | Exception],
) -> Desk:
    book, worker, clock = MemoryBook(), FakeWorker(answer), FixedClock()
    evaluator = TemplateEvaluator(
        worker=worker,
        detector=detector,
        counters=COUNTERS,
        clock=clock,
        ids=CountingIds(),
        worker_timeout_s=5,
        require_receipts=False,
    )
    editing = TemplateEditing(
        library=MemoryTemplateLibrary(book),
        epoch=MemoryTemplateStore(book=book).epoch,
        counters=COUNTERS,
        clock=clock,
        evaluator=evaluator,
        context_size=lambda: 4096,
    )
    return Desk(book, editing, worker)


async def test_a_draft_passes_the_gate_and_goes_live(desk: Desk) -> None:
    await desk.go_live("First.")
    version = await desk.draft(TESTED)
    assert (await desk.editing.library.find("one")).version == 1  # type: ignore[union-attr]  # it went live above
    done = await desk.activate(version)
    assert (done.version, done.from_version, done.epoch) == (2, 1, desk.book.epoch)
    assert done.gate.passed
    newest = (await desk.events())[0]
    assert (newest.action, newest.actor, newest.reason) == ("activated", "ann", "better")
    assert (newest.from_version, newest.to_version) == (1, 2)
    assert newest.gate == {
        "passed": True,
        "cases": [{"name": "cat", "passed": True, "failures": []}],
        "override": None,
    }


async def test_a_failed_gate_changes_nothing_and_an_override_is_recorded(
    detector: LexiconDetector,
) -> None:
    desk = desk_with(detector, lambda _endpoint, _request: completion(f"{IDEA}, hard light"))
    await desk.go_live("First.")
    version = await desk.draft(TESTED)
    before = await desk.events()
    with pytest.raises(GateFailed) as caught:
        await desk.activate(version)
    assert caught.value.details is not None
    assert caught.value.details["cases"] == [
        {"name": "cat", "passed": False, "failures": ["must_keep, text 1 of 1, is missing"]}
    ]
    assert await desk.events() == before
    asked = len(desk.worker.requests)
    done = await desk.activate(version, override="the test is out of date")
    assert (done.gate.passed, done.gate.override) == (False, "the test is out of date")
    newest = (await desk.events())[0]
    assert newest.gate is not None
    assert newest.gate["override"] == "the test is out of date"
    assert len(desk.worker.requests) == asked


async def test_without_a_worker_tests_stop_an_activation_unless_overridden(
    detector: LexiconDetector,
) -> None:
    away = WorkerUnavailable("The worker cannot be reached.")
    desk = desk_with(detector, lambda _endpoint, _request: away)
    version = await desk.draft(TESTED)
    nobody = replace(desk, editing=replace(desk.editing, evaluator=None))
    for editor in (desk, nobody):
        with pytest.raises(WorkerUnavailable):
            await editor.activate(version)
    assert await desk.editing.library.find("one") is None
    assert (await desk.activate(version, override="no worker today")).version == version
    # Without tests there is nothing to ask a worker.
    assert (await nobody.activate(await desk.draft(TEMPLATE))).gate.passed


async def test_of_two_activations_at_a_time_one_wins_however_long_the_gate_takes(
    detector: LexiconDetector,
) -> None:
    both_in_gate = asyncio.Barrier(2)

    class Meeting(FakeWorker):
        async def infer(
            self, endpoint: Endpoint, request: InferenceRequest, *, timeout_s: float
        ) -> Completion:
            await both_in_gate.wait()
            return await super().infer(endpoint, request, timeout_s=timeout_s)

    desk = desk_with(detector, lambda _endpoint, _request: completion(f"{IDEA}, soft light"))
    assert desk.editing.evaluator is not None
    slow = Meeting(lambda _endpoint, _request: completion(f"{IDEA}, soft light"))
    evaluator = replace(desk.editing.evaluator, worker=slow)
    desk = replace(desk, editing=replace(desk.editing, evaluator=evaluator))
    await desk.go_live("First.")
    two, three = await desk.draft(TESTED), await desk.draft(replace(TESTED, max_tokens=100))
    for pair in ((two, three), (three, three)):
        if pair == (three, three):
            # And two who activate the same draft.
            three = await desk.draft(replace(TESTED, max_tokens=99))
            pair = (three, three)  # noqa: PLW2901 - the draft is made only now
        results = await asyncio.gather(
            *(desk.activate(version) for version in pair), return_exceptions=True
        )
        assert sorted(type(result).__name__ for result in results) == ["Activated", "Conflict"]
    live = [event for event in await desk.events() if event.action == "activated"]
    assert len(live) == 3


async def test_what_the_editor_believes_to_be_live_has_to_be(desk: Desk) -> None:
    version = await desk.draft(TESTED, base_version=0)
    with pytest.raises(Conflict):
        await desk.activate(version, expected_version=1)
    assert desk.worker.requests == [], "no gate for an activation that cannot be"
    await desk.activate(version, expected_version=0)
    with pytest.raises(Conflict):
        await desk.activate(version, expected_version=0)
    asked = len(desk.worker.requests)
    with pytest.raises(Conflict, match="live already"):
        await desk.activate(version)
    assert len(desk.worker.requests) == asked
    with pytest.raises(Conflict):
        await desk.draft(TEMPLATE, base_version=7)


async def test_without_a_number_the_newest_draft_or_what_was_deactivated_goes_live(
    desk: Desk,
) -> None:
    with pytest.raises(TemplateNotFound):
        await desk.activate()
    await desk.draft(TEMPLATE)
    assert (await desk.activate()).version == 1
    with pytest.raises(Conflict):
        await desk.activate()
    epoch = await manage.deactivate_template(
        "one", author="ann", reason="out", editing=desk.editing
    )
    assert epoch == desk.book.epoch
    again = await desk.activate()
    assert (again.version, again.from_version) == (1, 1)
    await desk.draft(TEMPLATE)
    for number in (0, 9):
        with pytest.raises(TemplateNotFound):
            await desk.activate(number)


async def test_a_roll_back_is_a_new_version_with_an_origin(desk: Desk) -> None:
    await desk.go_live("First.", "Second.", "Third.")
    await desk.draft(replace(TEMPLATE, system_prompt="A draft."))
    done = await manage.roll_back_template(
        "one", author="bob", reason="worse", editing=desk.editing
    )
    assert (done.from_version, done.version.version, done.version.origin_version) == (3, 5, 2)
    assert done.epoch == desk.book.epoch
    row = await desk.editing.library.find("one")
    assert row is not None
    assert row.template is not None
    assert row.template.system_prompt == "Second."
    first = await manage.roll_back_template(
        "one", 1, author="bob", reason="much worse", editing=desk.editing
    )
    assert first.version.origin_version == 1
    with pytest.raises(Conflict):
        await manage.roll_back_template(
            "one", 4, author="bob", reason="a draft was never live", editing=desk.editing
        )
    with pytest.raises(Conflict):
        await manage.roll_back_template(
            "one", 1, expected_version=5, author="b", reason="late", editing=desk.editing
        )
    with pytest.raises(TemplateNotFound):
        await manage.roll_back_template("none", author="bob", reason="worse", editing=desk.editing)


async def test_a_pause_in_service_is_no_version_to_go_back_to(desk: Desk) -> None:
    await desk.go_live("First.", "Second.")
    await manage.deactivate_template("one", author="ann", reason="out", editing=desk.editing)
    await desk.activate(2)
    done = await manage.roll_back_template("one", author="b", reason="r", editing=desk.editing)
    assert done.version.origin_version == 1


async def test_the_first_version_has_nothing_to_go_back_to(desk: Desk) -> None:
    await desk.go_live("First.")
    with pytest.raises(Conflict, match="live before"):
        await manage.roll_back_template("one", author="bob", reason="worse", editing=desk.editing)


async def test_a_split_starts_behind_the_gate_and_ends_by_promote_or_abort(desk: Desk) -> None:
    with pytest.raises(TemplateNotFound):
        await splits.start_split("one", 1, percent=10, author="a", reason="r", editing=desk.editing)
    await desk.draft(replace(TEMPLATE, system_prompt="First."))
    with pytest.raises(Conflict):
        await splits.start_split("one", 1, percent=10, author="a", reason="r", editing=desk.editing)
    await desk.activate(1)
    candidate = await desk.draft(TESTED)
    started = await splits.start_split(
        "one", candidate, percent=10, author="a", reason="try", editing=desk.editing
    )
    assert (started.split.percent, started.epoch) == (10, desk.book.epoch)
    assert started.gate is not None
    assert started.gate.passed
    assert len(desk.worker.requests) == 1
    shown = await read.show_template("one", editing=desk.editing)
    assert shown.split == started.split
    ended = await splits.abort_split("one", author="a", reason="no", editing=desk.editing)
    assert (ended.split.outcome, ended.epoch) == ("aborted", desk.book.epoch)
    with pytest.raises(Conflict):
        await splits.promote_split("one", author="a", reason="no", editing=desk.editing)
    second = await desk.draft(replace(TESTED, max_tokens=99))
    await splits.start_split(
        "one", second, percent=50, override="soon", author="a", reason="r", editing=desk.editing
    )
    assert len(desk.worker.requests) == 1
    promoted = await splits.promote_split("one", author="a", reason="yes", editing=desk.editing)
    assert promoted.split.outcome == "promoted"
    row = await desk.editing.library.find("one")
    assert row is not None
    assert row.version == second
    assert [split.outcome for split in await read.list_splits("one", editing=desk.editing)]
    for percent in (0, 100, -1):
        with pytest.raises(InvalidPayload):
            await splits.start_split(
                "one", second, percent=percent, author="a", reason="r", editing=desk.editing
            )


@pytest.mark.parametrize("reason", ["", "  ", "a\nb", "x" * 501, "bell\a", "nul\0"])
async def test_a_reason_is_one_printable_line(desk: Desk, reason: str) -> None:
    await desk.go_live("First.")
    editing = desk.editing
    before = await desk.events()
    draft = await desk.draft(TEMPLATE)
    calls = [
        manage.draft_template(TEMPLATE, author="a", reason=reason, editing=editing),
        manage.discard_draft("one", draft, author="a", reason=reason, editing=editing),
        manage.activate_template("one", draft, author="a", reason=reason, editing=editing),
        manage.roll_back_template("one", author="a", reason=reason, editing=editing),
        manage.deactivate_template("one", author="a", reason=reason, editing=editing),
        splits.start_split("one", draft, percent=5, author="a", reason=reason, editing=editing),
        splits.promote_split("one", author="a", reason=reason, editing=editing),
        splits.abort_split("one", author="a", reason=reason, editing=editing),
    ]
    for call in calls:
        with pytest.raises(InvalidPayload) as caught:
            await call
        assert caught.value.details == {"fields": ["reason"]}
    with pytest.raises(InvalidPayload) as caught:
        await manage.discard_draft("one", draft, author=reason, reason="r", editing=editing)
    assert caught.value.details == {"fields": ["author"]}
    with pytest.raises(InvalidPayload) as caught:
        await desk.activate(draft, override=reason)
    assert caught.value.details == {"fields": ["override_reason"]}
    assert caught.value.message.startswith("The override reason must be")
    with pytest.raises(InvalidPayload) as caught:
        await splits.start_split(
            "one", draft, percent=5, override=reason, author="a", reason="r", editing=desk.editing
        )
    assert caught.value.details == {"fields": ["override_reason"]}
    assert (await desk.events())[1:] == before, "nothing but the draft was written"


async def test_a_reason_may_be_of_any_script_and_is_trimmed(desk: Desk) -> None:
    await manage.draft_template(
        TEMPLATE, author=" ann ", reason=" 改善 für später ", editing=desk.editing
    )
    newest = (await desk.events())[0]
    assert (newest.actor, newest.reason) == ("ann", "改善 für später")


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"max_tokens": 4096}, "max_tokens"),
        ({"grammar": "root ::= missing"}, "grammar"),
        ({"grammar": f'root ::= "{"word " * 80}"'}, "grammar"),
        ({"tests": (replace(TEST, must_keep=("word " * 80,)),)}, "tests"),
        ({"system_prompt": "{{undeclared}}"}, "system_prompt"),
        ({"token_limit": 0}, "token_limit"),
    ],
)
async def test_what_cannot_be_served_is_neither_drafted_nor_activated(
    desk: Desk, options: dict[str, object], field: str
) -> None:
    impossible = replace(TEMPLATE, **options)  # type: ignore[arg-type]  # the fields differ in type
    with pytest.raises(TemplateInvalid) as caught:
        await desk.draft(impossible)
    assert caught.value.details is not None
    assert caught.value.details["fields"] == [field]
    assert caught.value.status == 422
    assert await desk.events() == []


async def test_a_draft_that_no_longer_fits_the_worker_is_not_activated(desk: Desk) -> None:
    version = await desk.draft(TEMPLATE)
    small = replace(desk, editing=replace(desk.editing, context_size=lambda: 100))
    for options in ({}, {"override": "at any price"}):
        with pytest.raises(TemplateInvalid, match="context of 100"):
            await small.activate(version, **options)
    assert await desk.editing.library.find("one") is None


async def test_a_draft_can_be_discarded_and_what_was_live_cannot(desk: Desk) -> None:
    await desk.go_live("First.")
    version = await desk.draft(TESTED)
    await manage.discard_draft("one", version, author="a", reason="r", editing=desk.editing)
    with pytest.raises(TemplateNotFound):
        await desk.activate(version)
    with pytest.raises(Conflict):
        await manage.discard_draft("one", 1, author="a", reason="r", editing=desk.editing)


async def test_a_database_that_is_away_is_told_in_every_way_in(desk: Desk) -> None:
    await desk.go_live("First.")
    desk.book.available = False
    editing = desk.editing
    calls = [
        manage.draft_template(TEMPLATE, author="a", reason="r", editing=editing),
        manage.discard_draft("one", 1, author="a", reason="r", editing=editing),
        manage.activate_template("one", 1, author="a", reason="r", editing=editing),
        manage.roll_back_template("one", author="a", reason="r", editing=editing),
        manage.deactivate_template("one", author="a", reason="r", editing=editing),
        splits.start_split("one", 1, percent=5, author="a", reason="r", editing=editing),
        splits.abort_split("one", author="a", reason="r", editing=editing),
        try_template("one", editing=editing),
        read.list_templates(TemplateFilter(), editing=editing),
        read.show_template("one", editing=editing),
        read.template_history("one", editing=editing),
        read.versions_to_compare("one", editing=editing),
        read.list_splits(editing=editing),
    ]
    for call in calls:
        with pytest.raises(DatabaseUnavailable):
            await call


async def test_a_try_runs_the_tests_and_changes_nothing(desk: Desk) -> None:
    await desk.go_live("First.")
    version = await desk.draft(TESTED)
    before = await desk.events()
    result = await try_template("one", editing=desk.editing)
    assert [case.output for case in result.cases] == [f"{IDEA}, soft light"]
    assert await try_template("one", version, editing=desk.editing) == result
    assert (await try_template("one", 1, editing=desk.editing)).cases == ()
    assert await desk.events() == before
    with pytest.raises(TemplateNotFound):
        await try_template("one", 9, editing=desk.editing)


async def test_reading_shows_the_row_the_drafts_and_what_to_compare(desk: Desk) -> None:
    with pytest.raises(TemplateNotFound):
        await read.show_template("one", editing=desk.editing)
    with pytest.raises(TemplateNotFound):
        await read.template_history("one", editing=desk.editing)
    await desk.draft(TEMPLATE)
    new = await read.show_template("one", editing=desk.editing)
    assert (new.row, new.version.version, len(new.drafts)) == (None, 1, 1)
    with pytest.raises(TemplateNotFound, match="first"):
        await read.versions_to_compare("one", editing=desk.editing)
    await desk.activate(1)
    await desk.go_live("Second.")
    await desk.draft(replace(TEMPLATE, system_prompt="Third."))
    shown = await read.show_template("one", editing=desk.editing)
    assert (shown.version.version, [item.version for item in shown.drafts]) == (2, [3])
    assert (await read.show_template("one", 1, editing=desk.editing)).version.state == "retired"
    pairs = [
        await read.versions_to_compare("one", editing=desk.editing),
        await read.versions_to_compare("one", 1, editing=desk.editing),
        await read.versions_to_compare("one", 1, 2, editing=desk.editing),
    ]
    assert [(one.version, other.version) for one, other in pairs] == [(2, 3), (1, 3), (1, 2)]
    history = await read.template_history("one", editing=desk.editing, limit=2)
    assert [item.version for item in history.versions] == [3, 2]
    assert [event.action for event in history.events] == ["drafted", "activated"]
    older = await read.template_history(
        "one",
        before_version=2,
        before_event=history.events[-1].event_id,
        editing=desk.editing,
    )
    assert [item.version for item in older.versions] == [1]
    assert [event.action for event in older.events][-1] == "drafted"
    listed = await read.list_templates(TemplateFilter(is_active=True), editing=desk.editing)
    assert [row.template_name for row in listed] == ["one"]
