"""A closed-loop load generator: every connection sends its next request when it has its answer."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, cast

import httptools

_GRACE_S: Final = 30.0

Check = Callable[[bytes], bool]


@dataclass(slots=True)
class Slice:
    """What one slice of load brought. Latencies in seconds, one per good answer."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    errors: int = 0

    @property
    def rate(self) -> float:
        """Good answers per second."""
        return len(self.latencies) / self.seconds if self.seconds else 0.0

    def quantile(self, share: float) -> float:
        """Return the latency in milliseconds below which ``share`` of the answers are."""
        if not self.latencies:
            return 0.0
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000


def http_post(path: str, body: bytes, headers: Sequence[tuple[str, str]] = ()) -> bytes:
    """Return the bytes of one request."""
    lines = [
        f"POST {path} HTTP/1.1",
        "host: 127.0.0.1",
        "content-type: application/json",
        f"content-length: {len(body)}",
        *(f"{name}: {value}" for name, value in headers),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def run_slice(
    port: int, requests: Sequence[bytes], *, connections: int, seconds: float, check: Check
) -> Slice:
    """Load ``port`` for ``seconds``; requests under way at the end are awaited and counted.

    Args:
        port: On loopback.
        requests: Sent in turn; each connection starts at another one.
        connections: That many are open, with one request each.
        seconds: How long new requests are sent.
        check: Tells whether the body of a 200 is what it should be; anything else is an error.

    Raises:
        TimeoutError: answers were still missing long after the end.
        OSError: the server cannot be reached.
    """
    loop = asyncio.get_running_loop()
    result = Slice()
    clients = [
        _Client(result, requests, first=index, check=check, done=loop.create_future())
        for index in range(connections)
    ]
    for client in clients:
        await loop.create_connection(partial(_same, client), "127.0.0.1", port)
    started = time.perf_counter()
    for client in clients:
        client.start(until=started + seconds)
    async with asyncio.timeout(seconds + _GRACE_S):
        await asyncio.gather(*(client.done for client in clients))
    result.seconds = time.perf_counter() - started
    for client in clients:
        client.close()
    return result


def _same(client: "_Client") -> "_Client":
    return client


class _Client(asyncio.Protocol):
    """One connection of the load."""

    def __init__(
        self,
        result: Slice,
        requests: Sequence[bytes],
        *,
        first: int,
        check: Check,
        done: "asyncio.Future[None]",
    ) -> None:
        self.done = done
        self._result = result
        self._requests = requests
        self._next = first
        self._check = check
        self._until = 0.0
        self._sent_at = 0.0
        self._body: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # uvloop's transports are not subclasses of the standard library's.
        self._transport = cast(asyncio.Transport, transport)

    def start(self, *, until: float) -> None:
        """Send the first request; send no more from ``until`` (``perf_counter``) on."""
        self._until = until
        self._send()

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._fail()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's shape
        """Count an answer that will never come."""
        if not self.done.done():
            self._fail()

    def on_message_begin(self) -> None:
        """Forget the answer before."""
        self._body = []

    def on_body(self, body: bytes) -> None:
        """Collect the body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Note the answer and send the next request."""
        now = time.perf_counter()
        if self._parser.get_status_code() == 200 and self._check(b"".join(self._body)):
            self._result.latencies.append(now - self._sent_at)
        else:
            self._result.errors += 1
        if now < self._until and self._parser.should_keep_alive():
            self._send()
        elif now < self._until:
            self._fail()
        else:
            self.done.set_result(None)

    def _send(self) -> None:
        request = self._requests[self._next % len(self._requests)]
        self._next += 1
        self._sent_at = time.perf_counter()
        if self._transport is not None:
            self._transport.write(request)

    def _fail(self) -> None:
        self._result.errors += 1
        if not self.done.done():
            self.done.set_result(None)
        self.close()
