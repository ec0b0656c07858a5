# ruff: noqa: ASYNC220 - nothing else runs on the loop while a test looks at a file
import asyncio
import os
import signal
import stat
import subprocess
import sys
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from onbook.adapters.database.enhancement_log import SqliteEnhancementLog
from onbook.adapters.database.schema import migrate
from onbook.adapters.database.sqlite_file import sqlite_url
from onbook.adapters.errors import AlreadyRecorded, RowRefused
from onbook.adapters.files.spool import SpooledEnhancementLog
from onbook.adapters.files.spool_file import checked_line, line_body
from onbook.adapters.memory.enhancement_log import MemoryEnhancementLog
from onbook.ports.stores import EnhancementRow, EnhancementTexts, StoreUnavailable
from support_chain import audited_rows_in, sound


def _row(**changes: object) -> EnhancementRow:
    values: dict[str, object] = {item.name: None for item in fields(EnhancementRow)}
    values.update(
        id=str(uuid4()),
        request_id=str(uuid4()),
        created_at=datetime(2026, 11, 22, 1, 2, 3, 4, tzinfo=UTC),
        function="enhance-prompt",
        caller="é 汉字 👩‍🚀\n",
        content_mode="sfw",
        attempts=1,
        execution_time_ms=0.1,
        integrity_status="verified",
        prompt_sha256="0" * 64,
    )
    return EnhancementRow(**{**values, **changes})  # type: ignore[arg-type]  # a test's own names


def _texts(row: EnhancementRow, size: int = 10) -> EnhancementTexts:
    return EnhancementTexts(
        request_id=row.request_id,
        created_at=row.created_at,
        salt="s",
        original="日\x00\n" * size,
        messages=None,
        raw_output=None,
        enhanced=None,
    )


@pytest.fixture
def inner() -> MemoryEnhancementLog:
    return MemoryEnhancementLog()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit-spool.jsonl"


async def test_nothing_is_spooled_while_the_database_works(
    inner: MemoryEnhancementLog, path: Path
) -> None:
    log = SpooledEnhancementLog(inner, path)
    row = _row()
    await log.record(row, _texts(row))
    assert (inner.rows, log.pending, path.read_bytes()) == ([row], 0, b"")
    await log.close()
    assert inner.closed


async def test_rows_wait_in_the_spool_and_come_out_as_they_were_in_order(
    inner: MemoryEnhancementLog, path: Path
) -> None:
    log = SpooledEnhancementLog(inner, path)
    rows = [_row() for _ in range(700)]
    inner.available = False
    await log.record(rows[0], _texts(rows[0], 300_000))
    await asyncio.gather(*(log.record(row, _texts(row)) for row in rows[1:699]))
    assert log.pending == 699
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert await log.drain() == 0
    inner.available = True
    await log.record(rows[699], None)
    assert inner.rows == []
    assert await log.drain() == 700
    assert inner.rows == rows
    assert inner.texts[rows[0].request_id] == _texts(rows[0], 300_000)
    assert (log.pending, path.read_bytes()) == (0, b"")
    last = _row()
    await log.record(last, None)
    assert inner.rows[-1] == last
    await log.close()


async def test_a_spool_outlives_its_process(inner: MemoryEnhancementLog, path: Path) -> None:
    inner.available = False
    log = SpooledEnhancementLog(inner, path)
    rows = [_row() for _ in range(5)]
    for row in rows:
        await log.record(row, None)
    await log.close()
    after = MemoryEnhancementLog()
    log = SpooledEnhancementLog(after, path)
    assert log.pending == 5
    assert await log.drain() == 5
    assert after.rows == rows
    await log.close()


async def test_rows_that_are_there_already_count_as_moved(
    inner: MemoryEnhancementLog, path: Path
) -> None:
    log = SpooledEnhancementLog(inner, path)
    rows = [_row() for _ in range(3)]
    inner.available = False
    for row in rows:
        await log.record(row, None)
    inner.available = True
    await inner.record(rows[1], None)
    assert await log.drain() == 3
    assert sorted(row.id for row in inner.rows) == sorted(row.id for row in rows)
    assert not path.with_name(path.name + ".damaged").exists()
    await log.close()


