"""Enhancing one prompt: mode, template, protect, compose, infer, verify, fit, record, answer."""

import asyncio
from collections.abc import Set as AbstractSet
from datetime import datetime
from heapq import nsmallest
from typing import Final, Literal

from onbook.domain.content_mode.decision import ContentDecision, ContentMode, Detection
from onbook.domain.content_mode.filled import refused_when_filled
from onbook.domain.content_mode.policy import ceiling_of, decide, enforce
from onbook.domain.content_mode.together import detect_request
from onbook.domain.enhancement import Caller, EnhanceCommand, Enhancement
from onbook.domain.errors import InternalError, InvalidPayload, OnbookError, WorkerUnavailable
from onbook.domain.fitting.fit import FittedPrompt, fit
from onbook.domain.messages import compose
from onbook.domain.must_keep import protect
from onbook.domain.templates import Template, TemplateKey, UseCase
from onbook.flows.draw_text import choice_of, style_of
from onbook.flows.enhance_services import EnhanceServices, Prepared
from onbook.flows.infer_verified import messages_sha256
from onbook.flows.off_loop import off_loop
from onbook.flows.record_enhancement import Failure, record_enhancement, record_failure
from onbook.flows.write_prompt import WrittenPrompt, write_prompt

# Terms of a negative prompt that fight a text which the picture shall show.
_AGAINST_TEXT: Final = frozenset({"text", "subtitles", "signature", "letters", "words", "caption"})
# Of more registered names than this an error lists the first ones only.
_MOST_NAMED: Final = 100
USE_CASES: Final[tuple[UseCase, ...]] = ("enhancement", "generation")


async def enhance_prompt(
    command: EnhanceCommand, caller: Caller, request_id: str, services: EnhanceServices
) -> Enhancement:
    """Enhance one prompt and return it once its row is committed.

    Raises:
        ContentRefused: the text is of the refused class.
        ContentModeNotAllowed: the text or the wish is nsfw, above the ceiling.
        TemplateNotFound: the caller named a template or version that does not exist.
        InvalidPayload: a variable is missing, not declared or of the wrong type.
        DatabaseUnavailable: the named version is not known here and the database is away.
        TokenLimitExceeded: what must be kept does not fit the limit.
        WorkerUnavailable, WorkerTimeout, PurityViolation: and no fallback was allowed.
        AuditWriteFailed: the row could not be committed; the answer is withheld.
    """
    started = services.clock.monotonic()
    created_at = services.clock.now()
    services.observer.requested(request_id, command)
    decision: ContentDecision | None = None
    prepared: Prepared | None = None
    try:
        decision = await decide_off_loop(command, caller, services)
        enforce(decision, ceiling=_ceiling(caller, services))
        prepared = await prepare(command, caller, request_id, decision, services)
        decision = prepared.decision
        enforce(decision, ceiling=_ceiling(caller, services))
        text = await write_prompt(command, prepared, services)
        fitted = await off_loop(len(text.raw), lambda: _fit(text, prepared, services))
    except (Exception, asyncio.CancelledError) as error:
        elapsed = (services.clock.monotonic() - started) * 1000
        failure = Failure(
            request_id, created_at, command, caller, decision, prepared, _known(error), elapsed
        )
        await record_failure(failure, services.log, services.ids)
        services.observer.failed(request_id, failure.error)
        raise
    elapsed = (services.clock.monotonic() - started) * 1000
    enhancement = _enhancement(command, caller, prepared, text, fitted, created_at, elapsed)
    await record_enhancement(enhancement, services.log, services.ids)
    services.observer.finished(enhancement)
    return enhancement


def _known(error: BaseException) -> OnbookError:
    """Return what the audit row says of ``error``: a bug and a stop get their row too."""
    if isinstance(error, OnbookError):
        return error
    if isinstance(error, asyncio.CancelledError):
        return WorkerUnavailable("The service stopped before the request was finished.")
    return InternalError("A bug ended the request.")


def _enhancement(
    command: EnhanceCommand,
    caller: Caller,
    prepared: Prepared,
    text: WrittenPrompt,
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
        rejected_receipt=text.rejected_receipt,
        warnings=(
            *command.warnings,
            *prepared.resolved.warnings,
            *text.warnings,
            *fitted.warnings,
        ),
        fitting_steps=tuple(step.name for step in fitted.steps),
        stages=fitted.stages,
    )


async def decide_off_loop(
    command: EnhanceCommand, caller: Caller, services: EnhanceServices
) -> ContentDecision:
    """Return `decide_mode` of the request without holding up other requests."""
    size = len(command.prompt) + len(command.negative_prompt or "") + _variables_size(command)
    return await off_loop(size, lambda: decide_mode(command, caller, services))


