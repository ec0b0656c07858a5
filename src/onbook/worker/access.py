"""Who may call a worker: whoever knows its key, and where that is asked for, whoever signs."""

import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import structlog

from onbook.wire.asgi import header
from onbook.wire.http_signatures import RequestVerifier, SignatureRefused, SignedHead

if TYPE_CHECKING:
    from starlette.types import Scope

HEALTH_PATHS: Final = ("/health", "/chat/health")
# Headers of browsers and of proxies.
_STRANGERS: Final = (
    b"origin",
    b"forwarded",
    b"via",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-proto",
    b"x-real-ip",
)
# A gateway that is not let in asks again with every prompt: one line in so many seconds says it.
_TELL_EVERY_S: Final = 30.0
_log = structlog.get_logger("onbook.worker")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a caller is not let in, as the error body says it."""

    status: int
    code: str
    message: str
    action: str


_NO_KEY: Final = Refusal(
    401,
    "AUTH_REQUIRED",
    "The worker key is missing or wrong.",
    "Send 'Authorization: Bearer <key>' with the worker's ONBOOK_WORKER_KEY; a gateway sends its "
    "own ONBOOK_WORKER_KEY, so set the same one for both.",
)
_STRANGER: Final = Refusal(
    403,
    "FORBIDDEN",
    "A worker without a key takes no requests from web pages or through proxies.",
    "Call the gateway, or set ONBOOK_WORKER_KEY and send it.",
)


class Access:
    """The rules of one worker. Where there is a key and a verifier, a request must satisfy both.

    Args:
        key: Bearer key that callers must send; None leaves the worker open to this machine.
        verifier: Checks the signatures of requests to execute; None asks for none.
        now: Unix seconds.
        monotonic: Seconds on a clock that never goes back.
    """

    def __init__(
        self,
        key: str | None,
        verifier: RequestVerifier | None = None,
        *,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.key = key
        self._verifier = verifier
        self._now, self._monotonic = now, monotonic
        self._tell_at = float("-inf")
        self._untold = 0

    @property
    def signed_only(self) -> bool:
        """Whether requests to execute must be signed."""
        return self._verifier is not None

    def refusal(self, scope: "Scope") -> Refusal | None:
        """Return why the caller may not even ask, or None."""
        if self.key is None:
            # Without a key anything on this machine may call, but no web page and nobody
            # behind a proxy: a browser says where a request comes from,
            # and most proxies say that they forward.
            if all(header(scope, sign) is None for sign in _STRANGERS) and _on_loopback(scope):
                return None
            return _STRANGER
        if scope["path"] in HEALTH_PATHS:
            return None
        sent = header(scope, b"authorization") or ""
        if hmac.compare_digest(sent.encode(), f"Bearer {self.key}".encode()):
            return None
        self._tell("bearer_key", None)
        return _NO_KEY

    def signed_head(self, scope: "Scope") -> SignedHead | None:
        """Check the head's signature, before the body is read; None where none is asked for.

        Raises:
            SignatureRefused: it is missing, or not a trusted sender's.
        """
        if self._verifier is None:
            return None
        try:
            return self._verifier.head(
                scope["method"], scope["path"], scope["headers"], now=self._now()
            )
        except SignatureRefused as refused:
            self._tell(refused.reason, refused.key_id)
            raise

    def signed_body(self, head: SignedHead | None, body: bytes) -> None:
        """Check the body against its signed head, and take the request for the first time.

        Raises:
            SignatureRefused: the body is another one, or the request was sent before.
            TooManyNonces: no further request can be taken for now.
        """
        if self._verifier is None or head is None:
            return
        try:
            self._verifier.body(head, body, now=self._now())
        except SignatureRefused as refused:
            self._tell(refused.reason, refused.key_id)
            raise

    def _tell(self, reason: str, key_id: str | None) -> None:
        """Log that a caller was turned away, now and then; what was left out is counted."""
        at = self._monotonic()
        if at < self._tell_at:
            self._untold += 1
            return
        _log.warning("worker.caller_refused", reason=reason, key_id=key_id, more=self._untold)
        self._tell_at, self._untold = at + _TELL_EVERY_S, 0


def _on_loopback(scope: "Scope") -> bool:
    """Tell whether the request names this machine: a page with a rebound name does not."""
    host = header(scope, b"host")
    if host is None:
        return True
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False
