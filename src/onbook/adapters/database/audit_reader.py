"""An engine for whoever only reads the audit log: it changes nothing, not even of the file."""

import os
from pathlib import Path
from typing import Final

import aiosqlite
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from onbook.adapters.database import sqlite_file
from onbook.adapters.database.engine import create_engine
from onbook.adapters.database.postgres_url import is_postgres

_BUSY_S: Final = 30.0


def create_reader(url: str, *, statement_timeout_s: float) -> AsyncEngine:
    """Return an engine that reads the database at ``url``, beside whoever writes to it.

    A SQLite file is opened read-only and no pragma is set, so that a copy stays what it is, byte
    for byte. Where the directory can be written, SQLite puts its own two files beside a database
    that is in WAL mode.

    Args:
        url: As for ``engine.create_engine``.
        statement_timeout_s: Postgres: seconds that a statement may take, and a connection.

    Raises:
        DatabaseUnusable: the URL is not right.
    """
    if is_postgres(url):
        return create_engine(url, statement_timeout_s=statement_timeout_s)
    path = sqlite_file.sqlite_path(url)

    async def connect() -> aiosqlite.Connection:
        sqlite_file.inode(path)
        connection = await aiosqlite.connect(
            _read_only(path), uri=True, timeout=_BUSY_S, isolation_level=None
        )
        connection.text_factory = _lenient_text
        return connection

    return create_async_engine(
        "sqlite+aiosqlite://",
        async_creator=connect,
        poolclass=AsyncAdaptedQueuePool,
        hide_parameters=True,
    )


def _read_only(path: Path) -> str:
    uri = sqlite_file.file_uri(path).removesuffix("?mode=rw") + "?mode=ro"
    kept = not path.with_name(f"{path.name}-wal").exists()
    writable = os.access(path, os.W_OK) and os.access(path.absolute().parent, os.W_OK)
    # Nobody can write there, and SQLite would need to, to read along with a writer.
    return f"{uri}&immutable=1" if kept and not writable else uri


def _lenient_text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")
