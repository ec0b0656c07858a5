"""A small HTTP/1.1 client for workers on plain HTTP.

On the hot path a general client costs more than all of composing and checking; this one does what
the worker contract needs and no more: POST, kept-alive connections, a bounded answer. No TLS, no
redirects, no proxies, no compression.
"""

import asyncio
from collections.abc import Mapping
from typing import Final, NamedTuple, cast
from urllib.parse import urlsplit

import httptools

# Servers close idle connections after as little as five seconds: a request that crosses with that
# would be lost, so older connections are not used again.
_MAX_IDLE_S: Final = 4.0
_MAX_IDLE_CONNECTIONS: Final = 64
_MAX_HEAD_BYTES: Final = 64 * 1024


class Answer(NamedTuple):
    """Status and body of an answer, and its ``Retry-After`` where it has one."""

    status: int
    body: bytes
    retry_after: str | None = None


class AnswerTooLargeError(Exception):
    """The answer is over the limit; nothing beyond the limit was kept in memory."""


class PlainHttpClient:
    """Sends to one server. For one event loop.

    Args:
        url: ``http://host[:port][/prefix]``; see :func:`supports`.
        headers: Sent with every request.
        connect_timeout_s: Seconds to wait for a connection.
        limit: Bytes that a body may have.
    """

    def __init__(
        self, url: str, headers: Mapping[str, str], *, connect_timeout_s: float, limit: int
    ) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._port = parts.port or 80
        self._prefix = parts.path.rstrip("/")
        lines = [f"Host: {parts.netloc}", *(f"{name}: {text}" for name, text in headers.items())]
        self._head = "".join(f"{line}\r\n" for line in lines).encode("latin-1")
        self._connect_timeout_s = connect_timeout_s
        self._limit = limit
        self._idle: list[_Connection] = []

    async def post(
        self, path: str, body: bytes, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Return the answer. Cancelling closes the connection.

        Args:
            path: Under the URL's prefix.
            body: The body.
            headers: Sent with this request only; of printable ASCII.

        Raises:
            AnswerTooLargeError: the body is over the limit.
            TimeoutError: no connection within the connect timeout.
            OSError: the connection failed, or what came over it is not HTTP.
        """
        more = "".join(f"{name}: {text}\r\n" for name, text in (headers or {}).items())
        connection = await self._connection()
        try:
            answer = await connection.exchange(
                b"POST %s HTTP/1.1\r\n%s%sContent-Length: %d\r\n\r\n"
                % (
                    f"{self._prefix}{path}".encode("ascii"),
                    self._head,
                    more.encode("ascii"),
                    len(body),
                )
                + body
            )
        except BaseException:
            connection.close()
            raise
        if connection.reusable and len(self._idle) < _MAX_IDLE_CONNECTIONS:
            connection.idle_since = asyncio.get_running_loop().time()
            self._idle.append(connection)
        else:
            connection.close()
        return answer

    def close(self) -> None:
        """Close the idle connections."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    async def _connection(self) -> "_Connection":
        loop = asyncio.get_running_loop()
        while self._idle:
            # The one used last, so that surplus connections grow old and go.
            connection = self._idle.pop()
            if connection.reusable and loop.time() - connection.idle_since < _MAX_IDLE_S:
                return connection
            connection.close()
        async with asyncio.timeout(self._connect_timeout_s):
            _, fresh = await loop.create_connection(
                lambda: _Connection(self._limit), self._host, self._port
            )
        return fresh


def supports(url: str, headers: Mapping[str, str]) -> bool:
    """Tell whether :class:`PlainHttpClient` can be used for ``url`` with ``headers``."""
    try:
        parts = urlsplit(url)
        plain = parts.scheme == "http" and parts.hostname is not None and parts.port != 0
    except ValueError:
        return False
    return (
        plain
        and "@" not in parts.netloc
        and not parts.query
        and not parts.fragment
        and parts.netloc.isascii()
        and (parts.netloc + parts.path).isprintable()
        and " " not in parts.path
        and parts.path.isascii()
        and all(text.isascii() and text.isprintable() for text in headers.values())
    )


class _Connection(asyncio.Protocol):
    """One connection, with at most one request under way. ``idle_since`` is in loop time."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._done: asyncio.Future[Answer] | None = None
        self._chunks: list[bytes] = []
        self._size = 0
        self._head_bytes = 0
        self._in_body = False
        self._sized = False
        self._retry_after: str | None = None
        self.idle_since = 0.0
        self.reusable = False

    async def exchange(self, request: bytes) -> Answer:
        """Send ``request`` and return the answer."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionError("the connection is closed")
        self._done = asyncio.get_running_loop().create_future()
        self.reusable = False
        self._head_bytes = 0
        self._transport.write(request)
        return await self._done

    def close(self) -> None:
        """Close at once: nothing that is still to be written or read is wanted."""
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # uvloop's transports are not subclasses of the standard library's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Parse a part of the answer."""
        if self._done is None or self._done.done():
            # Nothing was asked: whatever this is, it must not become the next answer.
            self.close()
            return
        if not self._in_body:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(ConnectionError("the answer is not HTTP"))
            return
        if not self._in_body and self._head_bytes > _MAX_HEAD_BYTES and not self._done.done():
            self._fail(ConnectionError("the head of the answer is too long"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Complete an answer that ends with the connection; fail any other."""
        self.reusable = False
        if self._done is None or self._done.done():
            return
        if exc is None and self._in_body and not self._sized:
            self._done.set_result(self._answer())
        else:
            self._fail(ConnectionError("the connection was lost before the answer was complete"))

    def on_message_begin(self) -> None:
        """Forget the answer before; one that nobody asked for ends the connection."""
        if self._done is None or self._done.done():
            self.close()
            return
        self._chunks, self._size = [], 0
        self._in_body, self._sized = False, False
        self._retry_after = None

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note whether the body says where it ends, and when to come back."""
        name = name.lower()
        if name in (b"content-length", b"transfer-encoding"):
            self._sized = True
        elif name == b"retry-after":
            self._retry_after = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Go on to the body."""
        self._in_body = True

    def on_body(self, body: bytes) -> None:
        """Collect the body, up to the limit."""
        self._size += len(body)
        if self._size > self._limit:
            self._fail(AnswerTooLargeError())
        else:
            self._chunks.append(body)

    def on_message_complete(self) -> None:
        """Hand over the answer; interim ones (1xx) are passed over."""
        self._in_body = False
        status = self._parser.get_status_code()
        if status < 200 or self._done is None or self._done.done():
            return
        self.reusable = self._parser.should_keep_alive()
        self._done.set_result(self._answer())

    def _answer(self) -> Answer:
        status = self._parser.get_status_code()
        return Answer(status, b"".join(self._chunks), self._retry_after)

    def _fail(self, error: Exception) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(error)
        self.close()
