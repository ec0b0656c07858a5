"""Enhancing one prompt: mode, template, protect, compose, infer, verify, fit, record, answer."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal

from onbook.domain.content_mode.decision import (
    ContentDecision,
    ContentMode,
    ContentModeDetector,
)
from onbook.domain.content_mode.policy import ceiling_of, decide, enforce
from onbook.domain.enhancement import (
    Caller,
    EnhanceCommand,
    Enhancement,
    IntegrityStatus,
    ModelRun,
    Strategy,
)
from onbook.domain.errors import (
    InvalidPayload,
    OnbookError,
    PurityViolation,
    WorkerAnswerInvalid,
    WorkerTimeout,
    WorkerUnavailable,
)
from onbook.domain.fitting.clauses import Style
from onbook.domain.fitting.fit import FittedPrompt, fit
from onbook.domain.fitting.refusals import is_refusal
from onbook.domain.fitting.rules import enhance_by_rules
from onbook.domain.messages import Composed, compose
from onbook.domain.must_keep import Masked, protect
from onbook.domain.templates import ResolvedTemplate, TemplateKey, UseCase
from onbook.flows.infer_verified import infer_verified, messages_sha256
from onbook.flows.record_enhancement import Failure, record_enhancement, record_failure
from onbook.flows.resolve_template import TemplateBook
from onbook.ports.clock import Clock, IdSource
from onbook.ports.inference import InferenceWorker
from onbook.ports.stores import EnhancementLog
from onbook.ports.telemetry import EnhanceObserver
from onbook.ports.tokenizing import TokenCounters

USE_CASES: Final[tuple[UseCase, ...]] = ("enhancement", "generation")
MAX_ATTEMPTS: Final = 2
# Below this room no clause of worth can be added, so a model would be asked for nothing.
_LEAST_ROOM_TOKENS: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class EnhanceServices:
    """What the flow works with. ``worker_timeout_s`` spans all attempts of one request."""

    book: TemplateBook
    detector: ContentModeDetector
    worker: InferenceWorker
    log: EnhancementLog
    counters: TokenCounters
    observer: EnhanceObserver
    clock: Clock
    ids: IdSource
    ceiling: ContentMode
    worker_timeout_s: float
    require_receipts: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A request up to the point where the worker is asked."""

    request_id: str
    decision: ContentDecision
    resolved: ResolvedTemplate
    masked: Masked
    composed: Composed
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Text:
    """What is going to be fitted, and where it came from."""

    raw: str
    strategy: Strategy
    run: ModelRun | None
    attempts: int
    integrity: IntegrityStatus
    warnings: tuple[str, ...] = ()


async def enhance_prompt(
    command: EnhanceCommand, caller: Caller, request_id: str, services: EnhanceServices
) -> Enhancement:
    """Enhance one prompt and return it once its row is committed.

    Raises:
        ContentRefused: the text is of the refused class.
        ContentModeNotAllowed: the text or the wish is nsfw, above the ceiling.
        TemplateNotFound: the caller named a template that does not exist.
        TokenLimitExceeded: what must be kept does not fit the limit.
        WorkerUnavailable, WorkerTimeout, PurityViolation: and no fallback was allowed.
        AuditWriteFailed: the row could not be committed; the answer is withheld.
    """
    started = services.clock.monotonic()
    created_at = services.clock.now()
    services.observer.requested(request_id, command)
    decision: ContentDecision | None = None
    try:
        decision = decide_mode(command, caller, services)
        enforce(decision, ceiling=_ceiling(caller, services))
        prepared = prepare(command, request_id, decision, services)
        text = await _write(command, prepared, services)
        fitted = _fit(text, prepared, services)
    except OnbookError as error:
        elapsed = (services.clock.monotonic() - started) * 1000
        failure = Failure(request_id, created_at, command, caller, decision, error, elapsed)
        await record_failure(failure, services.log, services.ids)
        services.observer.failed(request_id, error)
        raise
    elapsed = (services.clock.monotonic() - started) * 1000
    enhancement = _enhancement(command, caller, prepared, text, fitted, created_at, elapsed)
    await record_enhancement(enhancement, services.log, services.ids)
    services.observer.finished(enhancement)
    return enhancement


