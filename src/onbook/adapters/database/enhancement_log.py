"""The audit log on SQLite: every caller waits for its commit, and commits go in groups.

One writer thread with a connection of its own takes whatever has gathered while it was busy and
commits it at once, so that load and not the disk's sync sets the price of a row. There is no
linger timer: a single row is committed immediately.
"""

import asyncio
import sqlite3
import threading
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog
from sqlalchemy import Table, insert
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from onbook.adapters.chaining import Chain, SignerSource
from onbook.adapters.database import sqlite_file
from onbook.adapters.database.errors import primary_code, reason
from onbook.adapters.database.log_rows import (
    MAX_GROUP,
    ROW_COLUMNS,
    ROW_REQUEST,
    ROW_TIME,
    TEXT_TIME,
    Entry,
    Values,
    chained,
    contents,
    settle,
    stop,
    text_values,
)
from onbook.adapters.database.postgres_url import is_postgres
from onbook.adapters.database.tables import enhancement_logs, enhancement_texts
from onbook.adapters.database.types import utc_text
from onbook.adapters.errors import AlreadyRecorded, RowRefused
from onbook.ports.stores import EnhancementRow, EnhancementTexts, StoreUnavailable
from onbook.wire.audit_chain import Head

if TYPE_CHECKING:
    from onbook.adapters.database.postgres_log import PostgresEnhancementLog

_log = structlog.get_logger(__name__)


def _insert_sql(table: Table) -> str:
    return str(insert(table).compile(dialect=SQLiteDialect_pysqlite(paramstyle="qmark")))


_INSERT_ROW: Final = _insert_sql(enhancement_logs)
_INSERT_TEXTS: Final = _insert_sql(enhancement_texts)
_BEFORE_TIME: Final = attrgetter(*ROW_COLUMNS[:ROW_TIME])
_AFTER_TIME: Final = attrgetter(*ROW_COLUMNS[ROW_TIME + 1 :])
_KNOWN: Final = "SELECT 1 FROM enhancement_logs WHERE request_id = ?"
# SQLite keeps a text in a column of numbers if somebody puts it there, and sorts it last.
_HEAD: Final = (
    "SELECT seq, row_hash FROM enhancement_logs"
    " WHERE chain_id = ? AND seq <= 9223372036854775807 ORDER BY seq DESC LIMIT 1"
)


def enhancement_log(
    url: str, signer: SignerSource | None = None
) -> "SqliteEnhancementLog | PostgresEnhancementLog":
    """Return the audit log in the database of ``url``; nothing is opened before the first row.

    Args:
        url: The database URL.
        signer: Gives the key for the head of each group of rows; asked once per group, from the
            thread that commits. None leaves the heads unsigned.

    Raises:
        DatabaseUnusable: the URL is not right.
    """
    if is_postgres(url):
        # Imported here: a service on SQLite needs no driver of Postgres.
        from onbook.adapters.database.postgres_log import (  # noqa: PLC0415 - see above
            PostgresEnhancementLog,
        )

        return PostgresEnhancementLog(url, signer=signer)
    return SqliteEnhancementLog(url, signer=signer)


class SqliteEnhancementLog:
    """``ports.EnhancementLog`` on one SQLite file, for one event loop.

    The file is opened at the first row and again after every failure, and a commit is believed
    only if the path still names the file that was written. Rows are chained in the order of their
    commits, in a chain of this object's own (``chaining.Chain``).

    Args:
        url: ``sqlite+aiosqlite:///<path>``; the schema must be there (``schema.migrate``).
        signer: As in ``enhancement_log``.
        busy_timeout_s: Seconds to wait for another writer before rows are refused.

    Raises:
        DatabaseUnusable: the URL is not that of a SQLite file.
    """

    def __init__(
        self, url: str, *, signer: SignerSource | None = None, busy_timeout_s: float = 5.0
    ) -> None:
        self._chain = Chain(signer)
        self._writer = _Writer(sqlite_file.sqlite_path(url), self._chain, busy_timeout_s)
        self._lock = threading.Lock()
        self._wake = threading.Semaphore(0)
        self._pending: list[Entry] = []
        self._idle = False
        self._closing = False
        self._thread: threading.Thread | None = None

    @property
    def chain_id(self) -> str:
        """The chain that the next row goes into."""
        return self._chain.chain_id

    async def record(self, row: EnhancementRow, texts: EnhancementTexts | None) -> None:
        """Commit the row, and its texts, durably before returning.

        A cancelled caller's row is committed all the same.

        Raises:
            AlreadyRecorded: a row with this request_id is there.
            RowRefused: the database works but will never take this row.
            StoreUnavailable: nothing was written.
        """
        loop = asyncio.get_running_loop()
        time = utc_text(row.created_at)
        entry = Entry((*_BEFORE_TIME(row), time, *_AFTER_TIME(row)), None, loop.create_future())
        if texts is not None:
            if texts.created_at is not row.created_at:
                time = utc_text(texts.created_at)
            entry.texts = _timed(text_values(texts), time)
        with self._lock:
            if self._closing:
                raise StoreUnavailable("The audit log is closed.")
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, args=(loop,), name="onbook-audit-log", daemon=True
                )
                self._thread.start()
            self._pending.append(entry)
            wake, self._idle = self._idle, False
        if wake:
            self._wake.release()
        await entry.done

    async def close(self) -> None:
        """Commit what is under way and let go of the file."""
        with self._lock:
            self._closing = True
            thread = self._thread
            self._idle = False
        self._wake.release()
        if thread is not None:
            await asyncio.to_thread(thread.join)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        group: list[Entry] = []
        try:
            while True:
                with self._lock:
                    group, self._pending = self._pending[:MAX_GROUP], self._pending[MAX_GROUP:]
                    if not group:
                        if self._closing:
                            return
                        self._idle = True
                if not group:
                    self._wake.acquire()
                    continue
                self._writer.commit(group)
                _hand_back(loop, group)
        finally:
            self._writer.close()
            with self._lock:
                # Reached before close() only if memory ran out or by a bug: nobody may then wait
                # for ever, and the next row starts a new thread.
                self._thread = None
                self._idle = False
                left, self._pending = group + self._pending, []
            stop(left)
            _hand_back(loop, left)


