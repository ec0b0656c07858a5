"""``POST /functions/v1/enhance-prompt``: the wire's request in, the flow, the wire's answer out."""

import asyncio
from dataclasses import replace
from typing import Final

from onbook.bootstrap import Service
from onbook.domain.content_mode.decision import ContentDecision
from onbook.domain.content_mode.policy import ceiling_of, enforce
from onbook.domain.enhancement import EnhanceCommand, Enhancement
from onbook.domain.errors import WorkerUnavailable
from onbook.domain.jobs import normalise_job_type
from onbook.domain.templates import ResolvedTemplate
from onbook.flows.enhance_prompt import decide_off_loop, enhance_prompt, prepare
from onbook.flows.infer_verified import messages_sha256
from onbook.gateway.auth import require
from onbook.gateway.errors import as_onbook_error, problem_of
from onbook.gateway.functions import Call
from onbook.wire.asgi import send_event, send_json, start_events
from onbook.wire.gateway_api import (
    ContentDecisionBody,
    Detector,
    DryRunResponse,
    EnhancementMetadata,
    EnhanceRequest,
    EnhanceResponse,
    Integrity,
    TemplateSplit,
    read_enhance_request,
)
from onbook.wire.worker_api import Message

DEFAULT_MODEL_TYPE: Final = "qwen_instruct"


async def enhance_prompt_route(call: Call, service: Service) -> None:
    """Serve one call."""
    request = read_enhance_request(call.body)
    command = command_from(request)
    caller = replace(call.caller, user_id=request.user_id)
    call = replace(call, caller=caller)
    if request.dry_run:
        await send_json(call.send, 200, await _dry_run(command, call, service), call.headers)
    elif request.stream:
        await _stream(command, call, service)
    else:
        enhancement = await enhance_prompt(command, caller, call.request_id, service.enhance)
        await send_json(call.send, 200, response_from(enhancement), call.headers)


def command_from(request: EnhanceRequest) -> EnhanceCommand:
    """Return the flow's command for a decoded request.

    Raises:
        InvalidJobType: the job type is not known.
    """
    job = normalise_job_type(
        request.job_type,
        quality=request.quality,
        media_format=request.format,
        target=request.target,
    )
    warnings: list[str] = []
    if request.target is not None and request.target != job.target:
        warnings.append(f"The target {request.target} was used; {job.name} is for {job.target}.")
    if request.quality is not None and request.quality != job.quality:
        warnings.append(f"The job type {job.name} decides the quality; it is {job.quality}.")
    if request.format is not None and request.format != job.media_format:
        warnings.append(f"The job type {job.name} decides the format; it is {job.media_format}.")
    if request.selected_presets:
        warnings.append("Style presets are not available in this version; none was applied.")
    return EnhanceCommand(
        prompt=request.prompt,
        job=job,
        target=request.target or job.target,
        selected_model=request.selected_model or DEFAULT_MODEL_TYPE,
        model_chosen=request.selected_model is not None,
        content_type=request.content_type,
        template_name=request.template_name,
        template_version=request.template_version,
        variables=request.variables,
        seed=request.seed,
        regeneration=request.regeneration,
        negative_prompt=request.negative_prompt,
        allow_fallback=request.allow_fallback,
        warnings=tuple(warnings),
    )


def response_from(enhancement: Enhancement) -> EnhanceResponse:
    """Return the answer for a finished enhancement."""
    return EnhanceResponse(
        success=True,
        request_id=enhancement.request_id,
        original_prompt=enhancement.command.prompt,
        enhanced_prompt=enhancement.enhanced_prompt,
        negative_prompt=enhancement.negative_prompt,
        enhancement_strategy=enhancement.strategy,
        enhancement_metadata=_metadata(enhancement),
    )


