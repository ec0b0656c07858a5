"""Writing the audit row of one request. The answer goes out only after this has returned."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Final

import msgspec

from onbook.domain.content_mode.decision import ContentDecision
from onbook.domain.enhancement import Caller, EnhanceCommand, Enhancement
from onbook.domain.errors import AuditWriteFailed, ContentRefused, OnbookError, PurityViolation
from onbook.domain.fitting.fit import Stage
from onbook.flows.enhance_services import Prepared
from onbook.ports.clock import IdSource
from onbook.ports.stores import (
    EnhancementLog,
    EnhancementRow,
    EnhancementTexts,
    StoreUnavailable,
)

FUNCTION = "enhance-prompt"
# No text of Postgres holds U+0000; in rows, texts and digests this stands for it, on any database.
NUL_PICTURE: Final = "\u2400"


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that ended in an error, as far as it came."""

    request_id: str
    created_at: datetime
    command: EnhanceCommand
    caller: Caller
    decision: ContentDecision | None
    prepared: Prepared | None
    error: OnbookError
    execution_time_ms: float


async def record_enhancement(enhancement: Enhancement, log: EnhancementLog, ids: IdSource) -> None:
    """Commit the row and the texts of a finished enhancement.

    Raises:
        AuditWriteFailed: they could not be committed anywhere.
    """
    salt = ids.nonce()
    command, run, resolved = enhancement.command, enhancement.run, enhancement.resolved
    template = resolved.template if resolved else None
    receipt = run.receipt if run else enhancement.rejected_receipt
    row = EnhancementRow(
        id=ids.request_id(),
        request_id=enhancement.request_id,
        created_at=enhancement.created_at,
        function=FUNCTION,
        caller=enhancement.caller.key_id,
        user_id=enhancement.caller.user_id,
        job_type=command.job.name,
        template_name=template.template_name if template else None,
        template_version=template.version if template else None,
        template_sha256=template.content_sha256 if template else None,
        template_source=resolved.source if resolved else None,
        template_split=resolved.split.arm if resolved and resolved.split else None,
        content_mode=enhancement.decision.effective_mode,
        target=command.target,
        model_type=template.model_type if template else None,
        model_used=run.model_used if run else None,
        worker_id=run.worker_id if run else _worker_of(enhancement.rejected_receipt),
        strategy=enhancement.strategy,
        fallback_level=enhancement.fallback_level,
        cache_hit=resolved.cache_hit if resolved else None,
        attempts=enhancement.attempts,
        execution_time_ms=round(enhancement.execution_time_ms, 3),
        worker_response_time_ms=round(run.worker_response_time_ms, 3) if run else None,
        token_count=enhancement.token_count,
        token_limit=enhancement.token_limit,
        tokens_before_compression=enhancement.tokens_before_compression,
        tokenizer=enhancement.tokenizer,
        compression_applied=enhancement.compression_applied,
        finish_reason=run.finish_reason if run else None,
        error_code=None,
        integrity_status=enhancement.integrity,
        prompt_sha256=_salted(salt, _storable(command.prompt)),
        messages_sha256=enhancement.messages_sha256,
        output_sha256=_salted(salt, _storable(enhancement.enhanced_prompt)),
        seed=enhancement.seed,
        receipt=_json(receipt) if receipt else None,
        decision=_decision(enhancement.decision),
        output_steps=_output_steps(salt, run.text, enhancement.stages) if run else None,
    )
    await _commit(row, _texts(enhancement, salt), log)


def _texts(enhancement: Enhancement, salt: str) -> EnhancementTexts:
    run = enhancement.run
    return EnhancementTexts(
        request_id=enhancement.request_id,
        created_at=enhancement.created_at,
        salt=salt,
        original=_storable(enhancement.command.prompt),
        messages=_json(enhancement.messages),
        raw_output=_storable(run.text) if run else None,
        enhanced=_storable(enhancement.enhanced_prompt),
    )


async def record_failure(failure: Failure, log: EnhancementLog, ids: IdSource) -> None:
    """Commit the row of a request that ended in an error.

    Refused text is not stored: its row keeps the digest and the categories.

    Raises:
        AuditWriteFailed: the row could not be committed anywhere.
    """
    salt = ids.nonce()
    command, decision = failure.command, failure.decision
    prompt = _storable(command.prompt)
    refused = isinstance(failure.error, ContentRefused)
    error, resolved = failure.error, failure.prepared.resolved if failure.prepared else None
    template = resolved.template if resolved else None
    row = EnhancementRow(
        id=ids.request_id(),
        request_id=failure.request_id,
        created_at=failure.created_at,
        function=FUNCTION,
        caller=failure.caller.key_id,
        user_id=failure.caller.user_id,
        job_type=command.job.name,
        template_name=template.template_name if template else command.template_name,
        template_version=template.version if template else command.template_version,
        template_sha256=template.content_sha256 if template else None,
        template_source=resolved.source if resolved else None,
        template_split=resolved.split.arm if resolved and resolved.split else None,
        content_mode="refused" if refused else decision.effective_mode if decision else "sfw",
        target=command.target,
        model_type=template.model_type if template else command.selected_model,
        worker_id=_worker_of(error.receipt),
        cache_hit=resolved.cache_hit if resolved else None,
        attempts=error.attempts,
        execution_time_ms=round(failure.execution_time_ms, 3),
        error_code=error.code,
        integrity_status=("violation" if isinstance(error, PurityViolation) else "not_applicable"),
        prompt_sha256=_salted(salt, prompt),
        seed=failure.prepared.seed if failure.prepared else command.seed,
        receipt=_json(error.receipt) if error.receipt else None,
        decision=_decision(decision) if decision else None,
    )
    texts = EnhancementTexts(
        request_id=failure.request_id,
        created_at=failure.created_at,
        salt=salt,
        original="" if refused else prompt,
        messages=None,
        raw_output=None,
        enhanced=None,
    )
    await _commit(row, texts, log)


async def _commit(row: EnhancementRow, texts: EnhancementTexts, log: EnhancementLog) -> None:
    try:
        await log.record(row, texts)
    except StoreUnavailable as error:
        raise AuditWriteFailed(
            "The audit row could not be written, so the answer is withheld."
        ) from error


def _worker_of(receipt: Mapping[str, object] | None) -> str | None:
    return None if receipt is None else str(receipt["worker_id"])


def _storable(text: str) -> str:
    return text.replace("\x00", NUL_PICTURE)


def _salted(salt: str, text: str) -> str:
    # A digest without salt of a short prompt could be guessed back to the prompt.
    data = bytes.fromhex(salt) + text.encode("utf-8", "surrogatepass")
    return hashlib.sha256(data).hexdigest()


def _output_steps(salt: str, raw: str, stages: Sequence[Stage]) -> str:
    """Return each stage that changed the model's text, with the digests before and after it."""
    steps: list[dict[str, str]] = []
    text = _storable(raw)
    before = _salted(salt, text)
    for stage in stages:
        following = _storable(stage.text)
        if following == text:
            continue
        after = _salted(salt, following)
        steps.append({"step": stage.name, "before_sha256": before, "after_sha256": after})
        text, before = following, after
    return _json(steps)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _decision(decision: ContentDecision) -> str:
    """Return the decision without what the rules matched: positions in a text are about it."""
    return _json(
        {
            "mode": decision.mode,
            "effective_mode": decision.effective_mode,
            "score": round(decision.score, 4),
            "categories": dict(decision.categories),
            "source": decision.source,
            "reason": decision.reason,
            "detector": asdict(decision.detector),
        }
    )
