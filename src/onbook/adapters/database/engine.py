"""The asynchronous engine of the stores, on one SQLite file or on Postgres."""

from pathlib import Path
from threading import Thread
from typing import Final, cast

import aiosqlite
from sqlalchemy import Connection, event
from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry

from onbook.adapters.database import sqlite_file
from onbook.adapters.database.postgres_url import connect_arguments, is_postgres

# Execution option of a connection that will write.
WRITES: Final = "onbook_writes"
# Execution option of a connection whose commits wait for the disk, as they do by default.
SYNCED: Final = "onbook_synced"

_INODE: Final = "onbook_inode"
_RECYCLE_S: Final = 600


def create_engine(
    url: str,
    *,
    busy_timeout_s: float = 5.0,
    statement_timeout_s: float = 5.0,
    pool_size: int = 4,
) -> AsyncEngine:
    """Return an engine on the database of ``url``; nothing is opened before the first use.

    SQLite: every connection has WAL, ``synchronous=FULL``, foreign keys and the busy timeout. A
    transaction of an engine with the execution option ``WRITES`` starts with BEGIN IMMEDIATE, so
    that there is one writer per file and no transaction fails half way for a lock. A pooled
    connection whose file was moved or deleted is replaced before it is used.

    Postgres: a pooled connection that was lost is replaced before it is used, so that a restart
    of the server heals by itself, and no statement waits longer than its timeout.

    Args:
        url: ``sqlite+aiosqlite:///<path>``, or what ``postgres_url`` understands. The database is
            never created here: ``schema.migrate`` sets it up.
        busy_timeout_s: SQLite: seconds to wait for another writer.
        statement_timeout_s: Postgres: seconds that a statement may take, and a connection.
        pool_size: Connections that are kept open.

    Raises:
        DatabaseUnusable: the URL is not right.
    """
    if is_postgres(url):
        return _postgres_engine(url, statement_timeout_s, pool_size)
    return _sqlite_engine(sqlite_file.sqlite_path(url), busy_timeout_s, pool_size)


def _postgres_engine(url: str, statement_timeout_s: float, pool_size: int) -> AsyncEngine:
    # Imported here: a service on SQLite needs no driver of Postgres.
    from onbook.adapters.database.postgres_connection import (  # noqa: PLC0415 - see above
        PostgresConnection,
        connect,
    )

    connect_arguments(url)

    async def open_connection() -> PostgresConnection:
        return await connect(
            url, connect_timeout_s=statement_timeout_s, statement_timeout_s=statement_timeout_s
        )

    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=open_connection,
        pool_size=pool_size,
        # Requests that come at once while all are in use wait for one of these, not longer.
        max_overflow=pool_size,
        pool_timeout=statement_timeout_s,
        # Firewalls forget connections that were idle for long, and tell nobody.
        pool_recycle=_RECYCLE_S,
        hide_parameters=True,
    )

    # A look at the socket costs nothing; asking the server costs three round trips.
    @event.listens_for(engine.sync_engine, "checkout")
    def check_connection(
        connection: DBAPIConnection, _entry: ConnectionPoolEntry, _proxy: object
    ) -> None:
        if cast(PostgresConnection, connection.driver_connection).is_closed():
            raise DisconnectionError("the connection to the server was lost")

    # SQLAlchemy would go on using a connection whose server no longer answers, and say goodbye.
    @event.listens_for(engine.sync_engine, "handle_error")
    def let_go(context: ExceptionContext) -> None:
        if isinstance(context.original_exception, OSError):
            context.is_disconnect = True
            if context.connection is not None:
                driver = context.connection.connection.driver_connection
                cast(PostgresConnection, driver).terminate()

    return engine


def _sqlite_engine(path: Path, busy_timeout_s: float, pool_size: int) -> AsyncEngine:
    async def connect() -> aiosqlite.Connection:
        # A missing file is said to be missing; SQLite would only say that it cannot open it.
        sqlite_file.inode(path)
        opening = aiosqlite.connect(
            sqlite_file.file_uri(path), uri=True, timeout=busy_timeout_s, isolation_level=None
        )
        _let_the_process_end(opening)
        connection = await opening
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


def _let_the_process_end(connection: aiosqlite.Connection) -> None:
    """Keep the thread of a connection that nobody closed from holding the interpreter.

    SQLAlchemy does the same where it opens the connection itself. Before 0.22 the connection was
    the thread, since then it has one.
    """
    thread = connection if isinstance(connection, Thread) else connection._thread  # noqa: SLF001 - there is no public way
    thread.daemon = True


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
        options = connection.get_execution_options()
        synced = options.get(SYNCED, True)
        if connection.info.get(SYNCED, True) != synced:
            connection.exec_driver_sql(f"PRAGMA synchronous={'FULL' if synced else 'NORMAL'}")
            connection.info[SYNCED] = synced
        connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get(WRITES, False) else "BEGIN")


def writer(engine: AsyncEngine, *, synced: bool = True) -> AsyncEngine:
    """Return ``engine`` for transactions that write; it shares the pool.

    On Postgres, where readers and writers do not wait for each other, it is much the same.

    Args:
        engine: The engine of the stores.
        synced: Whether a commit waits for the disk. What can be written again after a power cut
            need not: on SQLite it would hold the only write lock meanwhile.
    """
    return engine.execution_options(**{WRITES: True, SYNCED: synced})


def _lenient_text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")
