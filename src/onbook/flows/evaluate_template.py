"""The gate: a template's own tests, run on the real worker through the steps of a request."""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from onbook.domain.content_mode.decision import ContentMode, ContentModeDetector, Verdict
from onbook.domain.content_mode.filled import refused_when_filled
from onbook.domain.content_mode.policy import is_above
from onbook.domain.content_mode.together import detect_request
from onbook.domain.enhancement import ModelRun
from onbook.domain.errors import (
    ContentModeNotAllowed,
    InvalidPayload,
    TokenLimitExceeded,
    WorkerAnswerInvalid,
    WorkerTimeout,
    WorkerUnavailable,
)
from onbook.domain.feasibility import most_tokens
from onbook.domain.fitting.fit import FittedPrompt, fit
from onbook.domain.messages import Composed, compose
from onbook.domain.must_keep import Masked, protect
from onbook.domain.templates import Template, TemplateTest
from onbook.flows.draw_text import MAX_ATTEMPTS, choice_of, draw_text, style_of, why_no_model
from onbook.ports.clock import Clock, IdSource
from onbook.ports.inference import InferenceWorker
from onbook.ports.prompt_ids import PromptIds
from onbook.ports.tokenizing import TokenCounters

MAX_TESTS: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateEvaluator:
    """What the gate works with. ``worker_timeout_s`` spans all attempts of one case."""

    worker: InferenceWorker
    detector: ContentModeDetector
    counters: TokenCounters
    clock: Clock
    ids: IdSource
    worker_timeout_s: float
    require_receipts: bool
    prompt_ids: PromptIds | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GateCase:
    """How one test ended. ``output`` is for the author's eyes and is not stored.

    ``failures`` are sentences without prompt text; ``tokens`` are those of the output in the
    template's ``token_unit``. Both are None where the worker gave no usable text.
    """

    name: str
    failures: tuple[str, ...]
    output: str | None
    tokens: int | None
    attempts: int

    @property
    def passed(self) -> bool:
        """Whether everything that the test asks for holds."""
        return not self.failures

    def as_json(self) -> dict[str, object]:
        """Return what is recorded: no prompt text, no output."""
        return {"name": self.name, "passed": self.passed, "failures": list(self.failures)}


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """How all tests of a template ended, or why they were not run (``override``)."""

    cases: tuple[GateCase, ...] = ()
    override: str | None = None

    @property
    def passed(self) -> bool:
        """Whether every test passed; a template without tests passes, an override does not."""
        return self.override is None and all(case.passed for case in self.cases)

    def as_json(self) -> Mapping[str, object]:
        """Return what the event records: no prompt text, no output."""
        return {
            "passed": self.passed,
            "cases": [case.as_json() for case in self.cases],
            "override": self.override,
        }


async def evaluate_template(
    template: Template, evaluator: TemplateEvaluator, *, ceiling: ContentMode
) -> GateResult:
    """Run the tests of ``template``, one after another; no output above ``ceiling`` is shown.

    Raises:
        ContentModeNotAllowed: the template has tests, and its mode is above the ceiling.
        WorkerUnavailable, WorkerTimeout, PurityViolation: the worker cannot judge the template.
        InvalidPayload: there are more than 50 tests.
    """
    if len(template.tests) > MAX_TESTS:
        raise InvalidPayload(
            f"The template has {len(template.tests)} tests; at most {MAX_TESTS} are run.",
            details={"fields": ["tests"]},
        )
    if template.tests and is_above(template.content_mode, ceiling):
        raise ContentModeNotAllowed(
            "The template is nsfw, and its tests may be run in sfw only here.",
            details={"template_name": template.template_name, "fields": ["content_mode"]},
            suggested_action="Use a deployment and a key that allow nsfw; to activate it without "
            "the tests, give the reason for that.",
        )
    cases = [await _case(template, test, evaluator, ceiling) for test in template.tests]
    return GateResult(cases=tuple(cases))


