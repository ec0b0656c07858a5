"""HTTP connections with limits: a request's head in bytes, and the whole request in time."""

import asyncio
from typing import Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

MAX_HEAD_BYTES: Final = 64 * 1024
# From a request's first byte to its last: 1 MiB then needs 35 KB/s.
REQUEST_TIMEOUT_S: Final = 30.0
# How long a body that is on its way when the server stops may still take.
STOPPING_TIMEOUT_S: Final = 1.0


class LimitedProtocol(HttpToolsProtocol):
    """One connection. Over its limits it is answered 431 or 408, where still possible, and closed.

    A head that is not at its end is counted by what arrived, so up to two reads (of 256 KiB)
    more may be in memory.
    """

    _head_bytes = 0
    _heads = 0
    _in_head = False
    _deadline: asyncio.TimerHandle | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._arrived()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse ``data``, and count it where it leaves a head unfinished."""
        if self.transport.is_closing():
            return
        begun = self._heads
        super().data_received(data)
        # Where a head began within it, how much of it is that head cannot be told: not counted.
        if self._in_head and self._heads == begun:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(431, "The request's head is too large.")

    def on_message_begin(self) -> None:
        """Start counting and the clock."""
        super().on_message_begin()
        self._in_head = True
        self._heads += 1
        self._head_bytes = 0
        self._arrived()
        self._deadline = self.loop.call_later(REQUEST_TIMEOUT_S, self._late)

    def on_headers_complete(self) -> None:
        """Hand the request on, unless a head that came in one read is over its limit."""
        self._in_head = False
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > MAX_HEAD_BYTES:
            self._refuse(431, "The request's head is too large.")
            return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Hand a part of the body on."""
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Stop the clock."""
        self._arrived()
        if not self.transport.is_closing():
            super().on_message_complete()

    def shutdown(self) -> None:
        """Finish what runs; a request that is still being sent is no work and is not awaited."""
        super().shutdown()
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = self.loop.call_later(STOPPING_TIMEOUT_S, self._late)

    def _arrived(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._deadline = None
        self._refuse(408, "The request did not arrive in time.")

    def _refuse(self, status: int, text: str) -> None:
        if self.transport.is_closing():
            return
        # Before the first request there is no cycle, whatever the base class says.
        cycle = getattr(self, "cycle", None)
        if cycle is None or cycle.response_complete or not cycle.response_started:
            head = [STATUS_LINE[status], b"content-type: text/plain; charset=utf-8\r\n"]
            head.append(b"content-length: %d\r\nconnection: close\r\n\r\n" % len(text))
            self.transport.write(b"".join([*head, text.encode("ascii")]))
        self.transport.close()
