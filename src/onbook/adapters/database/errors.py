"""What can be wrong with the database, in one clear sentence each.

::

    StoreUnavailable
    └── DatabaseUnusable      not a database, disk full, read-only, no permission, locked, ...
        └── DatabaseTooNew    written by a newer version of Onbook

A driver's own message may hold SQL and values, so none of it is repeated here.
"""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from onbook.ports.stores import StoreUnavailable


class DatabaseUnusable(StoreUnavailable):
    """The database cannot be used as it is; the message says why and what to do."""


class DatabaseTooNew(DatabaseUnusable):
    """The database is from a newer version of Onbook."""

    def __init__(self, revision: str) -> None:
        super().__init__(
            f"The database is from a newer version of Onbook (revision {revision}); "
            "start that version, or restore a backup made by this one."
        )
        self.revision = revision


# By primary result code: https://www.sqlite.org/rescode.html
_REASONS: Final = {
    sqlite3.SQLITE_FULL: "the disk is full; free some space",
    sqlite3.SQLITE_BUSY: "another process holds it locked; stop that process or try again",
    sqlite3.SQLITE_LOCKED: "another connection holds it locked; try again",
    sqlite3.SQLITE_READONLY: "it is read-only; make the file and its directory writable",
    sqlite3.SQLITE_PERM: "access is denied; check who owns the file and its directory",
    sqlite3.SQLITE_CANTOPEN: (
        "it cannot be opened; check that the path exists and that its owner may write there"
    ),
    sqlite3.SQLITE_NOTADB: "the file is not a SQLite database; name another file",
    sqlite3.SQLITE_CORRUPT: "the file is damaged; restore a backup",
    sqlite3.SQLITE_IOERR: "the disk refused to read or write; check its space, quota and health",
    sqlite3.SQLITE_CONSTRAINT: "a constraint of the table refuses the row",
    sqlite3.SQLITE_TOOBIG: "a value is too large",
}


def primary_code(error: BaseException) -> int | None:
    """Return SQLite's primary result code of ``error``, or None if SQLite gave none."""
    code = getattr(error, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else None


def reason(error: BaseException) -> str:
    """Return why ``error`` happened, as the rest of a sentence, without SQL or values."""
    code = primary_code(error)
    if code is not None and code in _REASONS:
        return _REASONS[code]
    if code == sqlite3.SQLITE_ERROR and str(error).startswith("no such "):
        return "its tables are missing; it was not set up by Onbook"
    if isinstance(error, OSError):
        return f"{_os_reason(error)} ({type(error).__name__})"
    return f"of an unexpected failure ({type(error).__name__})"


def _os_reason(error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return "its file is missing"
    if error.errno == errno.ENOSPC:
        return "the disk is full; free some space"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "access is denied; check who owns the file and its directory"
    return "the operating system refused"


@contextmanager
def clearly(path: Path) -> Iterator[None]:
    """Turn a driver's or the system's error about ``path`` into one sentence.

    Raises:
        DatabaseUnusable: the block failed.
    """
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise unusable(path, error) from None


def unusable(path: Path, error: BaseException) -> DatabaseUnusable:
    """Return the error that says why the database at ``path`` cannot be used."""
    return DatabaseUnusable(f"The database {path} cannot be used: {reason(error)}.")