def _enhancement(
    command: EnhanceCommand,
    caller: Caller,
    prepared: Prepared,
    text: _Text,
    fitted: FittedPrompt,
    created_at: datetime,
    elapsed_ms: float,
) -> Enhancement:
    return Enhancement(
        request_id=prepared.request_id,
        created_at=created_at,
        caller=caller,
        command=command,
        decision=prepared.decision,
        resolved=prepared.resolved,
        messages=prepared.composed.messages,
        messages_sha256=messages_sha256(prepared.composed.messages),
        seed=prepared.seed,
        enhanced_prompt=fitted.text,
        negative_prompt=_negative_prompt(command, prepared),
        strategy=text.strategy,
        fallback_level=_level(text, prepared),
        run=text.run,
        attempts=text.attempts,
        token_count=fitted.tokens,
        token_limit=fitted.limit,
        tokenizer=fitted.tokenizer,
        tokens_before_compression=fitted.tokens_before,
        compression_applied=fitted.compressed,
        compression_cuts=fitted.cuts,
        kept=fitted.kept,
        added=fitted.added,
        dropped=fitted.dropped,
        execution_time_ms=elapsed_ms,
        integrity=text.integrity,
        warnings=(
            *command.warnings,
            *prepared.resolved.warnings,
            *text.warnings,
            *fitted.warnings,
        ),
        fitting_steps=tuple(step.name for step in fitted.steps),
    )


def decide_mode(
    command: EnhanceCommand, caller: Caller, services: EnhanceServices
) -> ContentDecision:
    """Return what the text is and which mode it may be served in."""
    detection = services.detector.detect(command.prompt)
    if command.negative_prompt and detection.mode != "refused":
        # A negative prompt names what must not appear, so only the refused class counts there.
        negative = services.detector.detect(command.negative_prompt)
        detection = negative if negative.mode == "refused" else detection
    return decide(
        detection,
        identity=services.detector.identity,
        requested=command.content_type,
        ceiling=_ceiling(caller, services),
    )


def prepare(
    command: EnhanceCommand,
    request_id: str,
    decision: ContentDecision,
    services: EnhanceServices,
) -> Prepared:
    """Resolve the template, protect the prompt and compose the messages.

    Raises:
        TemplateNotFound: the caller named a template that does not exist.
        InvalidPayload: the model type, the target or the named template does not go here.
    """
    book, mode = services.book, decision.effective_mode
    _check_registered("selectedModel", command.selected_model, book.model_types())
    _check_registered("target", command.target, book.targets())
    if command.template_name is not None:
        resolved = book.named(command.template_name, command.template_version, mode, USE_CASES)
    else:
        key = TemplateKey(command.selected_model, "enhancement", mode, command.target)
        resolved = book.resolve(key)
    services.observer.template_selected(request_id, resolved)
    # Whoever asks for another result wants another draw, whatever seed came along.
    given = None if command.regeneration else command.seed
    seed = services.ids.seed() if given is None else given
    masked = protect(command.prompt)
    composed = compose(resolved.template, masked.text, seed=seed)
    return Prepared(
        request_id=request_id,
        decision=decision,
        resolved=resolved,
        masked=masked,
        composed=composed,
        seed=seed,
    )


