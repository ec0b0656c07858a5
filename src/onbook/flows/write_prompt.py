"""Getting the text: from the worker, at most twice; by rules where it gives no usable one."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from onbook.domain.enhancement import EnhanceCommand, IntegrityStatus, ModelRun, Strategy
from onbook.domain.errors import (
    OnbookError,
    PurityViolation,
    WorkerAnswerInvalid,
    WorkerTimeout,
    WorkerUnavailable,
)
from onbook.domain.fitting.rules import enhance_by_rules
from onbook.flows.draw_text import MAX_ATTEMPTS, draw_text, reader_of, why_no_model
from onbook.flows.enhance_services import EnhanceServices, Prepared
from onbook.flows.off_loop import off_loop


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
    why = why_no_model(template, prepared.masked, counter)
    if why is not None:
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
                warnings=run.warnings,
            )
    error.attempts = attempt
    if not command.allow_fallback:
        raise error
    return _by_rules(prepared, error)


async def _attempt(
    prepared: Prepared, services: EnhanceServices, attempt: int, timeout_s: float
) -> ModelRun:
    run = await draw_text(
        prepared.resolved.template,
        prepared.composed,
        prepared.masked,
        seed=prepared.seed,
        attempt=attempt,
        request_id=prepared.request_id,
        timeout_s=timeout_s,
        drawing=services,
    )
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
    raw = enhance_by_rules(
        prepared.masked, target=reader_of(prepared.resolved.template), seed=prepared.seed
    )
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
