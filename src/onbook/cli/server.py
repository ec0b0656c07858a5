"""Listening, serving and stopping, the same for gateway and worker."""

import asyncio
import errno
import socket
import sys
from typing import TYPE_CHECKING

import uvicorn

from onbook.cli.http_protocol import LimitedProtocol
from onbook.cli.options import fail

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from types import FrameType

    from starlette.types import ASGIApp

    Drain = Callable[[float], Awaitable[None]]

_BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; ends the program with one sentence if that cannot be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only for sockets that name TCP; with it, every answer
    # on a kept connection waits for the peer's delayed acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            fail(f"port {port} on {host} is already in use; choose another with --port.")
        if error.errno == errno.EACCES:
            fail(f"port {port} may not be used by this user; choose one above 1023 with --port.")
        fail(f"cannot listen on {host}, port {port}: {error.strerror or error}.")
    listener.settimeout(0)
    return listener


def url_of(host: str, listener: socket.socket) -> str:
    """Return the URL to reach ``listener`` at, from this machine."""
    port = listener.getsockname()[1]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104 - only shown
    return f"http://{f'[{shown}]' if ':' in shown and not shown.startswith('[') else shown}:{port}"


def run(main: "Coroutine[None, None, None]") -> None:
    """Run ``main`` on the fastest event loop that this platform has."""
    if sys.platform == "win32":
        asyncio.run(main)
        return
    import uvloop  # noqa: PLC0415 - there is none on Windows

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


class _Server(uvicorn.Server):
    """Serves until a signal; with ``drain`` it goes on answering while that is under way."""

    def __init__(
        self,
        config: uvicorn.Config,
        on_ready: "Callable[[], None]",
        drain: "Drain | None",
        grace_s: float,
    ) -> None:
        super().__init__(config)
        self._on_ready = on_ready
        self._drain = drain
        self._grace_s = grace_s
        self._loop = asyncio.get_running_loop()
        self._draining: asyncio.Task[None] | None = None
        self._signalled = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    def handle_exit(self, sig: int, frame: "FrameType | None") -> None:
        if self._drain is None or self._signalled:
            super().handle_exit(sig, frame)
            return
        self._signalled = True
        # What the base class does on a signal, but for the end of the loop.
        self._captured_signals.append(sig)
        self._loop.call_soon_threadsafe(self._begin_draining, self._drain)

    def _begin_draining(self, drain: "Drain") -> None:
        self._draining = self._loop.create_task(self._drained(drain))

    async def _drained(self, drain: "Drain") -> None:
        began = self._loop.time()
        try:
            await drain(self._grace_s)
        finally:
            # Answers that are still being sent get what is left.
            left = self._grace_s - (self._loop.time() - began)
            self.config.timeout_graceful_shutdown = max(1, round(left))
            self.should_exit = True


async def run_server(
    app: "ASGIApp",
    listener: socket.socket,
    *,
    grace_s: float,
    on_ready: "Callable[[], None]",
    drain: "Drain | None" = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM; requests in flight are finished, for ``grace_s`` at most.

    Args:
        app: The application.
        listener: Listens already.
        grace_s: Seconds for requests in flight.
        on_ready: Called once connections are accepted.
        drain: Called at the first signal with the seconds that it may take; until it returns, new
            connections are accepted, so that the application can say that it is stopping.
        stop: Once set, ends serving as a signal does, without draining.
    """
    config = uvicorn.Config(
        app,
        http=LimitedProtocol,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, round(grace_s)),
        backlog=_BACKLOG,
    )
    server = _Server(config, on_ready, drain, grace_s)
    stopping = asyncio.create_task(_stopped(server, stop or asyncio.Event()))
    try:
        await server.serve(sockets=[listener])
    finally:
        stopping.cancel()


async def _stopped(server: _Server, stop: asyncio.Event) -> None:
    await stop.wait()
    server.should_exit = True