async def test_a_busy_service_reaches_an_empty_spool(
    inner: MemoryEnhancementLog, path: Path
) -> None:
    log = SpooledEnhancementLog(inner, path)
    inner.available = False
    sent: list[EnhancementRow] = []
    stop = False
    enough = asyncio.Event()

    async def client() -> None:
        while not stop:
            row = _row()
            sent.append(row)
            if log.pending >= 600:
                enough.set()
            await log.record(row, None)
            await asyncio.sleep(0)

    clients = [asyncio.create_task(client()) for _ in range(20)]
    await enough.wait()
    inner.available = True
    await asyncio.wait_for(log.drain(), 30)
    assert log.pending == 0
    stop = True
    await asyncio.gather(*clients)
    assert log.pending == 0
    assert {row.request_id for row in inner.rows} == {row.request_id for row in sent}
    assert len(inner.rows) == len(sent)
    await log.close()


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.99])
async def test_a_torn_last_line_is_set_aside(
    inner: MemoryEnhancementLog, path: Path, keep: float
) -> None:
    inner.available = False
    log = SpooledEnhancementLog(inner, path)
    rows = [_row(), _row()]
    for row in rows:
        await log.record(row, None)
    await log.close()
    lines = path.read_bytes().splitlines(keepends=True)
    torn = lines[1][: int(len(lines[1]) * keep)]
    path.write_bytes(lines[0] + torn)
    after = MemoryEnhancementLog()
    with structlog.testing.capture_logs() as logs:
        log = SpooledEnhancementLog(after, path)
    assert [event["event"] for event in logs] == ["spool_line_torn"]
    assert log.pending == 1
    after.available = False
    await log.record(rows[1], None)
    after.available = True
    assert await log.drain() == 2
    assert after.rows == rows
    assert path.with_name(path.name + ".damaged").read_bytes() == torn + b"\n"
    await log.close()


async def test_a_damaged_line_does_not_stop_the_others(
    inner: MemoryEnhancementLog, path: Path
) -> None:
    inner.available = False
    log = SpooledEnhancementLog(inner, path)
    rows = [_row() for _ in range(3)]
    for row in rows:
        await log.record(row, None)
    await log.close()
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b"enhance-prompt", b"enhance-PROMPT")
    path.write_bytes(b"".join(lines))
    after = MemoryEnhancementLog()
    log = SpooledEnhancementLog(after, path)
    assert await log.drain() == 3
    assert after.rows == [rows[0], rows[2]]
    assert path.with_name(path.name + ".damaged").read_bytes() == lines[1]
    await log.close()


@given(st.binary().filter(lambda body: b"\n" not in body), st.data())
def test_any_changed_byte_is_noticed(body: bytes, data: st.DataObject) -> None:
    line = checked_line(body)
    assert line_body(line) == body
    place = data.draw(st.integers(0, len(line) - 2))
    changed = bytearray(line)
    changed[place] ^= data.draw(st.integers(1, 127))
    if changed[place] != ord("\n"):
        assert line_body(bytes(changed)) is None


async def test_spooled_rows_enter_the_chain_when_they_are_drained(
    tmp_path: Path, path: Path
) -> None:
    url = sqlite_url(tmp_path / "onbook.db")
    migrate(url)
    database, away = tmp_path / "onbook.db", tmp_path / "away.db"
    log = SpooledEnhancementLog(SqliteEnhancementLog(url), path)
    rows = [_row(output_steps=f'[{{"step":"{number}"}}]') for number in range(300)]
    await log.record(rows[0], None)
    database.rename(away)
    for row in rows[1:3]:
        await log.record(row, None)
    await asyncio.gather(*(log.record(row, None) for row in rows[3:]))
    away.rename(database)
    assert await log.drain() == 299
    await log.close()
    stored = audited_rows_in(database)
    sound(stored, keys=())
    assert [row.content["output_steps"] for row in stored] == [row.output_steps for row in rows]


async def test_a_row_that_is_refused_is_neither_spooled_nor_retried_for_ever(
    tmp_path: Path, path: Path
) -> None:
    url = sqlite_url(tmp_path / "onbook.db")
    migrate(url)
    log = SpooledEnhancementLog(SqliteEnhancementLog(url), path)
    with pytest.raises(RowRefused):
        await log.record(_row(seed=2**70), None)
    first = _row()
    await log.record(first, None)
    with pytest.raises(AlreadyRecorded):
        await log.record(first, None)
    assert log.pending == 0
    (tmp_path / "onbook.db").rename(tmp_path / "away.db")
    for row in (_row(), _row(seed=2**70), _row()):
        await log.record(row, None)
    (tmp_path / "away.db").rename(tmp_path / "onbook.db")
    assert await log.drain() == 3
    assert log.pending == 0
    (refused,) = path.with_name(path.name + ".damaged").read_bytes().splitlines()
    assert str(2**70).encode() in refused
    await log.close()


async def test_neither_database_nor_spool(inner: MemoryEnhancementLog, tmp_path: Path) -> None:
    directory = tmp_path / "later"
    path = directory / "audit-spool.jsonl"
    log = SpooledEnhancementLog(inner, path)
    inner.available = False
    with pytest.raises(StoreUnavailable, match="Neither"):
        await log.record(_row(), None)
    assert log.pending == 0
    directory.mkdir()
    row = _row()
    await log.record(row, None)
    assert log.pending == 1
    inner.available = True
    assert await log.drain() == 1
    assert inner.rows == [row]
    await log.close()


