"""The doctor's look at the database: read-only, and without leaving a file behind."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from onbook.adapters.database.errors import DatabaseUnusable, reason
from onbook.adapters.database.postgres_url import is_postgres
from onbook.adapters.database.schema import HEAD, REVISIONS
from onbook.adapters.database.sqlite_file import sqlite_path
from onbook.cli.doctor_checks import LOOK_S, Check, failure, ok, warning
from onbook.cli.doctor_findings import ACTIVE_KEYS_SQL, DatabaseFindings, check_templates

if TYPE_CHECKING:
    from onbook.settings import Settings

# SQLite's own count of steps between two looks at the time.
_STEPS: Final = 10_000


def look_at_database(settings: "Settings") -> DatabaseFindings:
    """Check that the database opens, is current and whole, and has the templates."""
    if is_postgres(settings.database):
        # Imported here: a service on SQLite needs no driver of Postgres.
        from onbook.cli.doctor_postgres import look_at_postgres  # noqa: PLC0415 - see above

        return look_at_postgres(settings)
    findings = DatabaseFindings()
    try:
        path = sqlite_path(settings.database)
    except DatabaseUnusable as error:
        findings.checks.append(failure("database", str(error), "set ONBOOK_DATABASE_URL"))
        return findings
    if not path.exists() or path.stat().st_size == 0:
        findings.checks.append(ok("database", f"The database {path} is made at the first start."))
        return findings
    try:
        with _opened(path) as connection:
            _look(path, connection, settings, findings)
    except sqlite3.Error as error:
        findings.checks.append(
            failure(
                "database",
                f"The database {path} cannot be read: {reason(error)}.",
                "restore a backup, or name another database",
            )
        )
    except OSError as error:
        findings.checks.append(
            failure("database", f"{path} cannot be read: {error.strerror}.", "check its owner")
        )
    return findings


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Open ``path`` so that nothing beside it is made.

    A reader of a WAL database makes the log and its index where they are missing, and leaves
    them there. Without a log the file is whole by itself and can be read as immutable.
    """
    mode = "mode=ro" if _has_log(path) else "immutable=1"
    uri = f"file:{quote(str(path))}?{mode}"
    with closing(sqlite3.connect(uri, uri=True, timeout=LOOK_S / 2)) as connection:
        connection.text_factory = lambda value: value.decode("utf-8", "replace")
        yield connection


def _has_log(path: Path) -> bool:
    return all(path.with_name(path.name + suffix).exists() for suffix in ("-wal", "-shm"))


def _log_size(path: Path) -> int:
    log = path.with_name(path.name + "-wal")
    return log.stat().st_size if log.exists() else 0


def _look(
    path: Path, connection: sqlite3.Connection, settings: "Settings", findings: DatabaseFindings
) -> None:
    revision = _revision(connection)
    if revision is None:
        findings.checks.append(
            failure(
                "database",
                f"The database {path} is not one of Onbook.",
                "name a file of its own with ONBOOK_DATABASE_URL",
            )
        )
        return
    if revision not in REVISIONS:
        findings.checks.append(
            failure(
                "database",
                f"The database is from a newer version of Onbook (revision {revision[:60]}).",
                "start that version, or restore a backup made by this one",
            )
        )
        return
    if revision != HEAD:
        findings.checks.append(
            warning(
                "database",
                f"The database {path} is of an older version.",
                "back it up; the next 'onbook serve' brings it up to date",
            )
        )
    else:
        findings.checks.append(ok("database", f"The database {path} opens and is current."))
    findings.checks.append(_integrity(connection))
    if _log_size(path) and not _has_log(path):
        findings.checks.append(
            warning(
                "database_log",
                "The database has a log without its index; the rows in it are not looked at here.",
                "start 'onbook serve', which takes the log in",
            )
        )
    active = {(mode, target) for mode, target in connection.execute(ACTIVE_KEYS_SQL)}
    findings.checks.append(check_templates(active, settings))
    found = connection.execute("SELECT count(*) FROM access_keys").fetchone()
    findings.stored_keys = int(found[0])
    findings.newest_row = _newest_row(connection)


def _revision(connection: sqlite3.Connection) -> str | None:
    tables = {
        name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")
    }
    if not {"alembic_version", "prompt_templates", "enhancement_logs", "access_keys"} <= tables:
        return None
    found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return None if found is None else str(found[0])


def _integrity(connection: sqlite3.Connection) -> Check:
    deadline = time.monotonic() + LOOK_S
    connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
    try:
        found = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_INTERRUPT:
            raise
        return warning(
            "integrity",
            f"The database is too large to be checked within {LOOK_S:.0f} s.",
            "run 'PRAGMA quick_check' with the sqlite3 command",
        )
    finally:
        connection.set_progress_handler(None, 0)
    if found != ("ok",):
        return failure("integrity", "The database is damaged.", "restore a backup")
    return ok("integrity", "The database is whole.")


def _newest_row(connection: sqlite3.Connection) -> datetime | None:
    # Two aware times compare rightly whatever zone they are written in.
    found = connection.execute("SELECT max(created_at) FROM enhancement_logs").fetchone()
    try:
        newest = datetime.fromisoformat(str(found[0]))
    except ValueError:
        return None
    return newest if newest.tzinfo is not None else None