async def _write(command: EnhanceCommand, prepared: Prepared, services: EnhanceServices) -> _Text:
    """Ask the worker, at most twice; without a usable result, write by rules."""
    template = prepared.resolved.template
    counter = services.counters[template.token_unit]
    room = template.token_limit - counter.count(counter.canonical(command.prompt))
    if not prepared.masked.text or room < _LEAST_ROOM_TOKENS:
        why = (
            "The prompt has no words to enhance; it was passed through."
            if not prepared.masked.text
            else "The prompt fills the token limit; it was passed through without a model."
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
            return _Text(
                raw=run.text,
                strategy="template" if attempt == 1 else "template_retry",
                run=run,
                attempts=attempt,
                integrity=run.integrity,
            )
    if not command.allow_fallback:
        raise error
    return _by_rules(prepared, error, attempt)


async def _attempt(
    prepared: Prepared, services: EnhanceServices, attempt: int, timeout_s: float
) -> ModelRun:
    run = await infer_verified(
        prepared.resolved.template,
        prepared.composed,
        seed=(prepared.seed + attempt - 1) % 2**31,
        request_id=prepared.request_id,
        nonce=services.ids.nonce(),
        timeout_s=timeout_s,
        worker=services.worker,
        required=services.require_receipts,
    )
    if run.finish_reason == "length":
        raise WorkerAnswerInvalid("The model did not come to an end within max_tokens.")
    if not run.text.strip():
        raise WorkerAnswerInvalid("The model wrote nothing.")
    if is_refusal(run.text):
        raise WorkerAnswerInvalid("The model declined instead of writing a prompt.")
    output = services.detector.detect(run.text)
    if output.mode == "refused" or (
        output.mode == "nsfw"
        and prepared.decision.effective_mode == "sfw"
        # Words that the user chose, for which he chose sfw, come back with every output.
        and prepared.decision.mode == "sfw"
    ):
        raise WorkerAnswerInvalid("The model's text is above the request's content mode.")
    return replace(run, attempts=attempt)


def _by_rules(prepared: Prepared, error: OnbookError, attempts: int) -> _Text:
    why = f"No model output was used ({error.code}: {error.message}); rules wrote the prompt."
    raw = enhance_by_rules(prepared.masked, target=_rules_target(prepared), seed=prepared.seed)
    violated = isinstance(error, PurityViolation)
    return _Text(
        raw=raw,
        strategy="rules",
        run=None,
        attempts=attempts,
        integrity="violation" if violated else "not_applicable",
        warnings=(why,),
    )


def _without_model(prepared: Prepared, strategy: Strategy, warnings: tuple[str, ...]) -> _Text:
    return _Text(
        raw=prepared.masked.text,
        strategy=strategy,
        run=None,
        attempts=0,
        integrity="not_applicable",
        warnings=warnings,
    )


def _fit(text: _Text, prepared: Prepared, services: EnhanceServices) -> FittedPrompt:
    template = prepared.resolved.template
    return fit(
        text.raw,
        prepared.masked,
        limit=template.token_limit,
        counter=services.counters[template.token_unit],
        style=_style(prepared),
    )


def _style(prepared: Prepared) -> Style:
    """Video models read sentences, SDXL's CLIP reads tags."""
    return "sentences" if _rules_target(prepared) == "wan" else "tags"


def _rules_target(prepared: Prepared) -> Literal["sdxl", "wan"]:
    template = prepared.resolved.template
    return "wan" if template.target == "wan" or template.token_unit == "umt5" else "sdxl"


def _level(text: _Text, prepared: Prepared) -> Literal[0, 1, 2, 3]:
    return 3 if text.run is None else prepared.resolved.fallback_level


def _ceiling(caller: Caller, services: EnhanceServices) -> ContentMode:
    return ceiling_of(services.ceiling, key_allows_nsfw=caller.may("nsfw"))


def _negative_prompt(command: EnhanceCommand, prepared: Prepared) -> str | None:
    """Return the template's negative prompt with the user's behind it."""
    parts = (prepared.resolved.template.negative_prompt, command.negative_prompt)
    texts = [part.strip().strip(",").strip() for part in parts if part and part.strip(" ,\n\t")]
    return ", ".join(texts) or None


def _check_registered(field: str, value: str, registered: frozenset[str]) -> None:
    if value not in registered:
        raise InvalidPayload(
            f"The {field} is not registered here.",
            details={"fields": [field], "registered": sorted(registered)},
        )
