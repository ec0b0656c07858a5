"""Which revision a Postgres database has, and whether it can carry ours at all."""

import asyncio
from collections.abc import Coroutine
from typing import Final, TypeVar

from onbook.adapters.database.errors import DatabaseAway, DatabaseUnusable, unreachable
from onbook.adapters.database.postgres_connection import (
    FAILURES,
    PostgresConnection,
    connect,
)
from onbook.adapters.database.postgres_url import place
from onbook.adapters.database.schema import BUSY_TIMEOUT_S, known_revision

T = TypeVar("T")

_OLDEST: Final = 130_000
_SERVER: Final = (
    "SELECT current_setting('server_version_num')::integer, current_setting('server_encoding'),"
    " current_schema(), current_setting('transaction_read_only')"
)
# What an extension keeps there is not another program's.
_TABLES: Final = """
SELECT relname::text FROM pg_class
WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())
  AND relkind IN ('r', 'p')
  AND NOT EXISTS (
    SELECT FROM pg_depend
    WHERE classid = 'pg_class'::regclass AND objid = pg_class.oid AND deptype = 'e'
  )
"""
_REVISION: Final = "SELECT version_num FROM alembic_version"


def postgres_revision(url: str, *, writable: bool = False) -> str | None:
    """Return the revision of the database of ``url``; None for an empty one. Blocks.

    Args:
        url: The database URL.
        writable: Whether a database that takes no writes, as a standby, is one that is away.

    Raises:
        DatabaseTooNew: the revision is none that this version knows.
        DatabaseUnusable: it is no database of ours, or it cannot be read.
        DatabaseAway: it cannot be reached or cannot work now.
    """
    return in_own_loop(_postgres_revision(url, writable=writable))


def in_own_loop(work: Coroutine[object, object, T]) -> T:
    """Run ``work`` to its end in an event loop that nobody else sees."""
    # With a factory, the runner leaves the thread's current loop as it is.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(work)


async def _postgres_revision(url: str, *, writable: bool) -> str | None:
    connection = await connect(url, statement_timeout_s=BUSY_TIMEOUT_S)
    try:
        return await _revision(connection, place(url), writable=writable)
    except FAILURES as error:
        raise unreachable(place(url), error) from None
    finally:
        connection.terminate()


async def _revision(connection: PostgresConnection, where: str, *, writable: bool) -> str | None:
    version, encoding, schema, read_only = (await connection.fetch(_SERVER))[0]
    if not isinstance(version, int) or version < _OLDEST:
        raise DatabaseUnusable(
            f"The server of the database {where} is too old; use Postgres 13 or newer."
        )
    if encoding != "UTF8":
        raise DatabaseUnusable(
            f"The database {where} cannot hold every text; create one with ENCODING 'UTF8'."
        )
    if schema is None:
        raise DatabaseUnusable(
            f"The database {where} has no schema on this user's search_path; create one."
        )
    if writable and read_only == "on":
        raise DatabaseAway(
            f"The database {where} is read-only, as on a standby; name the primary server."
        )
    tables = {str(name) for (name,) in await connection.fetch(_TABLES)}
    found = await connection.fetchval(_REVISION) if "alembic_version" in tables else None
    return known_revision(
        tables,
        found,
        foreign=f"The database {where} belongs to another program; name one of its own.",
    )
