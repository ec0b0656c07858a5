"""Getting the text: from the worker, at most twice; by rules where it gives no usable one."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeVar

from onbook.domain.enhancement import EnhanceCommand, IntegrityStatus, ModelRun, Strategy
from onbook.domain.errors import (
    OnbookError,
    PurityViolation,
    WorkerAnswerInvalid,
    WorkerTimeout,
    WorkerUnavailable,
)
from onbook.domain.fitting.additions import without_echo
from onbook.domain.fitting.clauses import Style
from onbook.domain.fitting.refusals import is_refusal
from onbook.domain.fitting.rules import enhance_by_rules
from onbook.flows.enhance_services import EnhanceServices, Prepared
from onbook.flows.infer_verified import infer_verified

MAX_ATTEMPTS: Final = 2
# Below this room no clause of worth can be added, so a model would be asked for nothing.
_LEAST_ROOM_TOKENS: Final = 6
# The longest prompt that a caller may send, and as much again for what a model adds.
_LONGEST_OUTPUT_CHARS: Final = 16_000
# Up to here a text costs the event loop less than a switch of threads would disturb it.
_SHORT_CHARS: Final = 2000
# The worker takes seeds below this one.
_SEEDS: Final = 2**32 - 1

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenPrompt:
    """What is going to be fitted, and where it came from."""

    raw: str
    strategy: Strategy
    run: ModelRun | None
    attempts: int
    integrity: IntegrityStatus
    rejected_receipt: Mapping[str, object] | None = None
    warnings: tuple[str, ...] = ()


async def write_prompt(
    command: EnhanceCommand, prepared: Prepared, services: EnhanceServices
) -> WrittenPrompt:
    """Ask the worker, at most twice; without a usable result, write by rules."""
    template = prepared.resolved.template
    counter = services.counters[template.token_unit]
    room = template.token_limit - counter.count(counter.canonical(command.prompt))
    if not prepared.masked.text or room < _LEAST_ROOM_TOKENS:
        why = (
            "The prompt has no words to enhance; it was passed through."
            if not prepared.masked.text
            else "The prompt fills the token limit; no model was asked to add to it."
        )
        return _without_model(prepared, "passthrough", (why,))
    deadline = services.clock.monotonic() + services.worker_timeout_s
    services.observer.sending(prepared.request_id, prepared.composed, template.max_tokens)
    error: OnbookError = WorkerTimeout("The worker did not answer in time.")
    attempt = 0
    while attempt < MAX_ATTEMPTS and (left := deadline - services.clock.monotonic()) > 0:
        attempt += 1
        try:
            run = await _attempt(prepared, services, attempt, left)
        except (WorkerUnavailable, WorkerTimeout, PurityViolation) as failure:
            error = failure
            services.observer.worker_failed(prepared.request_id, failure, attempt)
            # Only a bad text is worth another draw; a worker that is away or lies is not.
            if type(failure) is not WorkerAnswerInvalid:
                break
        else:
            services.observer.inferred(prepared.request_id, run)
            return WrittenPrompt(
                raw=run.text,
                strategy="template" if attempt == 1 else "template_retry",
                run=run,
                attempts=attempt,
                integrity=run.integrity,
            )
    error.attempts = attempt
    if not command.allow_fallback:
        raise error
    return _by_rules(prepared, error)


async def _attempt(
    prepared: Prepared, services: EnhanceServices, attempt: int, timeout_s: float
) -> ModelRun:
    run = await infer_verified(
        prepared.resolved.template,
        prepared.composed,
        seed=(prepared.seed + attempt - 1) % _SEEDS,
        request_id=prepared.request_id,
        nonce=services.ids.nonce(),
        timeout_s=timeout_s,
        worker=services.worker,
        required=services.require_receipts,
    )
    if len(run.text) > _LONGEST_OUTPUT_CHARS:
        raise WorkerAnswerInvalid("The worker's text is longer than a prompt can be.")
    if run.finish_reason == "length":
        raise WorkerAnswerInvalid("The model did not come to an end within max_tokens.")
    if not run.text.strip():
        raise WorkerAnswerInvalid("The model wrote nothing.")
    # The user's own "I can't" comes back with every output; only what the model added declines.
    if is_refusal(without_echo(run.text, prepared.masked)):
        raise WorkerAnswerInvalid("The model declined instead of writing a prompt.")
    output = await off_loop(len(run.text), lambda: services.detector.detect(run.text))
    if output.mode == "refused" or (
        output.mode == "nsfw"
        and prepared.decision.effective_mode == "sfw"
        # Words that the user chose, for which he chose sfw, come back with every output.
        and prepared.decision.mode == "sfw"
    ):
        raise WorkerAnswerInvalid("The model's text is above the request's content mode.")
    return replace(run, attempts=attempt)


def _by_rules(prepared: Prepared, error: OnbookError) -> WrittenPrompt:
    why = f"No model output was used ({error.code}: {error.message}); rules wrote the prompt."
    raw = enhance_by_rules(prepared.masked, target=reader_of(prepared), seed=prepared.seed)
    violated = isinstance(error, PurityViolation)
    return WrittenPrompt(
        raw=raw,
        strategy="rules",
        run=None,
        attempts=error.attempts,
        integrity="violation" if violated else "not_applicable",
        rejected_receipt=error.receipt,
        warnings=(why,),
    )


def _without_model(
    prepared: Prepared, strategy: Strategy, warnings: tuple[str, ...]
) -> WrittenPrompt:
    return WrittenPrompt(
        raw=prepared.masked.text,
        strategy=strategy,
        run=None,
        attempts=0,
        integrity="not_applicable",
        warnings=warnings,
    )


def style_of(prepared: Prepared) -> Style:
    """Video models read sentences, SDXL's CLIP reads tags."""
    return "sentences" if reader_of(prepared) == "wan" else "tags"


def reader_of(prepared: Prepared) -> Literal["sdxl", "wan"]:
    """Return which of the two kinds of generator reads the prompt."""
    template = prepared.resolved.template
    return "wan" if template.target == "wan" or template.token_unit == "umt5" else "sdxl"


async def off_loop(chars: int, work: Callable[[], T]) -> T:
    """Do ``work`` on a text of ``chars`` characters without holding up other requests."""
    return work() if chars <= _SHORT_CHARS else await asyncio.to_thread(work)
