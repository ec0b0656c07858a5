"""Bringing a database to the schema of this version, and refusing what cannot be.

SQLAlchemy and Alembic are imported only when there is something to do: a start on a current
database stays fast.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from onbook.adapters.database import sqlite_file
from onbook.adapters.database.errors import DatabaseTooNew, DatabaseUnusable, clearly

# Oldest first; a test compares them with the chain.
REVISIONS: Final = ("2026_11_22_first_tables",)
HEAD: Final = REVISIONS[-1]

BUSY_TIMEOUT_S: Final = 30.0


def migrate(url: str) -> None:
    """Create the database at ``url``, or bring it to the newest revision, in one transaction.

    Safe to call from several processes at once. Blocks: call it before the event loop starts,
    or from a thread.

    Raises:
        DatabaseTooNew: a newer version of Onbook wrote it.
        DatabaseUnusable: it is no database of ours, or it cannot be written.
    """
    path = sqlite_file.sqlite_path(url)
    if current_revision(path) == HEAD:
        _check_writable(path)
    else:
        # Seconds of imports on a cold machine, for nothing where the database is current.
        from onbook.adapters.database.chain import upgrade  # noqa: PLC0415 - see above

        upgrade(url)


def current_revision(path: Path) -> str | None:
    """Return the revision of the database at ``path``; None for a new or empty one.

    Raises:
        DatabaseTooNew: the revision is none that this version knows.
        DatabaseUnusable: it is no database of ours, or it cannot be read.
    """
    with clearly(path):
        if not path.parent.is_dir():
            raise DatabaseUnusable(f"The directory {path.parent} does not exist; create it.")
        if not path.exists() or not path.stat().st_size:
            return None
        with closing(
            sqlite3.connect(sqlite_file.file_uri(path), uri=True, timeout=BUSY_TIMEOUT_S)
        ) as connection:
            tables = {
                name
                for (name,) in connection.execute(
                    "SELECT name FROM sqlite_master WHERE type = 'table'"
                )
            }
            found = (
                connection.execute("SELECT version_num FROM alembic_version").fetchone()
                if "alembic_version" in tables
                else None
            )
    if found is None:
        if tables - {"alembic_version"}:
            raise DatabaseUnusable(
                f"The database {path} belongs to another program; name a file of its own."
            )
        return None
    revision = str(found[0])
    if revision not in REVISIONS:
        raise DatabaseTooNew(revision)
    return revision


def _check_writable(path: Path) -> None:
    """Take the write lock once: a read-only file is otherwise found out by the first request."""
    with (
        clearly(path),
        closing(sqlite_file.connect(path, busy_timeout_s=BUSY_TIMEOUT_S)) as connection,
    ):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
