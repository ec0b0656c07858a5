"""Listening, serving and stopping, the same for gateway and worker."""

import asyncio
import errno
import socket
import sys
from typing import TYPE_CHECKING

import uvicorn

from onbook.cli.options import fail

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from starlette.types import ASGIApp

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
    def __init__(self, config: uvicorn.Config, on_ready: "Callable[[], None]") -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()


async def run_server(
    app: "ASGIApp", listener: socket.socket, *, grace_s: float, on_ready: "Callable[[], None]"
) -> None:
    """Serve until SIGINT or SIGTERM; requests in flight are finished, for ``grace_s`` at most.

    ``on_ready`` is called once connections are accepted.
    """
    config = uvicorn.Config(
        app,
        http="httptools",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, round(grace_s)),
        backlog=_BACKLOG,
    )
    await _Server(config, on_ready).serve(sockets=[listener])
