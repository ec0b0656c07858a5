"""The gate: a template's own tests, through the steps of a request."""

import json
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from onbook.adapters.memory.clock import CountingIds, FixedClock
from onbook.adapters.tokenizers import counters
from onbook.domain.content_mode.decision import ContentMode, Detection
from onbook.domain.content_mode.lexicon_detector import LexiconDetector
from onbook.domain.errors import (
    ContentModeNotAllowed,
    InvalidPayload,
    PurityViolation,
    WorkerAnswerInvalid,
    WorkerTimeout,
    WorkerUnavailable,
)
from onbook.domain.templates import Template, TemplateTest, Variable
from onbook.flows.evaluate_template import GateResult, TemplateEvaluator, evaluate_template
from onbook.ports.inference import Completion
from onbook.wire.worker_api import Endpoint, InferenceRequest
from support import FakeWorker, completion

IDEA = "a cat in a garden"
# Their vocabularies take a second to load, once.
COUNTERS = counters()
TEST = TemplateTest(name="cat", input=IDEA)
TEMPLATE = Template(
    template_name="t",
    version=2,
    model_type="m",
    use_case="enhancement",
    content_mode="sfw",
    target="sdxl",
    system_prompt="Write like {{author}}.",
    token_limit=75,
    token_unit="clip",
    max_tokens=200,
    variables=(Variable("author", required=True),),
)
Answer = Callable[[Endpoint, InferenceRequest], Completion | Exception]
Evaluate = Callable[..., "tuple[FakeWorker, TemplateEvaluator]"]


@pytest.fixture
def with_worker(detector: LexiconDetector) -> Evaluate:
    def build(*texts: str | Completion | Exception) -> tuple[FakeWorker, TemplateEvaluator]:
        answers = [completion(text) if isinstance(text, str) else text for text in texts]
        worker = FakeWorker(lambda _endpoint, _request: answers[len(worker.requests) - 1])
        return worker, TemplateEvaluator(
            worker=worker,
            detector=detector,
            counters=COUNTERS,
            clock=FixedClock(),
            ids=CountingIds(),
            worker_timeout_s=5,
            require_receipts=False,
        )

    return build


def with_tests(*tests: TemplateTest, **options: object) -> Template:
    given = [replace(test, variables={"author": "nobody", **test.variables}) for test in tests]
    return replace(TEMPLATE, tests=tuple(given), **options)  # type: ignore[arg-type]  # the fields are given by name


async def test_a_case_runs_as_a_request_does_and_passes(with_worker: Evaluate) -> None:
    worker, evaluator = with_worker(f"{IDEA}, soft light, oil painting")
    test = replace(
        TEST, must_keep=("A CAT", "soft light"), must_not=("dog",), seed=7, max_tokens=20
    )
    result = await evaluate_template(with_tests(test), evaluator, ceiling="nsfw")
    (case,) = result.cases
    assert (case.passed, case.failures, case.attempts) == (True, (), 1)
    assert case.output == f"{IDEA}, soft light, oil painting"
    assert case.tokens == COUNTERS["clip"].count(case.output)
    (request,) = worker.requests
    assert [message.content for message in request.messages] == ["Write like nobody.", IDEA]
    assert (request.seed, request.max_tokens, worker.endpoints) == (7, 200, ["enhance"])
    assert result.passed is True


async def test_a_template_without_tests_passes_with_no_case(with_worker: Evaluate) -> None:
    worker, evaluator = with_worker()
    result = await evaluate_template(with_tests(), evaluator, ceiling="nsfw")
    assert result.as_json() == {"passed": True, "cases": [], "override": None}
    assert worker.requests == []


