"""An audit log that keeps rows on local disk while the database is away."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog

from onbook.adapters.errors import AlreadyRecorded, RowRefused
from onbook.adapters.files.spool_file import SpoolFile, checked_line, line_body
from onbook.ports.stores import (
    EnhancementLog,
    EnhancementRow,
    EnhancementTexts,
    StoreUnavailable,
)

_log = structlog.get_logger(__name__)

Record = tuple[EnhancementRow, EnhancementTexts | None]


@dataclass(slots=True, eq=False)
class _Waiting:
    """A line on its way to disk.

    ``done`` is True once it is there, False if the spool was drained meanwhile and the row should
    go to the database directly.
    """

    line: bytes
    done: "asyncio.Future[bool]"


class SpooledEnhancementLog:
    """``ports.EnhancementLog`` around another one, with a synced file to fall back on.

    While the spool holds rows, new ones go behind them, so that rows reach the database in the
    order in which they were acknowledged. A row that the database will never take
    (``RowRefused``) is not spooled: the caller is told.

    Args:
        inner: The log in the database.
        path: The spool file, for this process alone; its directory must exist. Read once here.
    """

    def __init__(self, inner: EnhancementLog, path: Path) -> None:
        self._inner = inner
        self._file = SpoolFile(path)
        self._pending = 0
        self._waiting: list[_Waiting] = []
        self._flusher: asyncio.Task[None] | None = None
        self._file_lock = asyncio.Lock()
        self._drain_lock = asyncio.Lock()
        self._closed = False
        try:
            self._pending = self._file.open()
        except OSError as error:
            _log.warning("spool_not_open", error=error.strerror)

    @property
    def pending(self) -> int:
        """Rows in the spool, and those on their way into it."""
        return self._pending

    async def record(self, row: EnhancementRow, texts: EnhancementTexts | None) -> None:
        """Commit the row in the database, or else sync it to the spool, before returning.

        Raises:
            RowRefused: the database works but will never take this row.
            StoreUnavailable: neither worked; nothing was written.
        """
        if self._closed:
            raise StoreUnavailable("The audit log is closed.")
        line: bytes | None = None
        tried = False
        while True:
            if not self._pending:
                try:
                    await self._inner.record(row, texts)
                except RowRefused as error:
                    if tried and isinstance(error, AlreadyRecorded):
                        # The commit before had happened; only its answer was lost.
                        return
                    raise
                except StoreUnavailable:
                    tried = True
                else:
                    return
            if line is None:
                line = _encoded(row, texts)
            if await self._spool(line):
                return

    async def drain(self) -> int:
        """Move spooled rows into the database, in order; return how many left the spool.

        Stops at the first row for which the database is not available; call it again later.
        Rows that are already there count as moved, so a crash in between loses and doubles
        nothing. Lines that are damaged, and rows that the database refuses, are set aside in
        ``<spool>.damaged``.

        Raises:
            StoreUnavailable: the spool itself cannot be read or emptied.
        """
        moved = 0
        async with self._drain_lock:
            while self._pending:
                try:
                    # Until a row has gone through, the database may still be locked: then no
                    # request may wait for the spool behind it.
                    count, go_on = await self._drain_batch(hold=moved > 0)
                except OSError as error:
                    raise StoreUnavailable(f"The spool fails: {error.strerror}.") from error
                moved += count
                if not go_on:
                    break
        return moved

    async def close(self) -> None:
        """Finish what is under way, keep what is spooled for the next start, close the inner."""
        self._closed = True
        while self._flusher is not None and not self._flusher.done():
            await asyncio.wait([self._flusher])
        async with self._drain_lock:
            self._file.close()
        await self._inner.close()

    async def _spool(self, line: bytes) -> bool:
        waiting = _Waiting(line, asyncio.get_running_loop().create_future())
        self._pending += 1
        self._waiting.append(waiting)
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush())
        return await waiting.done

    async def _flush(self) -> None:
        """Write whatever has gathered with one sync, until nothing is left."""
        while self._waiting:
            async with self._file_lock:
                group, self._waiting = self._waiting, []
                failure: OSError | None = None
                try:
                    if not self._file.is_open:
                        # Rows of an earlier run turn up here if it could not be opened before.
                        found = await asyncio.to_thread(self._file.open)
                        self._pending += found
                    lines = [waiting.line for waiting in group]
                    await asyncio.to_thread(self._file.append, lines)
                except OSError as error:
                    failure = error
                    self._pending -= len(group)
                    _log.error("spool_not_written", error=error.strerror, rows=len(group))
            for waiting in group:
                if waiting.done.done():
                    continue
                if failure is None:
                    waiting.done.set_result(True)
                else:
                    waiting.done.set_exception(
                        StoreUnavailable(
                            "Neither the database nor the spool can be written "
                            f"({failure.strerror}); free disk space or repair the data directory."
                        )
                    )

    async def _drain_batch(self, *, hold: bool) -> tuple[int, bool]:
        """Move the next lines; return how many were moved and whether to go on."""
        await self._file_lock.acquire()
        held = True
        try:
            if not self._file.is_open:
                return 0, False
            lines, last = await asyncio.to_thread(self._file.read)
            if not (last and hold):
                # New rows may be added behind while these are moved. At the end they may not:
                # else a busy service would never reach an empty spool.
                self._file_lock.release()
                held = False
            done, refused = await self._move(lines)
            if refused:
                await asyncio.to_thread(self._file.set_aside, refused)
            self._file.advance(lines[:done])
            self._pending -= done
            if last and done == len(lines):
                if not held:
                    await self._file_lock.acquire()
                    held = True
                    if (await asyncio.to_thread(self._file.read))[0]:
                        return done, True
                await asyncio.to_thread(self._file.clear)
                self._release_waiting()
                # Nothing is left, whatever was counted: to wait for more would never end.
                self._pending = 0
                return done, False
            return done, done == len(lines)
        finally:
            if held:
                self._file_lock.release()

    async def _move(self, lines: Sequence[bytes]) -> tuple[int, list[bytes]]:
        """Record ``lines``; return how many are dealt with and which of those were refused."""
        records = [_decoded(line) for line in lines]
        # Together, so that the inner log commits them as a group; it keeps their order.
        outcomes = await asyncio.gather(
            *(self._inner.record(*record) for record in records if record is not None),
            return_exceptions=True,
        )
        remaining = iter(outcomes)
        refused: list[bytes] = []
        for position, (line, record) in enumerate(zip(lines, records, strict=True)):
            if record is None:
                _log.error("spool_line_damaged", bytes=len(line))
                refused.append(line)
                continue
            outcome = next(remaining)
            if outcome is None or isinstance(outcome, AlreadyRecorded):
                continue
            if isinstance(outcome, RowRefused):
                _log.error("spool_row_refused", request_id=record[0].request_id)
                refused.append(line)
            elif isinstance(outcome, StoreUnavailable):
                return position, refused
            else:
                raise outcome
        return len(lines), refused

    def _release_waiting(self) -> None:
        group, self._waiting = self._waiting, []
        self._pending -= len(group)
        for waiting in group:
            if not waiting.done.done():
                waiting.done.set_result(False)


def _encoded(row: EnhancementRow, texts: EnhancementTexts | None) -> bytes:
    document = {"row": asdict(row), "texts": None if texts is None else asdict(texts)}
    return checked_line(json.dumps(document, separators=(",", ":"), default=_iso).encode())


def _iso(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"a row cannot hold {type(value).__name__}")


def _decoded(line: bytes) -> Record | None:
    body = line_body(line)
    if body is None:
        return None
    try:
        document = json.loads(body)
        texts = document["texts"]
        return (
            EnhancementRow(**_values(EnhancementRow, document["row"])),
            None if texts is None else EnhancementTexts(**_values(EnhancementTexts, texts)),
        )
    except (ValueError, TypeError, KeyError):
        return None


def _values(
    kind: type[EnhancementRow | EnhancementTexts], data: dict[str, object]
) -> dict[str, Any]:
    """Return ``data`` as arguments; a field that an older version did not write is None."""
    missing = {item.name: None for item in fields(kind) if item.name not in data}
    return {**data, **missing, "created_at": datetime.fromisoformat(str(data["created_at"]))}
