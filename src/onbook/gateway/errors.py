"""Turning anything that goes wrong into the one error body."""

import structlog

from onbook.domain.errors import (
    InternalError,
    InvalidPayload,
    MalformedBody,
    OnbookError,
    PayloadTooLarge,
)
from onbook.wire.asgi import MAX_BODY_BYTES, BodyTooLargeError, problem
from onbook.wire.gateway_api import FieldErrors, NotJsonError
from onbook.wire.problem import Problem, place_of

_log = structlog.get_logger("onbook.gateway")


def as_onbook_error(error: Exception, request_id: str) -> OnbookError:
    """Return the error that the caller is told; a bug becomes INTERNAL and is logged by place."""
    match error:
        case OnbookError():
            return error
        case BodyTooLargeError():
            return PayloadTooLarge(
                "The body is over 1 MiB.", details={"limit_bytes": MAX_BODY_BYTES}
            )
        case NotJsonError():
            return MalformedBody("The body is not a UTF-8 JSON object.")
        case FieldErrors():
            return InvalidPayload(
                f"The request is not valid: {_fields(error.fields)}.",
                details={"fields": sorted(error.fields), "reasons": error.fields},
            )
        case _:
            _log.error("gateway.bug", request_id=request_id, where=place_of(error))
            return InternalError("The gateway failed; nothing was answered from this request.")


def problem_of(error: OnbookError, request_id: str) -> Problem:
    """Return the error body for ``error``."""
    return problem(
        error.code,
        error.message,
        request_id=request_id,
        suggested_action=error.suggested_action,
        details=None if error.details is None else dict(error.details),
    )


def _fields(fields: dict[str, str]) -> str:
    # Names of unknown fields are the caller's words; they go to details only.
    known = [f"{name} {reason}" for name, reason in sorted(fields.items()) if "known" not in reason]
    unknown = len(fields) - len(known)
    if unknown:
        known.append(f"{unknown} unknown field{'s' if unknown > 1 else ''}")
    return "; ".join(known)