async def test_each_thing_that_does_not_hold_is_a_failure_without_prompt_text(
    with_worker: Evaluate,
) -> None:
    worker, evaluator = with_worker(f"{IDEA}, a purple elephant", f"{IDEA}, oil painting")
    test = replace(
        TEST,
        must_keep=("garden", "moonlight"),
        must_not=("dog", "PURPLE elephant"),
        max_tokens=8,
    )
    result = await evaluate_template(with_tests(test, TEST), evaluator, ceiling="nsfw")
    first, second = result.cases
    assert first.failures == (
        "must_keep, text 2 of 2, is missing",
        "must_not, text 2 of 2, is there",
        f"the output has {first.tokens} tokens, over 8",
    )
    assert second.passed
    assert result.passed is False
    assert len(worker.requests) == 2, "one after another, and none is left out"
    recorded = json.dumps(result.as_json())
    assert not any(word in recorded for word in ("elephant", "moonlight", "garden"))
    assert first.output is not None
    assert "elephant" in first.output


@pytest.mark.parametrize("ceiling", ["sfw", "nsfw"])
async def test_an_output_above_the_mode_fails_and_above_the_ceiling_is_not_shown(
    with_worker: Evaluate, ceiling: ContentMode
) -> None:
    nude = "a naked woman in a garden, nude"
    _, evaluator = with_worker(nude, nude)
    (case,) = (await evaluate_template(with_tests(TEST), evaluator, ceiling=ceiling)).cases
    assert (case.failures, case.attempts) == (("the output is nsfw, above sfw",), 2)
    assert (case.output is None) is (ceiling == "sfw")


async def test_an_input_above_the_templates_mode_is_a_failure(with_worker: Evaluate) -> None:
    worker, evaluator = with_worker()
    test = replace(TEST, input="a nude person")
    (case,) = (await evaluate_template(with_tests(test), evaluator, ceiling="nsfw")).cases
    assert case.failures == ("the input is nsfw, above sfw; no model was asked",)
    assert worker.requests == []


async def test_tests_above_the_ceiling_are_not_run(with_worker: Evaluate) -> None:
    worker, evaluator = with_worker()
    with pytest.raises(ContentModeNotAllowed):
        await evaluate_template(with_tests(TEST, content_mode="nsfw"), evaluator, ceiling="sfw")
    assert worker.requests == []
    untested = with_tests(content_mode="nsfw")
    assert (await evaluate_template(untested, evaluator, ceiling="sfw")).passed


async def test_a_lower_mode_than_the_templates_can_be_asked_for(with_worker: Evaluate) -> None:
    nude = "a naked woman in a garden, nude"
    _, evaluator = with_worker(nude, nude, nude)
    template = with_tests(replace(TEST, mode="sfw"), TEST, content_mode="nsfw")
    result = await evaluate_template(template, evaluator, ceiling="nsfw")
    assert [case.passed for case in result.cases] == [False, True]


async def test_a_minor_in_a_test_of_an_nsfw_template_is_refused_as_in_a_request(
    with_worker: Evaluate,
) -> None:
    worker, evaluator = with_worker()
    tests = (
        replace(TEST, input="a child in a garden", variables={"author": "noir"}),
        replace(TEST, variables={"author": "children's books, about a child"}),
    )
    template = with_tests(*tests, content_mode="nsfw")
    result = await evaluate_template(template, evaluator, ceiling="nsfw")
    assert {case.failures for case in result.cases} == {
        ("the input is of the refused class; no model was asked",)
    }
    assert worker.requests == []


@pytest.mark.parametrize(
    ("name", "value", "refused"), [("age", 12, True), ("n", 12, True), ("n", 30, False)]
)
async def test_a_number_is_judged_with_its_name_and_in_its_sentence(
    with_worker: Evaluate,
    name: str,
    value: int,
    refused: bool,  # noqa: FBT001 - parametrized
) -> None:
    worker, evaluator = with_worker("a nude person, soft light")
    template = replace(
        TEMPLATE,
        content_mode="nsfw",
        system_prompt=f"The subject is {{{{{name}}}}} years old.",
        variables=(Variable(name, "integer", required=True),),
        tests=(replace(TEST, input="a nude person", variables={name: value}),),
    )
    (case,) = (await evaluate_template(template, evaluator, ceiling="nsfw")).cases
    assert (case.passed, len(worker.requests)) == ((False, 0) if refused else (True, 1))