def decide_mode(
    command: EnhanceCommand, caller: Caller, services: EnhanceServices
) -> ContentDecision:
    """Return what the text is and which mode it may be served in."""
    detection = detect_request(
        command.prompt,
        command.variables,
        services.detector,
        nsfw=command.content_type == "nsfw",
    )
    if command.negative_prompt and detection.mode != "refused":
        # A negative prompt names what must not appear, so only the refused class counts there.
        negative = services.detector.detect(command.negative_prompt)
        detection = negative if negative.mode == "refused" else detection
    return _decided(detection, command, caller, services)


def _decided(
    detection: Detection, command: EnhanceCommand, caller: Caller, services: EnhanceServices
) -> ContentDecision:
    return decide(
        detection,
        identity=services.detector.identity,
        requested=command.content_type,
        ceiling=_ceiling(caller, services),
    )


async def prepare(
    command: EnhanceCommand,
    caller: Caller,
    request_id: str,
    decision: ContentDecision,
    services: EnhanceServices,
) -> Prepared:
    """Resolve the template, protect the prompt and compose the messages.

    The result's decision is to be enforced once more: what the caller's values say in the words
    of the template is known only here.

    Raises:
        TemplateNotFound: the caller named a template or version that does not exist.
        InvalidPayload: the model type, the target or the named template does not go here, or a
            variable is missing, not declared or of the wrong type.
        DatabaseUnavailable: the named version is not known here and the database is away.
    """
    book, mode = services.book, decision.effective_mode
    _check_registered("selectedModel", command.selected_model, book.model_types())
    _check_registered("target", command.target, book.targets())
    name, version = command.template_name, command.template_version
    if name is not None and version is not None:
        resolved = await book.pinned(name, version, mode, USE_CASES, caller=caller)
    elif name is not None:
        resolved = book.named(name, mode, USE_CASES, caller=caller)
    else:
        key = TemplateKey(command.selected_model, "enhancement", mode, command.target)
        resolved = book.resolve(key, caller=caller, model_chosen=command.model_chosen)
    services.observer.template_selected(request_id, resolved)
    # Whoever asks for another result wants another draw, whatever seed came along.
    given = None if command.regeneration else command.seed
    seed = services.ids.seed() if given is None else given
    masked = protect(command.prompt)
    composed = compose(
        resolved.template,
        masked.text,
        seed=choice_of(seed, masked.text),
        variables=command.variables,
    )
    if command.variables:
        filled = await _refused_when_filled(command, resolved.template, services)
        if filled is not None:
            decision = _decided(filled, command, caller, services)
    return Prepared(
        request_id=request_id,
        decision=decision,
        resolved=resolved,
        masked=masked,
        composed=composed,
        seed=seed,
    )


async def _refused_when_filled(
    command: EnhanceCommand, template: Template, services: EnhanceServices
) -> Detection | None:
    size = len(command.prompt) + _variables_size(command) + len(template.system_prompt)
    return await off_loop(
        size,
        lambda: refused_when_filled(command.prompt, command.variables, template, services.detector),
    )


def _variables_size(command: EnhanceCommand) -> int:
    """Return the characters of the variables with their names."""
    return sum(len(name) + len(str(value)) for name, value in command.variables.items())


def _fit(text: WrittenPrompt, prepared: Prepared, services: EnhanceServices) -> FittedPrompt:
    template = prepared.resolved.template
    return fit(
        text.raw,
        prepared.masked,
        limit=template.token_limit,
        counter=services.counters[template.token_unit],
        style=style_of(template),
    )


def _level(text: WrittenPrompt, prepared: Prepared) -> Literal[0, 1, 2, 3]:
    return 3 if text.run is None else prepared.resolved.fallback_level


def _ceiling(caller: Caller, services: EnhanceServices) -> ContentMode:
    return ceiling_of(services.ceiling, key_allows_nsfw=caller.may("nsfw"))


def _negative_prompt(command: EnhanceCommand, prepared: Prepared) -> str | None:
    """Return the template's negative prompt with the user's behind it."""
    base = prepared.resolved.template.negative_prompt
    if base and any(keep.kind == "quote" for keep in prepared.masked.keeps):
        terms = [term.strip() for term in base.split(",")]
        base = ", ".join(term for term in terms if term.lower() not in _AGAINST_TEXT)
    parts = (base, command.negative_prompt)
    texts = [part.strip().strip(",").strip() for part in parts if part and part.strip(" ,\n\t")]
    return ", ".join(texts) or None


def _check_registered(field: str, value: str, registered: AbstractSet[str]) -> None:
    if value not in registered:
        raise InvalidPayload(
            f"The {field} is not registered here.",
            details={"fields": [field], "registered": nsmallest(_MOST_NAMED, registered)},
        )