def _metadata(enhancement: Enhancement) -> EnhancementMetadata:
    command, run, resolved = enhancement.command, enhancement.run, enhancement.resolved
    template = resolved.template if resolved else None
    before, after = len(command.prompt), len(enhancement.enhanced_prompt)
    violated = enhancement.integrity == "violation"
    return EnhancementMetadata(
        template_name=template.template_name if template else None,
        template_version=template.version if template else None,
        template_sha256=template.content_sha256 if template else None,
        template_source=resolved.source if resolved else None,
        template_split=_split(resolved),
        fallback_level=enhancement.fallback_level,
        cache_hit=bool(resolved and resolved.cache_hit),
        model_used=run.model_used if run else None,
        model_type=template.model_type if template else None,
        target=command.target,
        content_mode=enhancement.decision.effective_mode,
        content_decision=_decision(enhancement.decision),
        worker_id=run.worker_id if run else None,
        job_type=command.job.name,
        format=command.job.media_format,
        quality=command.job.quality,
        token_count=enhancement.token_count,
        token_limit=enhancement.token_limit,
        tokenizer=enhancement.tokenizer,
        tokens_before_compression=enhancement.tokens_before_compression,
        compression_applied=enhancement.compression_applied,
        compression_cuts=list(enhancement.compression_cuts),
        original_length=before,
        enhanced_length=after,
        expansion_percentage=round((after - before) / before * 100, 1),
        execution_time_ms=round(enhancement.execution_time_ms, 3),
        worker_response_time_ms=round(run.worker_response_time_ms, 3) if run else None,
        queue_time_ms=(
            None if run is None or run.queue_time_ms is None else round(run.queue_time_ms, 3)
        ),
        attempts=enhancement.attempts,
        finish_reason=run.finish_reason if run else None,
        seed=enhancement.seed,
        kept=list(enhancement.kept),
        added=list(enhancement.added),
        dropped=list(enhancement.dropped),
        fitting_steps=list(enhancement.fitting_steps),
        warnings=list(enhancement.warnings),
        integrity=Integrity(
            # The violating text was thrown away: what is answered has no model in it.
            status="not_applicable" if violated else enhancement.integrity,
            messages_sha256=enhancement.messages_sha256 if run else None,
            receipt_id=run.receipt_id if run else None,
            token_ids=run.token_ids if run else "not_checked",
        ),
    )


def _split(resolved: ResolvedTemplate | None) -> TemplateSplit | None:
    split = resolved.split if resolved else None
    if split is None:
        return None
    return TemplateSplit(
        candidate_version=split.candidate_version, percent=split.percent, arm=split.arm
    )


def _decision(decision: ContentDecision) -> ContentDecisionBody:
    return ContentDecisionBody(
        mode=decision.mode,
        effective_mode=decision.effective_mode,
        score=round(decision.score, 4),
        categories={name: round(score, 4) for name, score in decision.categories.items()},
        matched=[(span.start, span.end, span.category) for span in decision.matched],
        source=decision.source,
        reason=decision.reason,
        detector=Detector(
            name=decision.detector.name,
            version=decision.detector.version,
            ruleset_sha256=decision.detector.ruleset_sha256,
        ),
    )


async def _dry_run(command: EnhanceCommand, call: Call, service: Service) -> DryRunResponse:
    """Resolve and compose, and show what would be sent: that takes the right to read templates."""
    require(call.caller, "templates:read")
    services = service.enhance
    decision = await decide_off_loop(command, call.caller, services)
    ceiling = ceiling_of(services.ceiling, key_allows_nsfw=call.caller.may("nsfw"))
    enforce(decision, ceiling=ceiling)
    prepared = await prepare(command, call.caller, call.request_id, decision, services)
    enforce(prepared.decision, ceiling=ceiling)
    template = prepared.resolved.template
    return DryRunResponse(
        success=True,
        request_id=call.request_id,
        dry_run=True,
        original_prompt=command.prompt,
        template_name=template.template_name,
        template_version=template.version,
        template_sha256=template.content_sha256,
        template_source=prepared.resolved.source,
        template_split=_split(prepared.resolved),
        fallback_level=prepared.resolved.fallback_level,
        content_decision=_decision(decision),
        seed=prepared.seed,
        messages=[Message(item.role, item.content) for item in prepared.composed.messages],
        messages_sha256=messages_sha256(prepared.composed.messages),
        grammar=prepared.composed.grammar,
        warnings=[*command.warnings, *prepared.resolved.warnings],
    )


async def _stream(command: EnhanceCommand, call: Call, service: Service) -> None:
    """Answer as events: ``meta`` at once, then ``done`` or ``error``.

    The text is not final before it is fitted, so there is nothing to stream in between.
    """
    await start_events(call.send, call.headers)
    await send_event(call.send, "meta", {"request_id": call.request_id})
    try:
        enhancement = await enhance_prompt(command, call.caller, call.request_id, service.enhance)
    except asyncio.CancelledError:
        # The status is out already, so the stream itself has to say it.
        stopping = problem_of(WorkerUnavailable("The service is stopping."), call.request_id)
        await send_event(call.send, "error", stopping, last=True)
        raise
    except Exception as error:  # noqa: BLE001 - the answer has begun, so this is the last place
        known = as_onbook_error(error, call.request_id)
        await send_event(call.send, "error", problem_of(known, call.request_id), last=True)
    else:
        await send_event(call.send, "done", response_from(enhancement), last=True)