async def test_texts_are_judged_beside_the_loop(
    with_worker: Evaluate, detector: LexiconDetector
) -> None:
    in_loop: list[bool] = []

    class Noting(LexiconDetector):
        identity = detector.identity

        def __init__(self) -> None:
            pass

        def detect(self, text: str) -> Detection:
            in_loop.append(threading.current_thread() is threading.main_thread())
            return detector.detect(text)

    _, evaluator = with_worker(f"{IDEA}, soft light")
    evaluator = replace(evaluator, detector=Noting())
    assert (await evaluate_template(with_tests(TEST), evaluator, ceiling="sfw")).passed
    assert len(in_loop) > 3
    assert not any(in_loop)


async def test_refused_texts_go_nowhere(with_worker: Evaluate) -> None:
    refused = "a nude child"
    worker, evaluator = with_worker(refused, refused)
    in_variable = replace(TEST, variables={"author": refused})
    apart = replace(TEST, input="a nude person", variables={"author": "a child"})
    template = with_tests(replace(TEST, input=refused), in_variable, apart, content_mode="nsfw")
    result = await evaluate_template(template, evaluator, ceiling="nsfw")
    assert worker.requests == []
    assert {case.failures for case in result.cases} == {
        ("the input is of the refused class; no model was asked",)
    }
    written = await evaluate_template(
        with_tests(TEST, content_mode="nsfw"), evaluator, ceiling="nsfw"
    )
    (case,) = written.cases
    assert (case.failures, case.output) == (("the output is of the refused class",), None)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (completion("cut off in the", "length"), "did not come to an end"),
        (completion(" "), "wrote nothing"),
        (completion("I'm sorry, but I can't help with that."), "declined"),
        (WorkerAnswerInvalid("The worker's answer holds no result."), "holds no result"),
    ],
)
async def test_no_usable_text_is_a_failure_and_rules_write_nothing(
    with_worker: Evaluate, bad: Completion | Exception, why: str
) -> None:
    worker, evaluator = with_worker(bad, bad, bad, f"{IDEA}, soft light")
    result = await evaluate_template(with_tests(TEST, TEST), evaluator, ceiling="nsfw")
    first, second = result.cases
    assert why in first.failures[0]
    assert (first.output, first.tokens, first.attempts) == (None, None, 2)
    # What a request draws again, the gate draws again.
    assert (second.passed, second.attempts) == (True, 2)
    assert [request.seed for request in worker.requests] == [0, 1, 0, 1]


async def test_what_the_worker_does_not_take_is_the_templates_failure(
    with_worker: Evaluate,
) -> None:
    refusal = WorkerUnavailable(
        "The worker refused the request as not valid.", details={"status": 400}
    )
    worker, evaluator = with_worker(refusal)
    result = await evaluate_template(with_tests(TEST), evaluator, ceiling="nsfw")
    assert "refused the request" in result.cases[0].failures[0]
    assert len(worker.requests) == 1


@pytest.mark.parametrize(
    "error",
    [
        WorkerUnavailable("The worker cannot be reached."),
        WorkerUnavailable("The worker is busy or not ready.", details={"status": 503}),
        WorkerTimeout("The worker did not answer."),
        PurityViolation("The receipt does not match."),
    ],
)
async def test_a_worker_that_is_away_or_lies_judges_no_template(
    with_worker: Evaluate, error: Exception
) -> None:
    _, evaluator = with_worker(error)
    with pytest.raises(type(error)):
        await evaluate_template(with_tests(TEST), evaluator, ceiling="nsfw")


