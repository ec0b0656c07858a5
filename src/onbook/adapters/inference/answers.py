"""Reading a worker's answer, whichever way it came."""

from collections.abc import Mapping
from typing import Final

import msgspec

from onbook.domain.errors import PurityViolation, WorkerAnswerInvalid, WorkerUnavailable
from onbook.ports.inference import Completion
from onbook.wire.worker_api import Endpoint, FinishReason, InferenceRequest, UpstreamAnswer

MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
_MAX_NAME_CHARS: Final = 200
_MAX_WAIT_DIGITS: Final = 5
_FIELDS: Final = frozenset(InferenceRequest.__struct_fields__)
_COUNTS: Final = ("tokens_needed", "context_size")
_TRUST_KEY: Final = (
    "Put the gateway's public key ('onbook keys signing list') into the worker's "
    "ONBOOK_WORKER_TRUST_KEYS."
)
_CLOCKS: Final = "Set the clocks of gateway and worker: they differ by more than a minute."
_ON_THE_WAY: Final = (
    "Look at what lies between gateway and worker: it changes requests, or sends them again."
)
# By the reasons of ``wire.http_signatures``.
_SIGNATURE_ACTIONS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("expired", "from_the_future", "before_start"), _CLOCKS),
    **dict.fromkeys(("wrong_digest", "wrong_signature", "malformed", "replayed"), _ON_THE_WAY),
}
_decoder: Final = msgspec.json.Decoder(UpstreamAnswer)


class _Refusal(msgspec.Struct):
    """What of a worker's error body is read; its sentences are not passed on."""

    error_code: str | None = None
    details: dict[str, object] | None = None


_refusals: Final = msgspec.json.Decoder(_Refusal)


def completion_from(
    endpoint: Endpoint,
    status: int,
    body: bytes,
    *,
    response_time_ms: float,
    retry_after: str | None = None,
) -> Completion:
    """Return the completion that a worker's HTTP answer holds.

    Args:
        endpoint: What was asked.
        status: The answer's status.
        body: The answer's body.
        response_time_ms: How long it took.
        retry_after: The answer's header ``Retry-After``, where it has one.

    Raises:
        WorkerUnavailable: the worker says that it is busy or not ready, or refuses the request.
        WorkerAnswerInvalid: the answer is an error, no JSON, or lacks the text.
        PurityViolation: the worker itself found that its engine saw something else.
    """
    if status != 200:
        raise _refused(status, _refusal(body), retry_after)
    try:
        answer = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise WorkerAnswerInvalid("The worker's answer is not one of a worker.") from None
    text = answer.enhanced_prompt if endpoint == "enhance" else answer.response
    if not answer.success or text is None:
        raise WorkerAnswerInvalid("The worker's answer holds no result.")
    reason = answer.finish_reason
    if reason not in ("stop", "length", None):
        raise WorkerAnswerInvalid("The worker ended for a reason that is not known here.")
    seconds = answer.generation_time
    return Completion(
        text=text,
        finish_reason=_finish_reason(reason),
        model_used=_clean_name(answer.model_info.name) if answer.model_info else "unknown",
        receipt=answer.receipt,
        tokens_generated=answer.tokens_generated,
        prompt_tokens=answer.prompt_tokens,
        response_time_ms=response_time_ms,
        generation_time_ms=None if seconds is None else seconds * 1000,
    )


def _refused(
    status: int, refusal: _Refusal, retry_after: str | None
) -> WorkerUnavailable | PurityViolation:
    said = refusal.details or {}
    details: dict[str, object] = {"status": status}
    if status == 502 and refusal.error_code == "PURITY_VIOLATION":
        return PurityViolation(
            "The worker found that its engine did not see what was sent.", details=details
        )
    if status in (401, 403):
        return _not_let_in(status, said)
    if status in (429, 503):
        wait = _seconds(retry_after)
        if wait is not None:
            details["retry_after_s"] = wait
        words = "The worker's queue is full." if status == 429 else "The worker is not ready."
        return WorkerUnavailable(words, details=details)
    if status == 400:
        return WorkerUnavailable(
            "The worker refused the request as not valid.",
            suggested_action="Check the template's grammar, sampling and length.",
            details=details | _known_details(said),
        )
    return WorkerUnavailable(f"The worker answered with status {status}.", details=details)


def _not_let_in(status: int, said: Mapping[str, object]) -> WorkerUnavailable:
    if "signature" in said:
        reason = str(said["signature"])
        return WorkerUnavailable(
            "The worker refused the gateway's signature.",
            suggested_action=_SIGNATURE_ACTIONS.get(reason, _TRUST_KEY),
            details={"status": status, "refused": "signature"},
        )
    return WorkerUnavailable(
        "The worker refused the gateway's key.",
        suggested_action="Set the same ONBOOK_WORKER_KEY for worker and gateway."
        if status == 401
        else "Set ONBOOK_WORKER_KEY for worker and gateway; without one, a worker takes no "
        "requests from other machines or through a proxy.",
        details={"status": status, "refused": "key"},
    )


def _refusal(body: bytes) -> _Refusal:
    try:
        return _refusals.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Refusal()


def _known_details(said: Mapping[str, object]) -> dict[str, object]:
    """Return what a worker may say of a request: counts, and fields that we have sent."""
    counts = {name: said[name] for name in _COUNTS if type(said.get(name)) is int}
    fields = said.get("fields")
    named = [name for name in fields if name in _FIELDS] if isinstance(fields, list) else []
    return {**counts, "fields": named} if named else dict(counts)


def _seconds(retry_after: str | None) -> int | None:
    text = (retry_after or "").strip()
    if not (text.isascii() and text.isdecimal() and len(text) <= _MAX_WAIT_DIGITS):
        return None
    return int(text)


def _finish_reason(value: str | None) -> FinishReason | None:
    if value == "length":
        return "length"
    return "stop" if value == "stop" else None


def _clean_name(name: str) -> str:
    """Return a model's name as it may stand in a row and in a log line."""
    return "".join(char for char in name if char.isprintable())[:_MAX_NAME_CHARS] or "unknown"
