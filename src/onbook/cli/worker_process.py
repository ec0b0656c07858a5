"""The process behind ``onbook worker``: it listens first, then loads, serves, and drains."""

import asyncio
import os
import sys
from typing import TYPE_CHECKING

import structlog
import typer

from onbook.adapters.telemetry.logs import configure_logging
from onbook.cli.options import fail, lowered
from onbook.cli.server import listen, run, run_server, url_of
from onbook.settings import SHORT_WORKER_KEY
from onbook.worker.engines.base import EngineStartError
from onbook.worker.identity import IdentityError
from onbook.worker.loading import LoadingApp
from onbook.worker.start import Worker, build_worker, check_trusted_keys

if TYPE_CHECKING:
    import socket

    from onbook.settings import Settings

_log = structlog.get_logger("onbook.worker")


def run_worker(settings: "Settings") -> None:
    """Serve a worker alone until a signal; ends with one sentence if it cannot start."""
    configure_logging(settings.log_level, settings.log_format)
    try:
        # Before anything is started: no request could ever be let in.
        check_trusted_keys(settings.worker_trust_keys)
    except EngineStartError as error:
        fail(lowered(str(error)), code=2)
    listener = listen(settings.host, settings.port)
    process = _Process(settings, listener)
    try:
        run(process.live())
    except KeyboardInterrupt:
        say("Stopped.")
    finally:
        listener.close()
    if process.failure is not None:
        fail(lowered(process.failure))


class _Process:
    """One worker's life. ``failure`` is the sentence that it ends with, if it cannot start."""

    def __init__(self, settings: "Settings", listener: "socket.socket") -> None:
        self._settings = settings
        self._listener = listener
        self._url = url_of(settings.host, listener)
        self._face = LoadingApp()
        self._worker: Worker | None = None
        self._loading: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self.failure: str | None = None

    async def live(self) -> None:
        """Serve until a signal, or until it is clear that there is nothing to serve."""
        try:
            await run_server(
                self._face,
                self._listener,
                grace_s=self._settings.shutdown_grace_s,
                on_ready=self._begin,
                drain=self._drain,
                stop=self._stop,
            )
        finally:
            await self._end()

    def _begin(self) -> None:
        say(f"Worker listens at {self._url}; it answers 503 until it is ready.")
        self._loading = asyncio.create_task(self._load())

    async def _load(self) -> None:
        trusted = frozenset(self._settings.worker_trust_keys)
        try:
            self._worker = await asyncio.to_thread(
                build_worker,
                self._settings,
                progress=say,
                trusted=(lambda: trusted) if trusted else None,
            )
        except (EngineStartError, IdentityError) as error:
            self.failure = str(error)
        except OSError as error:
            self.failure = (
                f"the data directory {self._settings.data_dir} cannot be used: {error.strerror}."
            )
        finally:
            if self._worker is None:
                self._stop.set()
        if self._worker is not None:
            self._face.hand_over(self._worker.app)
            self._welcome(self._worker)

    async def _drain(self, timeout_s: float) -> None:
        if self._worker is not None:
            _log.info("worker.draining", **self._under_way(self._worker))
            await self._worker.drain(timeout_s)
            _log.info("worker.drained", **self._under_way(self._worker))

    async def _end(self) -> None:
        if self._loading is not None and not self._loading.done():
            # A library that is loading a model cannot be interrupted, and holds nothing to save.
            say("Stopped.")
            sys.stdout.flush()
            os._exit(0)
        if self._worker is not None:
            await self._worker.close()
        if self._loading is not None:
            # A bug in loading must be seen.
            await self._loading

    def _under_way(self, worker: Worker) -> dict[str, int]:
        return {"running": worker.executor.running, "waiting": worker.executor.waiting}

    def _welcome(self, worker: Worker) -> None:
        info = worker.app.info
        say(f"Worker {info.worker_id} is ready at {self._url}")
        say(f"  model  {info.model.name} ({info.model.engine}, {info.purity.verification})")
        for line in _trust(self._settings):
            say(f"  trust  {line}")
        if self._settings.worker_key_is_short:
            say(f"  warning  {SHORT_WORKER_KEY}")
        say(f"  key    {info.public_key}  (public, for ONBOOK_WORKER_PUBLIC_KEY)")


def _trust(settings: "Settings") -> list[str]:
    """Return who may call, one line each."""
    lines = []
    count = len(settings.worker_trust_keys)
    if count:
        keys = "a gateway's key" if count == 1 else f"one of {count} gateways' keys"
        lines.append(f"requests must be signed with {keys} (ONBOOK_WORKER_TRUST_KEYS)")
    if settings.worker_key is not None:
        lines.append("callers must send ONBOOK_WORKER_KEY")
    elif not count:
        lines.append("anything on this machine may call; set ONBOOK_WORKER_KEY to change that")
    return lines


def say(text: str) -> None:
    """Tell the person at the terminal; logs go elsewhere."""
    typer.echo(text)