async def _case(
    template: Template, test: TemplateTest, evaluator: TemplateEvaluator, ceiling: ContentMode
) -> GateCase:
    asked = await asyncio.to_thread(_mode_of_input, template, test, evaluator.detector)
    if is_above(asked, template.content_mode):
        known = "of the refused class" if asked == "refused" else "nsfw, above sfw"
        return _failed(test, f"the input is {known}; no model was asked")
    masked = await asyncio.to_thread(protect, test.input)
    counter = evaluator.counters[template.token_unit]
    style = style_of(template)
    if style != "text" and why_no_model(template, masked, counter) is not None:
        return _failed(test, "the input leaves a model nothing to add; no model was asked")
    text = test.input if style == "text" else masked.text
    try:
        choice = choice_of(test.seed, text)
        composed = compose(template, text, seed=choice, variables=test.variables)
    except InvalidPayload as error:
        return _failed(test, error.message)
    try:
        run = await _draw(template, test, composed, masked, evaluator)
        raw = run.text
        fitted = await asyncio.to_thread(
            lambda: fit(raw, masked, limit=template.token_limit, counter=counter, style=style)
        )
    except (WorkerAnswerInvalid, TokenLimitExceeded) as error:
        return _failed(test, f"there is no usable text: {error.message}", error.attempts)
    mode = await asyncio.to_thread(lambda: _gravest(raw, fitted.text, evaluator))
    failures = tuple(_failures(fitted, mode, test, template))
    return GateCase(
        name=test.name,
        failures=failures,
        # What is refused for everyone is refused for authors too.
        output=None if is_above(mode, ceiling) else fitted.text,
        tokens=fitted.tokens,
        attempts=run.attempts,
    )


async def _draw(
    template: Template,
    test: TemplateTest,
    composed: Composed,
    masked: Masked,
    evaluator: TemplateEvaluator,
) -> ModelRun:
    """Return the first usable text of as many draws as a request has, within its deadline.

    A text above the mode is drawn again as in a request; the last one is returned and judged.
    """
    deadline = evaluator.clock.monotonic() + evaluator.worker_timeout_s
    request_id = evaluator.ids.request_id()
    attempt = 0
    while True:
        attempt += 1
        left = deadline - evaluator.clock.monotonic()
        if left <= 0:
            raise WorkerTimeout("The worker did not answer the template's test in time.")
        try:
            run = await draw_text(
                template,
                composed,
                masked,
                seed=test.seed,
                attempt=attempt,
                request_id=request_id,
                timeout_s=left,
                drawing=evaluator,
            )
        except WorkerUnavailable as error:
            invalid = _about_the_template(error)
            if invalid is None:
                raise
            if attempt == MAX_ATTEMPTS or invalid is not error:
                invalid.attempts = attempt
                raise invalid from None
            continue
        found = await asyncio.to_thread(evaluator.detector.detect, run.text)
        if attempt == MAX_ATTEMPTS or not is_above(found.mode, _highest_mode(test, template)):
            return replace(run, attempts=attempt)


def _mode_of_input(
    template: Template, test: TemplateTest, detector: ContentModeDetector
) -> Verdict:
    """Return what a request for the template with the test's texts would be judged as."""
    nsfw = template.content_mode == "nsfw"
    found = detect_request(test.input, test.variables, detector, nsfw=nsfw)
    if found.mode != "refused" and test.variables:
        found = refused_when_filled(test.input, test.variables, template, detector) or found
    return found.mode


def _gravest(raw: str, fitted: str, evaluator: TemplateEvaluator) -> Verdict:
    """Return the mode of what the worker wrote, or of what would be answered if that is graver."""
    modes = {evaluator.detector.detect(text).mode for text in (raw, fitted)}
    if "refused" in modes:
        return "refused"
    return "nsfw" if "nsfw" in modes else "sfw"


def _about_the_template(error: WorkerUnavailable) -> WorkerAnswerInvalid | None:
    """Return ``error`` as one that the template is to blame for, None where the worker is."""
    if isinstance(error, WorkerAnswerInvalid):
        return error
    if error.details is not None and error.details.get("status") == 400:
        return WorkerAnswerInvalid(f"{error.message} {error.suggested_action}")
    return None


def _failures(
    fitted: FittedPrompt, mode: Verdict, test: TemplateTest, template: Template
) -> Iterator[str]:
    highest = _highest_mode(test, template)
    if is_above(mode, highest):
        known = "of the refused class" if mode == "refused" else f"{mode}, above {highest}"
        yield f"the output is {known}"
    if not fitted.text.strip():
        yield "there is no usable text: nothing of the output is left"
    found = fitted.text.casefold()
    for number, text in enumerate(test.must_keep, start=1):
        if text.casefold() not in found:
            yield f"must_keep, text {number} of {len(test.must_keep)}, is missing"
    for number, text in enumerate(test.must_not, start=1):
        if text.casefold() in found:
            yield f"must_not, text {number} of {len(test.must_not)}, is there"
    limit = most_tokens(test, template)
    if fitted.tokens > limit:
        yield f"the output has {fitted.tokens} tokens, over {limit}"


def _highest_mode(test: TemplateTest, template: Template) -> ContentMode:
    return template.content_mode if test.mode is None else test.mode


def _failed(test: TemplateTest, why: str, attempts: int = 0) -> GateCase:
    return GateCase(name=test.name, failures=(why,), output=None, tokens=None, attempts=attempts)
