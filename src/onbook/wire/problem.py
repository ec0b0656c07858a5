"""The one error body, for every route of gateway and worker."""

from typing import Final

import msgspec

DetailValue = object


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """An error answer. ``error`` is one sentence and never holds prompt text."""

    error: str
    error_code: str
    suggested_action: str
    request_id: str
    details: dict[str, DetailValue] | None = None
    success: bool = False


class ErrorCode(msgspec.Struct, frozen=True):
    """One row of the table of error codes."""

    code: str
    statuses: tuple[int, ...]
    when: str


ERROR_CODES: Final[tuple[ErrorCode, ...]] = (
    ErrorCode("AUTH_REQUIRED", (401,), "No key, or one that is unknown, expired or revoked."),
    ErrorCode("FORBIDDEN", (403,), "The key lacks the scope."),
    ErrorCode(
        "CONTENT_MODE_NOT_ALLOWED",
        (403,),
        "The text is nsfw, or nsfw was asked for, and the key or the deployment does not allow it.",
    ),
    ErrorCode(
        "CONTENT_REFUSED", (422,), "The refused class: never sent to a model, never rewritten."
    ),
    ErrorCode(
        "INVALID_PAYLOAD",
        (400, 422),
        "The body is not JSON (400), or a field is wrong (422, `details.fields` names each).",
    ),
    ErrorCode(
        "INVALID_JOB_TYPE", (400,), "Unknown job type; `details.valid_job_types` lists them."
    ),
    ErrorCode("PAYLOAD_TOO_LARGE", (413,), "The body is over 1 MiB."),
    ErrorCode("TEMPLATE_NOT_FOUND", (404,), "A template named by the caller does not exist."),
    ErrorCode("TOKEN_LIMIT_EXCEEDED", (422,), "What must be kept cannot fit the token limit."),
    ErrorCode(
        "CONFLICT",
        (409,),
        "Somebody was faster, or the state does not allow the change; nothing was changed.",
    ),
    ErrorCode(
        "GATE_FAILED",
        (422,),
        "The template's own tests do not pass; `details.cases` says why. Nothing was changed.",
    ),
    ErrorCode("RATE_LIMITED", (429,), "Too many requests; `Retry-After` says when to come back."),
    ErrorCode("WORKER_UNAVAILABLE", (503,), "No worker could serve, and no fallback was allowed."),
    ErrorCode("WORKER_TIMEOUT", (504,), "The worker was too slow, and no fallback was allowed."),
    ErrorCode("PURITY_VIOLATION", (502,), "The worker's receipt does not match what was sent."),
    ErrorCode(
        "DATABASE_UNAVAILABLE",
        (503,),
        "The database cannot be reached, so that a key that is not known yet cannot be checked, "
        "or the book cannot be read or changed.",
    ),
    ErrorCode("NOT_FOUND", (404,), "There is no such route."),
    ErrorCode("METHOD_NOT_ALLOWED", (405,), "The route exists, but not for this method."),
    ErrorCode("INTERNAL", (500,), "A bug, or a broken machine; never contains prompt text."),
)


def place_of(error: Exception) -> str:
    """Return type and place of a bug: a traceback could show what the caller wrote."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "unknown"
    return f"{type(error).__name__} at {place}"
