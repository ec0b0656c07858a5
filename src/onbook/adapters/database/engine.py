"""The asynchronous engine of the stores, on one SQLite file."""

from pathlib import Path
from typing import Final

import aiosqlite
from sqlalchemy import Connection, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry

from onbook.adapters.database import sqlite_file

# Execution option of a connection that will write.
WRITES: Final = "onbook_writes"

_INODE: Final = "onbook_inode"


def create_engine(url: str, *, busy_timeout_s: float = 5.0, pool_size: int = 4) -> AsyncEngine:
    """Return an engine on the SQLite file of ``url``; nothing is opened before the first use.

    Every connection has WAL, ``synchronous=FULL``, foreign keys and the busy timeout. A
    transaction of an engine with the execution option ``WRITES`` starts with BEGIN IMMEDIATE, so
    that there is one writer per file and no transaction fails half way for a lock. A pooled
    connection whose file was moved or deleted is replaced before it is used.

    Args:
        url: ``sqlite+aiosqlite:///<path>``. The file is never created here: ``schema.migrate``
            does that.
        busy_timeout_s: Seconds to wait for another writer.
        pool_size: Connections that are kept open.

    Raises:
        DatabaseUnusable: the URL is not that of a SQLite file.
    """
    path = sqlite_file.sqlite_path(url)

    async def connect() -> aiosqlite.Connection:
        # A missing file is said to be missing; SQLite would only say that it cannot open it.
        sqlite_file.inode(path)
        connection = await aiosqlite.connect(
            sqlite_file.file_uri(path), uri=True, timeout=busy_timeout_s, isolation_level=None
        )
        try:
            # One row with bytes that are not UTF-8 must not take the whole result down; the
            # stores refuse what does not decode.
            connection.text_factory = _lenient_text
            for pragma in sqlite_file.PRAGMAS:
                await connection.execute(pragma)
        except BaseException:
            await connection.close()
            raise
        return connection

    engine = create_async_engine(
        "sqlite+aiosqlite://",
        async_creator=connect,
        # Without a file name in the URL, SQLAlchemy would share one connection.
        poolclass=AsyncAdaptedQueuePool,
        pool_size=pool_size,
        hide_parameters=True,
    )

    _watch(engine, path)
    return engine


def _watch(engine: AsyncEngine, path: Path) -> None:
    """Let go of connections to a file that was replaced, and begin as a reader or a writer."""

    @event.listens_for(engine.sync_engine, "connect")
    def note_file(_connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
        entry.info[_INODE] = sqlite_file.inode(path)

    @event.listens_for(engine.sync_engine, "checkout")
    def check_file(
        _connection: DBAPIConnection, entry: ConnectionPoolEntry, _proxy: object
    ) -> None:
        if entry.info[_INODE] != sqlite_file.inode(path):
            raise DisconnectionError("the database file was replaced")

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def writer(engine: AsyncEngine) -> AsyncEngine:
    """Return ``engine`` for transactions that write; it shares the pool."""
    return engine.execution_options(**{WRITES: True})


def _lenient_text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")