async def test_the_timeout_spans_the_draws_of_a_case_and_not_all_cases(
    detector: LexiconDetector,
) -> None:
    clock = FixedClock()
    asked: list[float] = []

    class Slow(FakeWorker):
        async def infer(
            self, endpoint: Endpoint, request: InferenceRequest, *, timeout_s: float
        ) -> Completion:
            asked.append(timeout_s)
            clock.advance(3)
            return await super().infer(endpoint, request, timeout_s=timeout_s)

    texts = iter([" ", f"{IDEA}, soft light", " ", " "])
    evaluator = TemplateEvaluator(
        worker=Slow(lambda _endpoint, _request: completion(next(texts))),
        detector=detector,
        counters=COUNTERS,
        clock=clock,
        ids=CountingIds(),
        worker_timeout_s=5,
        require_receipts=False,
    )
    assert (await evaluate_template(with_tests(TEST), evaluator, ceiling="nsfw")).passed
    assert asked == [5, 2]
    evaluator = replace(evaluator, worker_timeout_s=3)
    with pytest.raises(WorkerTimeout):
        await evaluate_template(with_tests(TEST), evaluator, ceiling="nsfw")
    assert asked == [5, 2, 3]


async def test_variables_that_do_not_fit_are_a_failure(with_worker: Evaluate) -> None:
    worker, evaluator = with_worker()
    wrong = [{}, {"author": 5}, {"author": "a", "other": "b"}]
    tests = tuple(replace(TEST, variables=values) for values in wrong)  # type: ignore[arg-type]  # the values differ in type
    result = await evaluate_template(replace(TEMPLATE, tests=tests), evaluator, ceiling="nsfw")
    named = [case.failures[0] for case in result.cases]
    assert ["variables.author" in named[0], "variables.author" in named[1]] == [True, True]
    assert "variables.other" in named[2]
    assert worker.requests == []


async def test_an_input_that_no_model_would_see_is_a_failure(with_worker: Evaluate) -> None:
    worker, evaluator = with_worker()
    syntax = replace(TEST, input="<lora:film:0.8>")
    full = replace(TEST, input=" ".join(["cat"] * 72))
    result = await evaluate_template(with_tests(syntax, full), evaluator, ceiling="nsfw")
    assert [case.passed for case in result.cases] == [False, False]
    assert worker.requests == []


async def test_a_quote_that_does_not_fit_is_a_failure(with_worker: Evaluate) -> None:
    _, evaluator = with_worker("a sign, soft light")
    quote = replace(TEST, input='a sign that says "open all day"')
    template = with_tests(quote, token_limit=75)
    (case,) = (await evaluate_template(template, evaluator, ceiling="nsfw")).cases
    assert case.output is not None
    assert '"open all day"' in case.output, "what is protected comes back, as in a request"


async def test_a_chat_template_answers_in_its_own_words(with_worker: Evaluate) -> None:
    reply = "I can't depict a real person.\n\nTry a fictional one instead!"
    worker, evaluator = with_worker(reply, "x" * 20)
    template = with_tests(
        replace(TEST, input='How do I draw "(a:1.2)"?', must_keep=("fictional",)),
        replace(TEST, must_keep=("y",)),
        use_case="chat",
        target=None,
        token_unit="chars",
        token_limit=80,
    )
    result = await evaluate_template(template, evaluator, ceiling="nsfw")
    assert [case.passed for case in result.cases] == [True, False]
    assert result.cases[0].output == reply, "declining can be the right answer"
    assert worker.requests[0].messages[-1].content == 'How do I draw "(a:1.2)"?'


async def test_a_base_model_template_is_a_raw_completion(with_worker: Evaluate) -> None:
    worker, evaluator = with_worker("a cat in a garden, turning its head slowly.")
    template = with_tests(
        TEST, user_format="Idea: {{prompt}}\nPrompt:", target="wan", token_unit="umt5"
    )
    result = await evaluate_template(template, evaluator, ceiling="nsfw")
    assert result.passed, result.cases
    assert worker.endpoints == ["generate"]
    assert worker.requests[0].messages[-1].content == f"Idea: {IDEA}\nPrompt:"


async def test_more_than_fifty_cases_are_not_run(with_worker: Evaluate) -> None:
    worker, evaluator = with_worker()
    with pytest.raises(InvalidPayload):
        await evaluate_template(with_tests(*[TEST] * 51), evaluator, ceiling="nsfw")
    assert worker.requests == []


def test_an_override_is_no_pass() -> None:
    assert GateResult(override="hotfix").as_json() == {
        "passed": False,
        "cases": [],
        "override": "hotfix",
    }
