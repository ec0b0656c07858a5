"""Turns what the flow reports into log events, metrics and the fields of the canonical line."""

import logging

import structlog

from onbook.adapters.telemetry.logs import canonical_fields
from onbook.adapters.telemetry.metrics import GatewayMetrics
from onbook.domain.enhancement import EnhanceCommand, Enhancement, ModelRun
from onbook.domain.errors import OnbookError, PurityViolation
from onbook.domain.messages import Composed
from onbook.domain.templates import ResolvedTemplate

PREVIEW_CHARS = 100
_FUNCTION = "enhance-prompt"
_log = structlog.get_logger("onbook.enhance")


class TelemetryObserver:
    """Logs and counts. The four events of an enhancement are at DEBUG, the line at INFO."""

    def __init__(self, metrics: GatewayMetrics) -> None:
        self._metrics = metrics

    def requested(self, request_id: str, command: EnhanceCommand) -> None:
        """Log the request, with a preview of at most 100 characters."""
        if not _log.is_enabled_for(logging.DEBUG):
            return
        _log.debug(
            "enhance.request",
            request_id=request_id,
            prompt_preview=_preview(command.prompt),
            prompt_length=len(command.prompt),
            job_type=command.job.name,
            format=command.job.media_format,
            quality=command.job.quality,
            selected_model=command.selected_model,
        )

    def template_selected(self, request_id: str, resolved: ResolvedTemplate) -> None:
        """Log and count the choice of the template."""
        self._metrics.template_cache.labels("hit" if resolved.cache_hit else "miss").inc()
        if not _log.is_enabled_for(logging.DEBUG):
            return
        template = resolved.template
        _log.debug(
            "enhance.template_selected",
            request_id=request_id,
            template=template.template_name,
            version=template.version,
            template_sha256=template.content_sha256,
            model_type=template.model_type,
            content_mode=template.content_mode,
            source=resolved.source,
            cache_hit=resolved.cache_hit,
        )

    def sending(self, request_id: str, composed: Composed, max_tokens: int) -> None:
        """Log the shape of the payload."""
        if not _log.is_enabled_for(logging.DEBUG):
            return
        messages = composed.messages
        _log.debug(
            "enhance.payload",
            request_id=request_id,
            messages_count=len(messages),
            system_prompt_length=sum(len(m.content) for m in messages if m.role == "system"),
            user_prompt_length=len(messages[-1].content),
            max_tokens=max_tokens,
            grammar=composed.grammar is not None,
        )

    def inferred(self, request_id: str, run: ModelRun) -> None:  # noqa: ARG002 - the port's shape
        """Count the worker's time."""
        self._metrics.worker_response_seconds.observe(run.worker_response_time_ms / 1000)

    def worker_failed(self, request_id: str, error: OnbookError, attempt: int) -> None:
        """Count and log an attempt without a usable result."""
        self._metrics.worker_failures.labels(error.code).inc()
        if isinstance(error, PurityViolation):
            self._metrics.purity_violations.inc()
        _log.warning(
            "enhance.worker_failed",
            request_id=request_id,
            error_code=error.code,
            reason=error.message,
            attempt=attempt,
        )

    def finished(self, enhancement: Enhancement) -> None:
        """Log the result and count what happened."""
        metrics = self._metrics
        metrics.execution_seconds.labels(_FUNCTION).observe(enhancement.execution_time_ms / 1000)
        metrics.fallback_level.labels(str(enhancement.fallback_level)).inc()
        metrics.tokens.labels(enhancement.tokenizer).observe(enhancement.token_count)
        if enhancement.compression_applied:
            metrics.compressions.inc()
        _add_canonical(_summary(enhancement))
        if _log.is_enabled_for(logging.DEBUG):
            _log.debug(
                "enhance.result",
                request_id=enhancement.request_id,
                original_preview=_preview(enhancement.command.prompt),
                enhanced_preview=_preview(enhancement.enhanced_prompt),
                strategy=enhancement.strategy,
                template=_summary(enhancement)["template"],
            )

    def failed(self, request_id: str, error: OnbookError) -> None:  # noqa: ARG002 - the port's shape
        """Note the reason for the canonical line."""
        _add_canonical({"reason": error.message})


def _summary(enhancement: Enhancement) -> dict[str, object]:
    resolved, run = enhancement.resolved, enhancement.run
    return {
        "template": resolved.template.template_name if resolved else None,
        "template_version": resolved.template.version if resolved else None,
        "fallback_level": enhancement.fallback_level,
        "cache_hit": resolved.cache_hit if resolved else None,
        "strategy": enhancement.strategy,
        "content_mode": enhancement.decision.effective_mode,
        "target": enhancement.command.target,
        "model": run.model_used if run else None,
        "worker_id": run.worker_id if run else None,
        "worker_ms": round(run.worker_response_time_ms, 1) if run else None,
        "attempts": enhancement.attempts,
        "token_count": enhancement.token_count,
        "token_limit": enhancement.token_limit,
        "compressed": enhancement.compression_applied,
        "integrity": enhancement.integrity,
        "caller": enhancement.caller.key_id,
    }


def _add_canonical(fields: dict[str, object]) -> None:
    line = canonical_fields.get()
    if line is not None:
        line.update(fields)


def _preview(text: str) -> str:
    return text if len(text) <= PREVIEW_CHARS else text[:PREVIEW_CHARS]
