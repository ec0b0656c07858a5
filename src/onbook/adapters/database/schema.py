"""Bringing a database to the schema of this version, and refusing what cannot be.

SQLAlchemy and Alembic are imported only when there is something to do: a start on a current
database stays fast.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from onbook.adapters.database import sqlite_file
from onbook.adapters.database.errors import DatabaseAway, DatabaseTooNew, DatabaseUnusable, clearly
from onbook.adapters.database.postgres_url import is_postgres

# Oldest first; a test compares them with the chain.
REVISIONS: Final = (
    "2026_11_22_first_tables",
    "2026_11_23_template_history",
    "2026_11_24_audit_chain",
)
HEAD: Final = REVISIONS[-1]

# Ours since the first revision: tells a newer Onbook's database from another program's.
_OUR_TABLE: Final = "prompt_templates"
_VERSION_TABLE: Final = "alembic_version"

BUSY_TIMEOUT_S: Final = 30.0


def migrate(url: str) -> None:
    """Create the schema in the database of ``url``, or bring it to the newest revision.

    One transaction, safe to run from several processes at once. A SQLite file is created; a
    Postgres database must exist. Blocks, and runs an event loop of its own for Postgres: call it
    before the event loop starts, or from a thread.

    Raises:
        DatabaseTooNew: a newer version of Onbook wrote it.
        DatabaseUnusable: it is no database of ours.
        DatabaseAway: it cannot be reached or cannot work now.
    """
    if is_postgres(url):
        _migrate_postgres(url)
        return
    path = sqlite_file.sqlite_path(url)
    if current_revision(path) == HEAD:
        _check_writable(path)
    else:
        _upgrade(url)


def current_revision(path: Path) -> str | None:
    """Return the revision of the SQLite file at ``path``; None for a new or empty one.

    Raises:
        DatabaseTooNew: the revision is none that this version knows.
        DatabaseUnusable: it is no database of ours.
        DatabaseAway: it cannot be read now.
    """
    with clearly(path):
        if not path.parent.is_dir():
            raise DatabaseAway(f"The directory {path.parent} does not exist; create it.")
        if not path.exists() or not path.stat().st_size:
            return None
        with closing(
            sqlite3.connect(sqlite_file.file_uri(path), uri=True, timeout=BUSY_TIMEOUT_S)
        ) as connection:
            tables = {
                str(name)
                for (name,) in connection.execute(
                    "SELECT name FROM sqlite_master WHERE type = 'table'"
                )
            }
            found = (
                connection.execute("SELECT version_num FROM alembic_version").fetchone()
                if _VERSION_TABLE in tables
                else None
            )
    foreign = f"The database {path} belongs to another program; name a file of its own."
    return known_revision(tables, found[0] if found else None, foreign=foreign)


def known_revision(tables: set[str], found: object, *, foreign: str) -> str | None:
    """Return the revision ``found`` in a database that has ``tables``; None for an empty one.

    Args:
        tables: The names of its tables.
        found: What its version table says; None for nothing.
        foreign: The sentence that says that it is another program's.

    Raises:
        DatabaseTooNew: the revision is none that this version knows.
        DatabaseUnusable: it is another program's.
    """
    if found is None:
        if tables - {_VERSION_TABLE}:
            raise DatabaseUnusable(foreign)
        return None
    revision = str(found)
    if revision not in REVISIONS:
        if _OUR_TABLE not in tables:
            raise DatabaseUnusable(foreign)
        raise DatabaseTooNew(revision)
    return revision


def _migrate_postgres(url: str) -> None:
    # The driver is not needed where the database is SQLite.
    from onbook.adapters.database.postgres_schema import (  # noqa: PLC0415 - see above
        postgres_revision,
    )

    if postgres_revision(url, writable=True) != HEAD:
        _upgrade(url)


def _upgrade(url: str) -> None:
    # Seconds of imports on a cold machine, for nothing where the database is current.
    from onbook.adapters.database.chain import upgrade  # noqa: PLC0415 - see above

    upgrade(url)


def _check_writable(path: Path) -> None:
    """Take the write lock once: a read-only file is otherwise found out by the first request."""
    with (
        clearly(path),
        closing(sqlite_file.connect(path, busy_timeout_s=BUSY_TIMEOUT_S)) as connection,
    ):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
