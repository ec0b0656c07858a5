"""What can be wrong with the database, in one clear sentence each.

::

    StoreUnavailable
    ├── DatabaseAway          cannot be reached, starting up, locked, disk trouble: may come back
    └── DatabaseUnusable      not a database, another program's, a bad URL, no permission, ...
        └── DatabaseTooNew    written by a newer version of Onbook

A driver's own message may hold SQL and values, so none of it is repeated here. The drivers of
Postgres are recognised by what their errors carry: importing them takes time that a start on
SQLite should not cost.
"""

import errno
import re
import socket
import sqlite3
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from onbook.ports.stores import StoreUnavailable


class DatabaseAway(StoreUnavailable):
    """The database cannot be reached or cannot work now; it may come back by itself."""


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


_COLUMN_MISSING: Final = re.compile(r"^no such column|^table \w+ has no column")

# By SQLSTATE or, where one is not listed, by its class, the first two characters:
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_SQLSTATES: Final = {
    "08": "the connection to the server was lost; see that it runs",
    "08P01": "what answers there does not speak as Postgres does; check the host and the port",
    "0A": "the server does not know how to do this; use Postgres 13 or newer",
    "22": "a value does not fit its column",
    "23": "a constraint of the table refuses the row",
    "25006": "the server is read-only, as a standby is; name the primary server",
    "25": "a transaction was ended before its time; try again",
    "28": "the server does not let this user in; check the user, the password and pg_hba.conf",
    "28P01": "the password is wrong; correct it in ONBOOK_DATABASE_URL",
    "3D000": "it does not exist; create it with CREATE DATABASE",
    "40": "another transaction was in the way; try again",
    "42501": "the user lacks a privilege; make this user the owner of the database and its tables",
    "42P01": "its tables are missing; it was not set up by Onbook",
    "42": "its tables are not those of this version; 'onbook serve' brings them up to date",
    "53100": "the disk of the server is full; free some space",
    "53200": "the server is out of memory; give it more",
    "53300": "the server has too many connections; raise max_connections or stop other clients",
    "53": "the server lacks the means; see its log",
    "54": "a value is too large",
    "55P03": "another transaction holds a lock; try again",
    "55": "another session uses it; try again",
    "57014": "the server took too long; see what else it does, and try again",
    "57P03": "the server is starting up or shutting down; try again shortly",
    "57P04": "it was dropped; create it with CREATE DATABASE, or restore a backup",
    "57": "the server is being stopped; start it again",
    "58": "the disk of the server refused to read or write; see the server's log",
    "P0001": "a rule of the database refuses the change",
    "XX001": "the database is damaged; restore a backup",
    "XX002": "an index of the database is damaged; REINDEX it",
    "XX": "the server has an internal failure; see its log",
}
# Errors of the client's side; the first that fits.
_BY_TYPE: Final[dict[type[BaseException], str]] = {
    ssl.SSLError: "the encrypted connection fails; check sslmode and the certificates",
    TimeoutError: "it does not answer in time; check the server and the network",
    socket.gaierror: "the name of its host is not known; correct ONBOOK_DATABASE_URL",
    ConnectionRefusedError: (
        "nothing answers at its address; start the server, or correct ONBOOK_DATABASE_URL"
    ),
    ConnectionError: _SQLSTATES["08"],
}
_BY_NAME: Final = {
    "InterfaceError": _SQLSTATES["08"],
    # A migration changed a table under a statement that was prepared before.
    "InvalidCachedStatementError": "its tables have just changed; try again",
    "ClientConfigurationError": (
        "the options of the connection are not right; check sslmode and the certificates"
    ),
}
# What somebody has to mend, unless it mends itself as an outage does.
_LASTING: Final = ("0A", "28", "3D000", "42", "57P04", "XX001", "XX002")


def primary_code(error: BaseException) -> int | None:
    """Return SQLite's primary result code of ``error``, or None if SQLite gave none."""
    code = getattr(error, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else None


def sqlstate(error: BaseException) -> str | None:
    """Return Postgres' five-character code of ``error``, or None if Postgres gave none."""
    code = getattr(error, "sqlstate", None)
    return code if isinstance(code, str) and len(code) == 5 else None


def reason(error: BaseException) -> str:
    """Return why ``error`` happened, as the rest of a sentence, without SQL or values."""
    code = primary_code(error)
    if code is not None and code in _REASONS:
        return _REASONS[code]
    if code == sqlite3.SQLITE_ERROR and str(error).startswith("no such table"):
        return _SQLSTATES["42P01"]
    if code == sqlite3.SQLITE_ERROR and _COLUMN_MISSING.search(str(error)):
        return _SQLSTATES["42"]
    state = sqlstate(error) or ""
    told = _client_reason(error) or _SQLSTATES.get(state) or _SQLSTATES.get(state[:2])
    if told is not None:
        return told
    if isinstance(error, OSError):
        return f"{_os_reason(error)} ({type(error).__name__})"
    return f"of an unexpected failure ({type(error).__name__})"


def _client_reason(error: BaseException) -> str | None:
    """Return why the server could not be spoken to, if that is what ``error`` is about."""
    name = type(error).__name__
    if name in _BY_NAME:
        return _BY_NAME[name]
    if isinstance(error, ConnectionError) and "rejected SSL" in str(error):
        return _BY_TYPE[ssl.SSLError]
    if isinstance(error, OSError) and error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH):
        return "there is no way to its host; check the network"
    return next((told for kind, told in _BY_TYPE.items() if isinstance(error, kind)), None)


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
        DatabaseUnusable, DatabaseAway: the block failed.
    """
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise unusable(path, error) from None


def unusable(path: Path, error: BaseException) -> DatabaseAway | DatabaseUnusable:
    """Return the error that says why the SQLite database at ``path`` cannot be used.

    ``DatabaseUnusable`` for a file that is none; anything else may pass, or be mended while the
    service goes on without it.
    """
    lasting = primary_code(error) == sqlite3.SQLITE_NOTADB
    kind = DatabaseUnusable if lasting else DatabaseAway
    return kind(f"The database {path} cannot be used: {reason(error)}.")


def unreachable(place: str, error: BaseException) -> DatabaseAway | DatabaseUnusable:
    """Return the error that says why the Postgres database ``place`` cannot be used.

    ``DatabaseUnusable`` for what somebody has to mend, such as a wrong password;
    ``DatabaseAway`` for what may pass.
    """
    if isinstance(error, FileNotFoundError):
        told = (
            "its socket, or a certificate that is named, is missing; start the server, or correct "
            "ONBOOK_DATABASE_URL"
        )
    else:
        told = reason(error)
    lasting = (sqlstate(error) or "").startswith(_LASTING) or (
        type(error).__name__ == "ClientConfigurationError"
    )
    kind = DatabaseUnusable if lasting else DatabaseAway
    return kind(f"The database {place} cannot be used: {told}.")
