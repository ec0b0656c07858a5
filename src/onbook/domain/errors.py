"""Everything that can go wrong with a request, as one tree.

::

    OnbookError
    ├── AuthRequired               401  AUTH_REQUIRED
    ├── Forbidden                  403  FORBIDDEN
    ├── ContentModeNotAllowed      403  CONTENT_MODE_NOT_ALLOWED
    ├── ContentRefused             422  CONTENT_REFUSED
    ├── InvalidPayload             422  INVALID_PAYLOAD   (400 for a body that is not JSON)
    │   └── MalformedBody          400  INVALID_PAYLOAD
    ├── InvalidJobType             400  INVALID_JOB_TYPE
    ├── PayloadTooLarge            413  PAYLOAD_TOO_LARGE
    ├── TemplateNotFound           404  TEMPLATE_NOT_FOUND
    ├── TokenLimitExceeded         422  TOKEN_LIMIT_EXCEEDED
    ├── Conflict                   409  CONFLICT
    ├── GateFailed                 422  GATE_FAILED
    ├── WorkerUnavailable          503  WORKER_UNAVAILABLE
    │   └── WorkerAnswerInvalid    503  WORKER_UNAVAILABLE   (it answered, but not with a result)
    ├── WorkerTimeout              504  WORKER_TIMEOUT
    ├── PurityViolation            502  PURITY_VIOLATION
    ├── DatabaseUnavailable        503  DATABASE_UNAVAILABLE
    ├── NotFound                   404  NOT_FOUND         (no such route)
    ├── MethodNotAllowed           405  METHOD_NOT_ALLOWED
    └── InternalError              500  INTERNAL
        └── AuditWriteFailed       500  INTERNAL          (the answer is withheld)

Each class carries its HTTP status and its code, so that a face only has to print it. Messages
never contain prompt text.
"""

from collections.abc import Mapping
from typing import ClassVar

Details = Mapping[str, object]


class OnbookError(Exception):
    """A failure that the caller can understand and act on.

    Args:
        message: One sentence, without prompt text.
        details: Machine-readable facts, or None.
        suggested_action: One sentence that says what to do next; a default per class.
    """

    code: ClassVar[str] = "INTERNAL"
    status: ClassVar[int] = 500
    default_action: ClassVar[str] = "Try again; if it persists, report it with the request_id."

    def __init__(
        self,
        message: str,
        *,
        details: Details | None = None,
        suggested_action: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details = details
        self.suggested_action = suggested_action or self.default_action
        # For the audit row: how often a worker had been asked, and the receipt that was rejected.
        self.attempts = 0
        self.receipt: Mapping[str, object] | None = None


class AuthRequired(OnbookError):
    """No credential, or one that is unknown, expired or revoked."""

    code = "AUTH_REQUIRED"
    status = 401
    default_action = "Send an access key as 'Authorization: Bearer <key>' or as 'apikey: <key>'."


class Forbidden(OnbookError):
    """The credential is good but does not carry the scope."""

    code = "FORBIDDEN"
    status = 403
    default_action = "Use a key that has the scope named in details."


class ContentModeNotAllowed(OnbookError):
    """The text is nsfw and the deployment or the key does not allow nsfw."""

    code = "CONTENT_MODE_NOT_ALLOWED"
    status = 403
    default_action = "Use a deployment and a key that allow nsfw, or change the prompt."


class ContentRefused(OnbookError):
    """The third class: refused for everyone, never sent to a model, never rewritten."""

    code = "CONTENT_REFUSED"
    status = 422
    default_action = "This request cannot be served; it will not be served in other words either."


class InvalidPayload(OnbookError):
    """The body is JSON but not a valid request; ``details.fields`` names each field."""

    code = "INVALID_PAYLOAD"
    status = 422
    default_action = "Correct the fields named in details.fields and send the request again."


class MalformedBody(InvalidPayload):
    """The body is not UTF-8 JSON at all."""

    status = 400
    default_action = "Send one UTF-8 JSON object with the header 'Content-Type: application/json'."


class InvalidJobType(OnbookError):
    """The job type is not one of ``details.valid_job_types``."""

    code = "INVALID_JOB_TYPE"
    status = 400
    default_action = "Use one of details.valid_job_types."


class PayloadTooLarge(OnbookError):
    """The body is over the limit in ``details.limit_bytes``."""

    code = "PAYLOAD_TOO_LARGE"
    status = 413
    default_action = "Send a smaller body."


class TemplateNotFound(OnbookError):
    """The caller named a template, or a version of it, that does not exist."""

    code = "TEMPLATE_NOT_FOUND"
    status = 404
    default_action = "Leave template_name out to use the default, or name an active template."


class TokenLimitExceeded(OnbookError):
    """What must be kept cannot fit the token limit."""

    code = "TOKEN_LIMIT_EXCEEDED"
    status = 422
    default_action = "Shorten the quoted text or the generator syntax in the prompt."


class Conflict(OnbookError):
    """Somebody else was faster, or the state does not allow it; nothing was changed."""

    code = "CONFLICT"
    status = 409
    default_action = "Look at the current state and try again from there."


class GateFailed(OnbookError):
    """The template's own tests do not pass, so it was not activated; ``details.cases`` says why."""

    code = "GATE_FAILED"
    status = 422
    default_action = "Correct the draft, or activate it with an override and its reason."


class WorkerUnavailable(OnbookError):
    """No worker could serve the request, and the caller asked for no fallback."""

    code = "WORKER_UNAVAILABLE"
    status = 503
    default_action = "Try again shortly, or allow the fallback with 'allow_fallback': true."


class WorkerAnswerInvalid(WorkerUnavailable):
    """The worker answered, but not with a result: an error, a wrong shape, a cut-off text."""


class WorkerTimeout(OnbookError):
    """The worker did not answer within the deadline, and the caller asked for no fallback."""

    code = "WORKER_TIMEOUT"
    status = 504
    default_action = "Try again, raise ONBOOK_WORKER_TIMEOUT_S, or allow the fallback."


class PurityViolation(OnbookError):
    """The worker's receipt does not match what was sent; the result was thrown away."""

    code = "PURITY_VIOLATION"
    status = 502
    default_action = "Take the worker out of service and check what runs on it."


class DatabaseUnavailable(OnbookError):
    """What only the database knows is needed, and it cannot be reached."""

    code = "DATABASE_UNAVAILABLE"
    status = 503
    default_action = "Try again shortly; 'onbook doctor' checks the database."


class NotFound(OnbookError):
    """No such route."""

    code = "NOT_FOUND"
    status = 404
    default_action = "See /openapi.json for the routes."


class MethodNotAllowed(OnbookError):
    """The route exists, but not for this method."""

    code = "METHOD_NOT_ALLOWED"
    status = 405
    default_action = "See /openapi.json for the methods of this route."


class InternalError(OnbookError):
    """A bug, or a broken machine."""


class AuditWriteFailed(InternalError):
    """The audit row could be written neither to the database nor to the spool."""

    default_action = "Free disk space or repair the data directory; 'onbook doctor' checks both."
