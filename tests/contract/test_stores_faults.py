"""The audit log on SQLite when the machine fails under it."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from onbook.adapters.database.enhancement_log import SqliteEnhancementLog
from onbook.adapters.database.schema import migrate
from onbook.adapters.database.sqlite_file import sqlite_path
from onbook.adapters.errors import AlreadyRecorded
from onbook.ports.stores import EnhancementRow, StoreUnavailable
from support_chain import audited_rows_in, sound

MakeRow = Callable[..., EnhancementRow]

_ROW = """
import asyncio, sys
from dataclasses import fields
from datetime import datetime, UTC
from uuid import uuid4
from onbook.ports.stores import EnhancementRow, EnhancementTexts, StoreUnavailable
def row(request_id):
    values = {item.name: None for item in fields(EnhancementRow)}
    values.update(id=str(uuid4()), request_id=request_id, created_at=datetime.now(UTC),
        function="f", caller="c", content_mode="sfw", attempts=1, execution_time_ms=1.0,
        integrity_status="verified", prompt_sha256="0")
    return EnhancementRow(**values)
def texts(request_id, size):
    return EnhancementTexts(request_id=request_id, created_at=datetime.now(UTC), salt="s",
        original="x" * size, messages=None, raw_output=None, enhanced=None)
"""

_WRITE_FOR_EVER = (
    _ROW
    + """
from onbook.adapters.database.enhancement_log import SqliteEnhancementLog
async def client(log):
    while True:
        request_id = str(uuid4())
        await log.record(row(request_id), texts(request_id, 200))
        sys.stdout.write(request_id + "\\n")
        sys.stdout.flush()
async def main():
    log = SqliteEnhancementLog(sys.argv[1])
    await asyncio.gather(*(client(log) for _ in range(32)))
asyncio.run(main())
"""
)

_FILL = (
    _ROW
    + """
import resource
from pathlib import Path
from onbook.adapters.database.enhancement_log import SqliteEnhancementLog
async def main():
    url, limit = sys.argv[1], 600_000
    log = SqliteEnhancementLog(url)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    await log.record(row("before"), None)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    failed = []
    for number in range(40):
        try:
            await log.record(row(f"r{number}"), texts(f"r{number}", 50_000))
        except StoreUnavailable as error:
            failed.append(f"r{number}")
            message = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    for request_id in failed:
        await log.record(row(request_id), None)
    await log.close()
    print(len(failed), message, sep="|")