async def test_a_failed_append_leaves_no_half_line(
    inner: MemoryEnhancementLog, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = SpooledEnhancementLog(inner, path)
    inner.available = False
    rows = [_row() for _ in range(3)]
    await log.record(rows[0], None)
    write = os.write

    def half(descriptor: int, data: memoryview) -> int:
        write(descriptor, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(StoreUnavailable):
            await log.record(rows[1], None)
    await log.record(rows[2], None)
    assert log.pending == 2
    inner.available = True
    assert await log.drain() == 2
    assert inner.rows == [rows[0], rows[2]]
    assert not path.with_name(path.name + ".damaged").exists()
    await log.close()


async def test_a_spool_that_someone_deletes_is_written_anew(
    inner: MemoryEnhancementLog, path: Path
) -> None:
    log = SpooledEnhancementLog(inner, path)
    inner.available = False
    rows = [_row() for _ in range(3)]
    await log.record(rows[0], None)
    await log.record(rows[1], None)
    path.unlink()
    await log.record(rows[2], None)
    assert path.read_bytes().count(b"\n") == 3
    inner.available = True
    assert await log.drain() == 3
    assert inner.rows == rows
    await log.close()


async def test_two_processes_never_share_a_spool(inner: MemoryEnhancementLog, path: Path) -> None:
    first = SpooledEnhancementLog(inner, path)
    with structlog.testing.capture_logs() as logs:
        second = SpooledEnhancementLog(inner, path)
    assert [event["event"] for event in logs] == ["spool_not_open"]
    inner.available = False
    with pytest.raises(StoreUnavailable, match="Neither"):
        await second.record(_row(), None)
    await first.record(_row(), None)
    assert first.pending == 1
    await first.close()
    await second.close()


async def test_callers_that_give_up_harm_nobody(inner: MemoryEnhancementLog, path: Path) -> None:
    log = SpooledEnhancementLog(inner, path)
    inner.available = False
    rows = [_row() for _ in range(40)]
    tasks = [asyncio.create_task(log.record(row, None)) for row in rows]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert outcomes[1::2] == [None] * 20
    inner.available = True
    await log.drain()
    assert log.pending == 0
    assert {row.id for row in rows[1::2]} <= {row.id for row in inner.rows}
    await log.close()


_CRASH = """
import asyncio, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], str(Path(sys.argv[1]).parent)]
from test_spool import _row, _texts
from onbook.adapters.database.enhancement_log import SqliteEnhancementLog
from onbook.adapters.files.spool import SpooledEnhancementLog
database = Path(sys.argv[2])
async def client(log):
    while True:
        row = _row()
        await log.record(row, _texts(row))
        sys.stdout.write("acknowledged " + row.request_id + "\\n")
        sys.stdout.flush()
async def outages(log):
    away = database.with_name("away.db")
    while True:
        database.rename(away)
        while log.pending < 50:
            await asyncio.sleep(0)
        away.rename(database)
        while log.pending:
            await log.drain()
async def main():
    log = SpooledEnhancementLog(
        SqliteEnhancementLog(f"sqlite+aiosqlite:///{database}"), Path(sys.argv[3]))
    await asyncio.gather(outages(log), *(client(log) for _ in range(8)))
asyncio.run(main())
"""


@pytest.mark.parametrize("lines", [40, 300, 700])
async def test_kill_9_during_outages_loses_no_acknowledged_row(
    tmp_path: Path, path: Path, lines: int
) -> None:
    database = tmp_path / "onbook.db"
    migrate(sqlite_url(database))
    arguments = [str(Path(__file__).parent), str(database), str(path)]
    with subprocess.Popen(
        [sys.executable, "-c", _CRASH, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(lines)]
        process.send_signal(signal.SIGKILL)
        told += process.stdout.readlines()
    away = tmp_path / "away.db"
    if away.exists():
        away.rename(database)
    log = SpooledEnhancementLog(SqliteEnhancementLog(sqlite_url(database)), path)
    await log.drain()
    assert log.pending == 0
    acknowledged = 0
    for line in told:
        # The product's own log goes to standard output too.
        if line.startswith(b"acknowledged ") and line.endswith(b"\n"):
            acknowledged += 1
            with pytest.raises(AlreadyRecorded):
                await log.record(_row(request_id=line.split()[1].decode()), None)
    assert acknowledged > lines // 2
    await log.close()
    stored = audited_rows_in(database)
    chains = {row.chain_id for row in stored}
    # That of the process that was killed, and of the one that emptied its spool.
    assert len(chains) <= 2
    for chain in chains:
        sound([row for row in stored if row.chain_id == chain], keys=())


class _Locked(MemoryEnhancementLog):
    """A database that makes everyone wait, and then gives up: one that is locked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.give_up = asyncio.Event()

    async def record(self, row: EnhancementRow, texts: EnhancementTexts | None) -> None:
        self.asked.set()
        await self.give_up.wait()
        raise StoreUnavailable("the database is locked")


async def test_nobody_waits_for_the_spool_while_the_database_is_locked(path: Path) -> None:
    locked = _Locked()
    locked.give_up.set()
    log = SpooledEnhancementLog(locked, path)
    await log.record(_row(), None)
    locked.give_up.clear()
    locked.asked.clear()
    draining = asyncio.create_task(log.drain())
    await locked.asked.wait()
    # The drain is held up in the database; a new row goes to the spool all the same.
    async with asyncio.timeout(5):
        await log.record(_row(), None)
    assert log.pending == 2
    locked.give_up.set()
    assert await draining == 0
    await log.close()
