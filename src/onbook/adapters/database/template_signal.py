"""The fast signal that the book may have changed.

Postgres announces it to who listens; a SQLite file counts its commits. Best effort: whoever
misses a signal finds the change by the epoch. The first wait, and each one that follows a lost
connection, returns at once, since nobody was listening before.
"""

import asyncio
import contextlib
import sqlite3
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, cast

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from onbook.adapters.database import sqlite_file

if TYPE_CHECKING:
    from onbook.adapters.database.postgres_connection import PostgresConnection

CHANNEL: Final = "onbook_templates"
_POLL_S: Final = 0.05
_RETRY_S: Final = 1.0
_CONNECT_S: Final = 5.0
_CLOSE_S: Final = 1.0


class TemplateSignal(Protocol):
    """What tells a gateway to look at the epoch."""

    async def wait(self, timeout_s: float) -> None:
        """Return once something may have changed, or after ``timeout_s`` seconds."""

    async def close(self) -> None:
        """Let go of the connection."""


def template_signal(engine: AsyncEngine) -> TemplateSignal:
    """Return the signal of the database behind ``engine``; nothing is opened before a wait."""
    return ListenSignal(engine) if engine.dialect.name == "postgresql" else FileSignal(engine)


class ListenSignal:
    """Postgres' NOTIFY, heard on a connection of its own.

    A lost connection is made again at the next wait, though not more often than once a second: a
    server that hangs up at once must not be called in a loop.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._connection: _Listening | None = None
        self._heard = asyncio.Event()
        self._lost = False
        self._tried_at: float | None = None

    async def wait(self, timeout_s: float) -> None:
        """Return once a change was announced, or after ``timeout_s`` seconds."""
        deadline = time.monotonic() + timeout_s
        if self._connection is None or self._lost:
            await self._listen(deadline)
            return
        await _first(self._heard, deadline)
        self._heard.clear()

    async def close(self) -> None:
        """Let go of the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await _let_go(connection)

    async def _listen(self, deadline: float) -> None:
        while True:
            if self._tried_at is not None:
                await _until(min(deadline, self._tried_at + _RETRY_S))
                if time.monotonic() >= deadline:
                    return
            self._tried_at = time.monotonic()
            await self.close()
            self._heard.clear()
            self._lost = False
            # Whatever a driver raises here, the epoch is the truth.
            with contextlib.suppress(Exception):
                async with asyncio.timeout(max(deadline - self._tried_at, _CONNECT_S)):
                    self._connection = await self._connected()
                return

    async def _connected(self) -> "_Listening":
        joined = await self._engine.connect()
        driver = (await joined.get_raw_connection()).driver_connection
        listening = _Listening(joined, cast("PostgresConnection", driver))
        try:
            # Out of the pool: it must not lend this connection to anybody else.
            await joined.run_sync(lambda connection: connection.detach())
            listening.driver.add_termination_listener(self._on_lost)
            await listening.driver.add_listener(CHANNEL, self._on_notify)
        except BaseException:
            await _let_go(listening)
            raise
        return listening

    def _on_notify(self, *_what: object) -> None:
        self._heard.set()

    def _on_lost(self, *_which: object) -> None:
        self._lost = True
        self._heard.set()


@dataclass(frozen=True, slots=True)
class _Listening:
    """One connection, as SQLAlchemy and as the driver see it."""

    joined: AsyncConnection
    driver: "PostgresConnection"


async def _let_go(connection: _Listening) -> None:
    with contextlib.suppress(Exception):
        async with asyncio.timeout(_CLOSE_S):
            await connection.joined.close()
    if not connection.driver.is_closed():
        connection.driver.terminate()


class FileSignal:
    """SQLite's ``PRAGMA data_version``: it differs once another connection has committed.

    A thread with a connection of its own looks, so that a slow disk never holds up the loop.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._heard = asyncio.Event()
        self._watch: _FileWatch | None = None

    async def wait(self, timeout_s: float) -> None:
        """Return once another connection has committed, or after ``timeout_s`` seconds."""
        deadline = time.monotonic() + timeout_s
        if self._watch is None or not self._watch.is_alive():
            try:
                path = await database_file(self._engine)
            except (SQLAlchemyError, sqlite3.Error, OSError):
                await _until(deadline)
                return
            self._watch = _FileWatch(path, asyncio.get_running_loop(), self._heard)
            self._watch.start()
        await _first(self._heard, deadline)
        self._heard.clear()

    async def close(self) -> None:
        """End the thread and let go of its connection."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.stop()
            await asyncio.to_thread(watch.join)


async def database_file(engine: AsyncEngine) -> Path:
    """Return the file of a SQLite engine.

    Raises:
        SQLAlchemyError, sqlite3.Error, OSError: it cannot be opened.
    """
    async with engine.connect() as connection:
        listed = await connection.execute(
            text("SELECT file FROM pragma_database_list WHERE name = 'main'")
        )
    return Path(str(listed.scalars().one()))


class _FileWatch(threading.Thread):
    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop, heard: asyncio.Event) -> None:
        super().__init__(name="onbook-template-signal", daemon=True)
        self._path = path
        self._loop = loop
        self._heard = heard
        self._stopping = threading.Event()
        self._connection: sqlite3.Connection | None = None
        self._seen: tuple[sqlite_file.Inode, int] | None = None

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        try:
            while True:
                if self._changed():
                    self._loop.call_soon_threadsafe(self._heard.set)
                if self._stopping.wait(_POLL_S):
                    return
        except RuntimeError:
            # The loop is closed: nobody waits any more.
            return
        finally:
            self._close()

    def _changed(self) -> bool:
        try:
            inode = sqlite_file.inode(self._path)
            if self._connection is None or self._seen is None or inode != self._seen[0]:
                self._close()
                self._connection = sqlite3.connect(
                    sqlite_file.file_uri(self._path), uri=True, timeout=0, isolation_level=None
                )
                # Of two connections to one file the counters differ, so the new one starts anew.
                self._seen = None
            (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY:
                self._close()
            return False
        except (sqlite3.Error, OSError):
            # Missing or damaged for now; once it is back, everything may have changed.
            self._close()
            return False
        seen, self._seen = self._seen, (inode, version)
        return seen != self._seen

    def _close(self) -> None:
        connection, self._connection, self._seen = self._connection, None, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()


async def _first(event: asyncio.Event, deadline: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            await event.wait()


async def _until(deadline: float) -> None:
    await asyncio.sleep(max(0.0, deadline - time.monotonic()))