asyncio.run(main())
"""
)


def _request_ids(url: str) -> list[str]:
    with closing(sqlite3.connect(sqlite_path(url))) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        found = connection.execute("SELECT request_id FROM enhancement_logs ORDER BY rowid")
        return [request_id for (request_id,) in found]


@pytest.mark.parametrize("lines", [1, 400])
def test_kill_9_loses_no_acknowledged_row(sqlite_file: str, lines: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _WRITE_FOR_EVER, sqlite_file], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        acknowledged = [process.stdout.readline() for _ in range(lines)]
        process.send_signal(signal.SIGKILL)
        acknowledged += process.stdout.readlines()
    told = {line.decode().strip() for line in acknowledged if line.endswith(b"\n")}
    assert len(told) >= lines
    assert told <= set(_request_ids(sqlite_file))
    sound(audited_rows_in(sqlite_path(sqlite_file)), keys=())


def test_a_full_disk_refuses_rows_and_recovers(sqlite_file: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FILL, sqlite_file], capture_output=True, text=True, check=True
    )
    failed, message = done.stdout.strip().splitlines()[-1].split("|")
    assert 0 < int(failed) < 40
    assert "disk" in message
    assert sorted(_request_ids(sqlite_file)) == sorted(["before", *(f"r{n}" for n in range(40))])
    sound(audited_rows_in(sqlite_path(sqlite_file)), keys=())


async def test_a_file_that_moves_away_and_back(
    sqlite_file: str, sqlite_log: SqliteEnhancementLog, make_row: MakeRow
) -> None:
    path = sqlite_path(sqlite_file)
    rows = [make_row() for _ in range(4)]
    await sqlite_log.record(rows[0], None)
    path.rename(path.with_name("away.db"))
    for row in rows[1:3]:
        with pytest.raises(StoreUnavailable, match="missing"):
            await sqlite_log.record(row, None)
    assert not path.exists()
    path.with_name("away.db").rename(path)
    await sqlite_log.record(rows[3], None)
    assert _request_ids(sqlite_file) == [rows[0].request_id, rows[3].request_id]


async def test_a_restored_backup_leaves_a_gap_and_no_fork(
    sqlite_file: str, sqlite_log: SqliteEnhancementLog, make_row: MakeRow
) -> None:
    path = sqlite_path(sqlite_file)
    backup = path.with_name("backup.db")
    rows = [make_row() for _ in range(5)]
    for row in rows[:2]:
        await sqlite_log.record(row, None)
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(backup)) as target:
        source.backup(target)
    for row in rows[2:4]:
        await sqlite_log.record(row, None)
    lost = audited_rows_in(path)
    for file in path.parent.glob(path.name + "*"):
        file.unlink()
    backup.rename(path)
    await sqlite_log.record(rows[4], None)
    found = audited_rows_in(path)
    sound(found[:2], keys=())
    assert [row.seq for row in found] == [1, 2, 5]
    assert found[2].prev_hash == lost[3].row_hash


class _Unanswered:
    """A connection whose next commit happens, or does not, without anybody hearing of it."""

    def __init__(self, inner: sqlite3.Connection, *, happens: bool) -> None:
        self._inner = inner
        self._happens = happens

    def execute(self, statement: str, *arguments: tuple[str, ...]) -> object:
        if statement != "COMMIT":
            return self._inner.execute(statement, *arguments)
        self._inner.execute("COMMIT" if self._happens else "ROLLBACK")
        raise sqlite3.OperationalError("disk I/O error")

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)


@pytest.mark.parametrize("happens", [True, False])
async def test_a_commit_that_was_not_answered_neither_forks_nor_doubles(
    sqlite_file: str, sqlite_log: SqliteEnhancementLog, make_row: MakeRow, *, happens: bool
) -> None:
    await sqlite_log.record(make_row(request_id="r0"), None)
    writer = sqlite_log._writer
    assert writer._connection is not None
    writer._connection = _Unanswered(writer._connection, happens=happens)  # type: ignore[assignment]  # it passes on the rest
    row = make_row(request_id="r1")
    with pytest.raises(StoreUnavailable):
        await sqlite_log.record(row, None)
    if happens:
        with pytest.raises(AlreadyRecorded):
            await sqlite_log.record(row, None)
    else:
        await sqlite_log.record(row, None)
    await sqlite_log.record(make_row(request_id="r2"), None)
    assert _request_ids(sqlite_file) == ["r0", "r1", "r2"]
    assert sound(audited_rows_in(sqlite_path(sqlite_file)), keys=()) == [1, 1, 1]


async def test_a_file_that_is_replaced_gets_the_next_row(
    sqlite_file: str, sqlite_log: SqliteEnhancementLog, make_row: MakeRow
) -> None:
    await sqlite_log.record(make_row(), None)
    path = sqlite_path(sqlite_file)
    for file in path.parent.glob(path.name + "*"):
        file.unlink()
    migrate(sqlite_file)
    row = make_row()
    await sqlite_log.record(row, None)
    assert _request_ids(sqlite_file) == [row.request_id]


async def test_a_commit_into_a_file_that_vanished_meanwhile_is_not_believed(
    sqlite_file: str,
    sqlite_log: SqliteEnhancementLog,
    make_row: MakeRow,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await sqlite_log.record(make_row(), None)
    writer = sqlite_log._writer
    opened = writer._opened

    def vanish() -> sqlite3.Connection:
        connection = opened()
        sqlite_path(sqlite_file).unlink()
        return connection

    monkeypatch.setattr(writer, "_opened", vanish)
    with pytest.raises(StoreUnavailable, match="missing"):
        await sqlite_log.record(make_row(), None)


async def test_a_lock_held_elsewhere_refuses_and_then_recovers(
    sqlite_file: str, make_row: MakeRow
) -> None:
    log = SqliteEnhancementLog(sqlite_file, busy_timeout_s=0.01)
    row = make_row()
    with closing(sqlite3.connect(sqlite_path(sqlite_file), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked"):
            await log.record(row, None)
    await log.record(row, None)
    await log.close()
    assert _request_ids(sqlite_file) == [row.request_id]


async def test_a_database_without_tables_is_named(tmp_path: Path, make_row: MakeRow) -> None:
    path = tmp_path / "empty.db"
    path.touch()
    log = SqliteEnhancementLog(f"sqlite+aiosqlite:///{path}")
    with pytest.raises(StoreUnavailable, match="not set up"):
        await log.record(make_row(), None)
    await log.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_bug_in_the_writer_fails_its_group_and_no_more(
    sqlite_file: str,
    make_row: MakeRow,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = SqliteEnhancementLog(sqlite_file)

    def broken(_group: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(log._writer, "commit", broken)
        with pytest.raises(StoreUnavailable, match="stopped"):
            await asyncio.wait_for(log.record(make_row(), None), 10)
    row = make_row()
    await log.record(row, None)
    await log.close()
    assert _request_ids(sqlite_file) == [row.request_id]


async def test_the_log_needs_no_file_until_the_first_row(tmp_path: Path) -> None:
    path = tmp_path / "none.db"
    log = SqliteEnhancementLog(f"sqlite+aiosqlite:///{path}")
    await log.close()
    assert not path.exists()
