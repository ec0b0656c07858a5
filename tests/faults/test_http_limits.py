"""Connections that send too much, too slowly or not to the end, over real sockets."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from onbook.cli import http_protocol
from onbook.cli.server import listen, run_server

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

HEAD = b"POST /x HTTP/1.1\r\nHost: localhost\r\n"


class Echo:
    """Answers with the body's length; ``began`` is set as soon as it has a request."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.gone = asyncio.Event()

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        self.began.set()
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.gone.set()
                return
            size += len(message["body"])
            more = message["more_body"]
        body = b"%d" % size
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def _lifespan(receive: "Receive", send: "Send") -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


@asynccontextmanager
async def serving(app: Echo) -> AsyncIterator[tuple[int, Callable[[], None]]]:
    listener = listen("127.0.0.1", 0)
    ready, stop = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(run_server(app, listener, grace_s=60, on_ready=ready.set, stop=stop))
    await ready.wait()
    try:
        yield listener.getsockname()[1], stop.set
    finally:
        stop.set()
        await asyncio.wait_for(task, 20)


async def _exchange(port: int, *parts: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = b""
    with suppress(OSError):
        for part in parts:
            writer.write(part)
            await writer.drain()
    with suppress(OSError):
        answer = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    return answer


@pytest.mark.parametrize(
    "field",
    [b"X-A: " + b"a" * 70_000 + b"\r\n", b"X-A: a\r\n" * 20_000, b"X-A: " + b"a" * 2_000_000],
    ids=["one", "many", "unending"],
)
async def test_a_head_over_64_kib_is_refused(field: bytes) -> None:
    async with serving(app := Echo()) as (port, _):
        # The rest that nobody reads may reset the connection before the answer is read.
        assert (await _exchange(port, HEAD + field + b"\r\n"))[:12] in (b"HTTP/1.1 431", b"")
        assert not app.began.is_set()
        # In one piece that fits a socket's buffer, the answer is sure to arrive.
        answer = await _exchange(port, HEAD + b"X-A: " + b"a" * 66_000 + b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 431")


async def test_what_is_sent_on_into_a_refused_head_is_not_kept() -> None:
    async with serving(Echo()) as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + b"X-A: ")
        sent = 0
        with suppress(OSError):
            while sent < 64 * 1024 * 1024:
                writer.write(b"a" * 65_536)
                await writer.drain()
                sent += 65_536
        writer.close()
        assert sent < 16 * 1024 * 1024
        del reader


async def test_a_head_below_the_limit_and_a_long_body_pass_on_one_connection() -> None:
    async with serving(Echo()) as (port, _):
        one = (
            HEAD + b"X-A: " + b"a" * 60_000 + b"\r\nContent-Length: 900000\r\n\r\n" + b"b" * 900_000
        )
        last = HEAD + b"Content-Length: 1\r\nConnection: close\r\n\r\nb"
        answer = await _exchange(port, one, one, last)
        assert answer.count(b"HTTP/1.1 200") == 3
        assert answer.count(b"900000") == 2


@pytest.mark.parametrize(
    "start", [HEAD + b"Content-Length: 9\r\n\r\nabc", HEAD + b"X-Half: "], ids=["body", "head"]
)
async def test_a_request_that_does_not_arrive_in_time_is_408(
    start: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "REQUEST_TIMEOUT_S", 0.05)
    async with serving(app := Echo()) as (port, _):
        assert (await _exchange(port, start)).startswith(b"HTTP/1.1 408")
        if b"Content" in start:
            await asyncio.wait_for(app.gone.wait(), 20)


async def test_a_body_that_is_still_sent_does_not_hold_up_the_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_protocol, "STOPPING_TIMEOUT_S", 0.05)
    async with serving(app := Echo()) as (port, stop):
        with socket.create_connection(("127.0.0.1", port)) as stalled:
            stalled.sendall(HEAD + b"Content-Length: 9\r\n\r\nabc")
            await app.began.wait()
            # Leaving the block waits 20 s for the server; its grace is 60.
            stop()
            await asyncio.wait_for(app.gone.wait(), 20)
