"""Where the upstream is, and blocking calls to it: for the start and for its tokenizer."""

import http.client
import select
import ssl
import threading
import time
from dataclasses import dataclass, field
from typing import Final, TypeVar
from urllib.parse import urlsplit, urlunsplit

import msgspec

from onbook.worker.engines.base import EngineError, UpstreamUnavailableError

CONNECT_TIMEOUT_S: Final = 5.0
# One id takes up to seven bytes of JSON, and a text of 1 MiB may have as many ids.
_MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
_READ_BYTES: Final = 65_536
_BUSY: Final = frozenset({429, 502, 503, 504})
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Server:
    """An upstream: its base URL without a slash at the end, its key, and the longest silence."""

    url: str
    key: str | None = field(repr=False)
    timeout_s: float

    @property
    def shown_url(self) -> str:
        """The URL as a message may show it: without a user, a password or a query."""
        parts = urlsplit(self.url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    def headers(self) -> dict[str, str]:
        """Return the headers of each request; compressed answers are not asked for."""
        headers = {
            "Content-Type": "application/json",
            "Accept": "text/event-stream, application/json",
            "Accept-Encoding": "identity",
        }
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        return headers


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    status: int
    body: bytes

    def read(self, kind: type[T]) -> T | None:
        """Return the body as ``kind``, or None where the answer is not a success of that shape."""
        if self.status != http.client.OK:
            return None
        try:
            return msgspec.json.decode(self.body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None


def base_url(url: str) -> str:
    """Return ``url`` without the slash or the ``/v1`` that people paste from elsewhere."""
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def refusal_of(status: int) -> EngineError | None:
    """Return the error that an HTTP status means, or None for a success."""
    if status == http.client.OK:
        return None
    if status in _BUSY:
        return UpstreamUnavailableError(f"The upstream is busy or not ready (status {status}).")
    if status in (http.client.UNAUTHORIZED, http.client.FORBIDDEN):
        return EngineError(f"The upstream refuses the key (status {status}).")
    if status in _REDIRECTS:
        return EngineError(f"The upstream redirects (status {status}); that is not followed.")
    return EngineError(f"The upstream refused the request (status {status}).")


class BlockingClient:
    """Whole answers, bounded in size and time, over kept-alive connections. Thread-safe.

    After ``close`` it can be used again. Redirects are not followed.
    """

    def __init__(self, server: Server) -> None:
        parts = urlsplit(server.url)
        self._host = parts.hostname or ""
        self._port = parts.port
        self._prefix = parts.path
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._headers = server.headers()
        self._timeout_s = server.timeout_s
        self._lock = threading.Lock()
        self._idle: list[http.client.HTTPConnection] = []

    def get(self, path: str) -> Answer:
        """Return the answer to a GET; raises as ``post`` does."""
        return self._ask("GET", path, None)

    def post(self, path: str, body: object) -> Answer:
        """Return the answer to a POST of ``body`` as JSON.

        Raises:
            UpstreamUnavailableError: the server cannot be reached, is silent, or hangs up.
            EngineError: its answer is too large or is not HTTP.
        """
        return self._ask("POST", path, msgspec.json.encode(body))

    def is_connected(self) -> bool:
        """Tell whether a connection is kept that the server has not closed. Does not block."""
        with self._lock:
            socket = self._idle[-1].sock if self._idle else None
        if socket is None:
            return False
        # Between answers nothing is to be read but the end.
        poller = select.poll()
        poller.register(socket, select.POLLIN)
        return not poller.poll(0)

    def close(self) -> None:
        """Close the connections that are not in use."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _ask(self, method: str, path: str, body: bytes | None) -> Answer:
        with self._lock:
            kept = self._idle.pop() if self._idle else None
        if kept is not None:
            try:
                return self._exchange(kept, method, path, body)
            except ConnectionError:
                # The server drops a connection that was not used: a fresh one decides.
                kept.close()
            except (OSError, http.client.HTTPException, EngineError) as error:
                kept.close()
                raise _failure(error) from None
        fresh = self._connection()
        try:
            fresh.connect()
            return self._exchange(fresh, method, path, body)
        except (OSError, http.client.HTTPException, EngineError) as error:
            fresh.close()
            raise _failure(error) from None

    def _connection(self) -> http.client.HTTPConnection:
        timeout = min(CONNECT_TIMEOUT_S, self._timeout_s)
        if self._tls is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=timeout)
        return http.client.HTTPSConnection(
            self._host, self._port, timeout=timeout, context=self._tls
        )

    def _exchange(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None
    ) -> Answer:
        deadline = time.monotonic() + self._timeout_s
        if connection.sock is not None:
            connection.sock.settimeout(self._timeout_s)
        connection.request(method, self._prefix + path, body, self._headers)
        response = connection.getresponse()
        try:
            body_read = _read(response, deadline)
        finally:
            # Only a response that is closed frees its connection, or its socket.
            response.close()
        if response.will_close:
            connection.close()
        else:
            with self._lock:
                self._idle.append(connection)
        return Answer(response.status, body_read)


def _read(response: http.client.HTTPResponse, deadline: float) -> bytes:
    parts: list[bytes] = []
    size = 0
    # What is there is taken at once: a server that trickles must meet the deadline.
    while part := response.read1(_READ_BYTES):
        parts.append(part)
        size += len(part)
        if size > _MAX_ANSWER_BYTES:
            raise EngineError("The upstream's answer is too large.")
        if time.monotonic() > deadline:
            raise TimeoutError
    if response.length:
        raise http.client.IncompleteRead(b"")
    return b"".join(parts)


def _failure(error: Exception) -> EngineError:
    if isinstance(error, EngineError):
        return error
    if isinstance(error, TimeoutError):
        return UpstreamUnavailableError("The upstream does not answer in time.")
    if isinstance(error, http.client.RemoteDisconnected | http.client.IncompleteRead):
        return UpstreamUnavailableError("The upstream hung up within its answer.")
    if isinstance(error, OSError):
        return UpstreamUnavailableError("The upstream cannot be reached.")
    return EngineError("The upstream does not speak HTTP.")