class _Writer:
    """The connection, used by the writer thread alone."""

    def __init__(self, path: Path, chain: Chain, busy_timeout_s: float) -> None:
        self._path = path
        self._chain = chain
        self._busy_timeout_s = busy_timeout_s
        self._connection: sqlite3.Connection | None = None
        self._inode: sqlite_file.Inode | None = None

    def commit(self, group: Sequence[Entry]) -> None:
        """Commit ``group`` and set the error of each entry that could not be."""
        error = self._attempt(group)
        if error is None:
            return
        if len(group) > 1 and _concerns_one_row(error):
            # The bad row is found in halves: its neighbours share a commit wherever they can.
            half = len(group) // 2
            self.commit(group[:half])
            self.commit(group[half:])
            return
        if isinstance(error, sqlite3.IntegrityError):
            self._settle_refusal(group[0], error)
            return
        for entry in group:
            entry.error = _port_error(error)

    def _settle_refusal(self, entry: Entry, error: sqlite3.IntegrityError) -> None:
        try:
            connection = self._opened()
            known = connection.execute(_KNOWN, (entry.row[ROW_REQUEST],)).fetchone() is not None
            taken = not known and self._chain.taken(self._end_of_chain(connection))
        except (sqlite3.Error, OSError) as failure:
            # Why the row was refused cannot be told now; it may be no fault of the row.
            entry.error = _port_error(failure)
            return
        if known:
            entry.error = AlreadyRecorded("The audit log already has a row with this request_id.")
        elif taken:
            self.commit((entry,))
        else:
            entry.error = _port_error(error)

    def close(self) -> None:
        """Let go of the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _attempt(self, group: Sequence[Entry]) -> BaseException | None:
        try:
            connection = self._opened()
            connection.execute("BEGIN IMMEDIATE")
            try:
                head = self._insert(connection, group)
                # Until the commit is known to have happened, in the file that the path names.
                self._chain.doubt(head)
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            if sqlite_file.inode(self._path) != self._inode:
                self.close()
                return FileNotFoundError(2, "replaced while it was written")
        except (sqlite3.Error, OSError) as error:
            if not _concerns_one_row(error):
                self.close()
            return error
        except (OverflowError, ValueError, TypeError, StoreUnavailable) as error:
            # A value that SQLite cannot hold: too large a number, or half of a surrogate pair.
            # Or a head that cannot be signed.
            return error
        self._chain.committed(head)
        return None

    def _insert(self, connection: sqlite3.Connection, group: Sequence[Entry]) -> Head:
        """Write ``group`` behind the head; return the head that the chain has once committed."""
        if self._chain.uncertain:
            self._chain.settle(self._end_of_chain(connection))
        extension = self._chain.extension(contents(group))
        connection.executemany(_INSERT_ROW, chained(group, extension))
        texts = [entry.texts for entry in group if entry.texts is not None]
        if texts:
            connection.executemany(_INSERT_TEXTS, texts)
        return extension.head

    def _end_of_chain(self, connection: sqlite3.Connection) -> Head | None:
        chain_id = self._chain.chain_id
        found = connection.execute(_HEAD, (chain_id,)).fetchone()
        return None if found is None else Head(chain_id=chain_id, seq=found[0], row_hash=found[1])

    def _opened(self) -> sqlite3.Connection:
        now = sqlite_file.inode(self._path)
        if self._connection is not None and now == self._inode:
            return self._connection
        self.close()
        connection = sqlite_file.connect(self._path, busy_timeout_s=self._busy_timeout_s)
        self._connection, self._inode = connection, now
        return connection


def _port_error(error: BaseException) -> StoreUnavailable:
    if isinstance(error, StoreUnavailable):
        return StoreUnavailable(str(error))
    if _concerns_one_row(error) and primary_code(error) != sqlite3.SQLITE_FULL:
        return RowRefused(f"The audit log refuses the row ({type(error).__name__}).")
    cause = reason(error)
    _log.warning("audit_log_unavailable", reason=cause)
    return StoreUnavailable(f"The audit log cannot be written: {cause}.")


def _concerns_one_row(error: BaseException) -> bool:
    """Tell whether another row could succeed where this one did not."""
    if isinstance(error, sqlite3.OperationalError):
        # A small row may still fit where a large one did not.
        return primary_code(error) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_TOOBIG)
    if isinstance(error, sqlite3.DatabaseError):
        return primary_code(error) not in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)
    return not isinstance(error, (OSError, StoreUnavailable))


def _timed(texts: Values, time: str) -> Values:
    return (*texts[:TEXT_TIME], time, *texts[TEXT_TIME + 1 :])


def _hand_back(loop: asyncio.AbstractEventLoop, group: Sequence[Entry]) -> None:
    try:
        loop.call_soon_threadsafe(settle, group)
    except RuntimeError:
        # The loop is closed: nobody waits any more, and the rows are where they are.
        return
