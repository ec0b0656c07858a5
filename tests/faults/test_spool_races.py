"""The spool when things happen at once: its count, its end, and a commit without an answer."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from onbook.adapters.errors import AlreadyRecorded
from onbook.adapters.files.spool import SpooledEnhancementLog
from onbook.adapters.files.spool_file import SpoolFile
from onbook.adapters.memory.enhancement_log import MemoryEnhancementLog
from onbook.ports.stores import EnhancementRow, EnhancementTexts, StoreUnavailable
from support_audit import request


@pytest.fixture
def inner() -> MemoryEnhancementLog:
    return MemoryEnhancementLog()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit-spool.jsonl"


async def turns_until(reached: Callable[[], bool]) -> None:
    """Let the event loop turn until ``reached``."""
    for _ in range(100_000):
        if reached():
            return
        await asyncio.sleep(0)
    raise AssertionError("not reached")


async def test_rows_that_come_while_the_file_is_opened_are_counted(
    inner: MemoryEnhancementLog, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = SpooledEnhancementLog(inner, path)
    inner.available = False
    rows = [request(number)[0] for number in range(1, 7)]
    for row in rows[:2]:
        await earlier.record(row, None)
    log = SpooledEnhancementLog(inner, path)
    assert log.pending == 0
    # Without ``close``, which would close the inner log too: the other process is gone.
    earlier._file.close()
    opening, go, opened = threading.Event(), threading.Event(), SpoolFile.open

    def open_slowly(file: SpoolFile) -> int:
        opening.set()
        assert go.wait(30)
        return opened(file)

    monkeypatch.setattr(SpoolFile, "open", open_slowly)
    calls = [asyncio.create_task(log.record(rows[2], None))]
    assert await asyncio.to_thread(opening.wait, 30)
    calls += [asyncio.create_task(log.record(row, None)) for row in rows[3:]]
    await turns_until(lambda: log.pending == 4)
    go.set()
    await asyncio.gather(*calls)
    assert log.pending == 6
    inner.available = True
    assert await asyncio.wait_for(log.drain(), 30) == 6
    assert (log.pending, inner.rows) == (0, rows)
    await log.close()


@pytest.mark.parametrize("off_by", [-1, 3])
async def test_drain_ends_where_nothing_is_left_whatever_was_counted(
    inner: MemoryEnhancementLog, path: Path, off_by: int
) -> None:
    log = SpooledEnhancementLog(inner, path)
    inner.available = False
    rows = [request(number)[0] for number in range(1, 3)]
    for row in rows:
        await log.record(row, None)
    inner.available = True
    # There is no public way to such a count any more.
    log._pending += off_by
    assert await asyncio.wait_for(log.drain(), 30) == 2
    assert (log.pending, inner.rows) == (0, rows)
    await log.close()


async def test_a_committed_row_whose_answer_was_lost_is_no_failure_after_a_drain(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost, other = request(1)[0], request(2)[0]
    answer = asyncio.Event()

    class LosesAnAnswer(MemoryEnhancementLog):
        async def record(self, row: EnhancementRow, texts: EnhancementTexts | None) -> None:
            first = row.request_id == lost.request_id and row not in self.rows
            await super().record(row, texts)
            if first:
                await answer.wait()
                raise StoreUnavailable("the answer to a commit was lost")

    inner = LosesAnAnswer()
    log = SpooledEnhancementLog(inner, path)
    call = asyncio.create_task(log.record(lost, None))
    await turns_until(lambda: bool(inner.rows))
    inner.available = False
    await log.record(other, None)
    inner.available = True
    clearing, go, clear = threading.Event(), threading.Event(), SpoolFile.clear

    def clear_slowly(file: SpoolFile) -> None:
        clearing.set()
        assert go.wait(30)
        clear(file)

    monkeypatch.setattr(SpoolFile, "clear", clear_slowly)
    drain = asyncio.create_task(log.drain())
    assert await asyncio.to_thread(clearing.wait, 30)
    answer.set()
    await turns_until(lambda: log.pending == 1)
    go.set()
    await call
    assert await drain == 1
    assert (log.pending, inner.rows) == (0, [lost, other])
    with pytest.raises(AlreadyRecorded):
        await log.record(lost, None)
    await log.close()
