"""Reading a worker's answer, whichever way it came."""

from typing import Final

import msgspec

from onbook.domain.errors import WorkerAnswerInvalid, WorkerUnavailable
from onbook.ports.inference import Completion
from onbook.wire.worker_api import Endpoint, FinishReason, UpstreamAnswer

MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
_MAX_NAME_CHARS: Final = 200
_decoder: Final = msgspec.json.Decoder(UpstreamAnswer)


def completion_from(
    endpoint: Endpoint, status: int, body: bytes, *, response_time_ms: float
) -> Completion:
    """Return the completion that a worker's HTTP answer holds.

    Raises:
        WorkerUnavailable: the worker says that it is busy or that the key is wrong.
        WorkerAnswerInvalid: the answer is an error, no JSON, or lacks the text.
    """
    if status in (401, 403):
        raise WorkerUnavailable(
            "The worker refused the gateway's key.",
            suggested_action="Set the same ONBOOK_WORKER_KEY for worker and gateway.",
        )
    if status in (429, 503):
        raise WorkerUnavailable("The worker is busy or not ready.", details={"status": status})
    if status == 400:
        raise WorkerUnavailable(
            "The worker refused the request as not valid.",
            suggested_action="Check the template's grammar, sampling and length.",
            details={"status": status},
        )
    if status != 200:
        raise WorkerUnavailable(
            f"The worker answered with status {status}.", details={"status": status}
        )
    try:
        answer = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
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


def _finish_reason(value: str | None) -> FinishReason | None:
    if value == "length":
        return "length"
    return "stop" if value == "stop" else None


def _clean_name(name: str) -> str:
    """Return a model's name as it may stand in a row and in a log line."""
    return "".join(char for char in name if char.isprintable())[:_MAX_NAME_CHARS] or "unknown"
