import socket
import sqlite3
import subprocess
import sys
from contextlib import closing

import asyncpg
import pytest

from onbook.adapters.database.errors import (
    DatabaseAway,
    DatabaseUnusable,
    reason,
    unreachable,
)
from onbook.adapters.database.guard import store_errors
from onbook.ports.stores import StoreUnavailable


@pytest.mark.parametrize(
    ("error", "word", "kind"),
    [
        (asyncpg.TooManyConnectionsError("s3cret"), "too many connections", DatabaseAway),
        (asyncpg.CannotConnectNowError("s3cret"), "starting up", DatabaseAway),
        (asyncpg.AdminShutdownError("s3cret"), "being stopped", DatabaseAway),
        (asyncpg.DiskFullError("s3cret"), "disk of the server is full", DatabaseAway),
        (asyncpg.OutOfMemoryError("s3cret"), "out of memory", DatabaseAway),
        (asyncpg.SerializationError("s3cret"), "try again", DatabaseAway),
        (asyncpg.DeadlockDetectedError("s3cret"), "try again", DatabaseAway),
        (asyncpg.LockNotAvailableError("s3cret"), "holds a lock", DatabaseAway),
        (asyncpg.QueryCanceledError("s3cret"), "took too long", DatabaseAway),
        (asyncpg.ReadOnlySQLTransactionError("s3cret"), "read-only", DatabaseAway),
        (asyncpg.PostgresIOError("s3cret"), "refused to read or write", DatabaseAway),
        (asyncpg.DataCorruptedError("s3cret"), "damaged", DatabaseUnusable),
        (asyncpg.InsufficientPrivilegeError("s3cret"), "privilege", DatabaseUnusable),
        (asyncpg.InvalidPasswordError("s3cret"), "password is wrong", DatabaseUnusable),
        (asyncpg.InvalidCatalogNameError("s3cret"), "CREATE DATABASE", DatabaseUnusable),
        (asyncpg.UndefinedTableError("s3cret"), "not set up", DatabaseUnusable),
        (asyncpg.UndefinedColumnError("s3cret"), "brings them up to date", DatabaseUnusable),
        (asyncpg.InterfaceError("s3cret"), "was lost", DatabaseAway),
        (ConnectionResetError("s3cret"), "was lost", DatabaseAway),
        (ConnectionRefusedError("s3cret"), "nothing answers", DatabaseAway),
        (socket.gaierror("s3cret"), "name of its host", DatabaseAway),
        (TimeoutError("s3cret"), "in time", DatabaseAway),
        (FileNotFoundError(2, "s3cret"), "its socket", DatabaseAway),
        (RuntimeError("s3cret"), "unexpected failure", DatabaseAway),
    ],
)
def test_each_failure_is_one_sentence_of_ours(
    error: Exception, word: str, kind: type[StoreUnavailable]
) -> None:
    told = unreachable("d at h:1", error)
    assert word in str(told)
    assert type(told) is kind
    assert "s3cret" not in str(told)


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError("s3cret"),
        ConnectionResetError("s3cret"),
        OSError(5, "s3cret"),
        asyncpg.InterfaceError("s3cret"),
        asyncpg.InvalidPasswordError("s3cret"),
        sqlite3.OperationalError("s3cret"),
    ],
)
def test_the_guard_takes_what_the_driver_raises_past_sqlalchemy(error: Exception) -> None:
    with (
        pytest.raises(StoreUnavailable, match=f"cannot look it up: {reason(error)[:12]}") as caught,
        store_errors("look it up"),
    ):
        raise error
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_the_guard_lets_everything_else_pass() -> None:
    for error in (KeyError("a bug"), DatabaseUnusable("a sentence of ours")):
        with pytest.raises(type(error)) as caught, store_errors("look it up"):
            raise error
        assert caught.value is error


@pytest.mark.parametrize(
    ("statement", "word"),
    [
        ("SELECT a FROM missing", "not set up by Onbook"),
        ("SELECT missing FROM t", "brings them up to date"),
        ("INSERT INTO t (missing) VALUES (1)", "brings them up to date"),
    ],
)
def test_tables_of_another_version_are_told_from_none(statement: str, word: str) -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE t (a)")
        with pytest.raises(sqlite3.OperationalError) as caught:
            connection.execute(statement)
    assert word in reason(caught.value)


def test_a_store_on_sqlite_needs_no_driver_of_postgres() -> None:
    program = """
import sys
from onbook.adapters.database.access_key_store import SqlAccessKeyStore
from onbook.adapters.database.engine import create_engine
from onbook.adapters.database.enhancement_log import enhancement_log
create_engine("sqlite+aiosqlite:////tmp/none.db")
enhancement_log("sqlite+aiosqlite:////tmp/none.db")
print(sorted(name for name in sys.modules if name.startswith("asyncpg")))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
