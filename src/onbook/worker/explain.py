"""What went wrong with a request, as the one error body says it."""

from dataclasses import dataclass
from typing import Final

import structlog

from onbook.wire.asgi import BodyTooLargeError, problem
from onbook.wire.http_signatures import SignatureRefused, TooManyNonces
from onbook.wire.problem import Problem, place_of
from onbook.worker.engines.base import (
    EngineError,
    GrammarError,
    UnsupportedSamplingError,
    UpstreamChangedError,
    UpstreamUnavailableError,
)
from onbook.worker.errors import (
    BusyError,
    ChatsOnlyError,
    ContextOverflowError,
    DrainingError,
    PurityError,
)
from onbook.worker.rendering import ContentNotPlainError, MessagesNotRenderableError
from onbook.worker.requests import BadRequestError

# A worker that is away, loading or on its way out says nothing of when it is back.
COME_BACK_S: Final = 5
_AGAIN: Final = "Try again after Retry-After seconds."
_log = structlog.get_logger("onbook.worker")


@dataclass(frozen=True, slots=True)
class Explained:
    """An error's answer. ``retry_after_s`` is in whole seconds, where coming back may help."""

    status: int
    problem: Problem
    retry_after_s: int | None = None

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers that belong to the answer."""
        if self.retry_after_s is None:
            return []
        return [(b"retry-after", str(self.retry_after_s).encode())]


@dataclass(frozen=True, slots=True)
class _Said:
    status: int
    code: str
    text: str
    action: str
    details: dict[str, object] | None = None
    retry_after_s: int | None = None


def explain(error: Exception, request_id: str) -> Explained:
    """Return the answer that ``error`` means; what is nobody's mistake is logged, without text."""
    said = _refused(error) or _not_now(error) or _wrong(error) or _failed(error, request_id)
    body = problem(
        said.code,
        said.text,
        request_id=request_id,
        suggested_action=said.action,
        details=said.details,
    )
    return Explained(said.status, body, said.retry_after_s)


def _refused(error: Exception) -> _Said | None:
    match error:
        case SignatureRefused():
            reason: dict[str, object] = {"signature": error.reason}
            return _Said(401, "AUTH_REQUIRED", error.message, error.action, reason)
        case TooManyNonces():
            text = "More signed requests are under way than can be told apart."
            return _Said(429, "RATE_LIMITED", text, _AGAIN, None, error.retry_after_s)
        case BodyTooLargeError():
            return _Said(
                413, "PAYLOAD_TOO_LARGE", "The body is over 1 MiB.", "Send a smaller body."
            )
        case _:
            return None


def _not_now(error: Exception) -> _Said | None:
    action = _AGAIN
    match error:
        case BusyError():
            text = "The worker's queue is full."
            return _Said(429, "RATE_LIMITED", text, _AGAIN, None, error.retry_after_s)
        case DrainingError():
            text = "The worker is stopping and takes no new requests."
        case UpstreamChangedError():
            text = "The server behind the worker runs another model than at the worker's start."
            action = "Restart the worker, so that it states the model that runs now."
        case UpstreamUnavailableError():
            text = "The server behind the worker is away or busy."
        case _:
            return None
    return _Said(503, "WORKER_UNAVAILABLE", text, action, None, COME_BACK_S)


def _wrong(error: Exception) -> _Said | None:
    """Return what the caller has to correct."""
    details: dict[str, object] | None = None
    match error:
        case BadRequestError():
            text, action = error.message, error.action
            details = {"fields": error.fields} if error.fields else None
        case ContextOverflowError():
            text = (
                f"Prompt and output need {error.needed} tokens; "
                f"the context holds {error.context_size}."
            )
            action = "Shorten the messages or lower max_tokens; nothing is ever truncated."
            details = {"tokens_needed": error.needed, "context_size": error.context_size}
        case ContentNotPlainError():
            text = "A content cannot be written in this model's plain tokens."
            action = "Remove the model's control tokens from the text."
        case ChatsOnlyError():
            text = str(error)
            action = "Send the prompt as a message to /chat or /enhance."
        case MessagesNotRenderableError():
            text = str(error)
            action = "Send messages that this worker's model has a form for."
            details = {"fields": ["messages"]}
        case GrammarError():
            text, action = "The grammar is not valid GBNF.", "Correct 'grammar'."
            details = {"fields": ["grammar"]}
        case UnsupportedSamplingError():
            text = "The engine cannot draw tokens in the way that was asked."
            action = "Leave out the fields named in details.fields."
            details = {"fields": error.fields}
        case _:
            return None
    return _Said(400, "INVALID_PAYLOAD", text, action, details)


def _failed(error: Exception, request_id: str) -> _Said:
    match error:
        case PurityError():
            _log.error("worker.impure", reason=str(error), request_id=request_id)
            return _Said(
                502,
                "PURITY_VIOLATION",
                "The engine did not see exactly what was sent; its output was thrown away.",
                "Take the worker out of service and check what runs behind it.",
            )
        case EngineError():
            _log.error("worker.engine_failed", reason=str(error), request_id=request_id)
            action = "Try again; see the worker's log."
            return _Said(500, "INTERNAL", "The engine failed.", action)
        case _:
            _log.error("worker.bug", request_id=request_id, where=place_of(error))
            action = "Report it with the request_id."
            return _Said(500, "INTERNAL", "The worker failed.", action)
