"""The audit log on Postgres: every caller waits for its commit, and commits go in groups.

One task with a connection of its own takes whatever has gathered while it was busy and commits it
with one statement, which is one round trip and one sync of the server's disk. There is no linger
timer: a single row is committed immediately.
"""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

import structlog
from sqlalchemy import Column, String, Table, make_url

from onbook.adapters.chaining import Chain, SignerSource
from onbook.adapters.database.errors import reason, sqlstate
from onbook.adapters.database.log_rows import (
    CHAIN_COLUMNS,
    MAX_GROUP,
    ROW_COLUMNS,
    ROW_REQUEST,
    ROW_TIME,
    TEXT_COLUMNS,
    TEXT_TIME,
    Entry,
    Values,
    chained,
    contents,
    row_values,
    settle,
    stop,
    text_values,
)
from onbook.adapters.database.postgres_connection import (
    FAILURES,
    PostgresConnection,
    connect,
)
from onbook.adapters.database.postgres_url import connect_arguments
from onbook.adapters.database.tables import enhancement_logs, enhancement_texts
from onbook.adapters.database.types import zoned
from onbook.adapters.errors import AlreadyRecorded, RowRefused
from onbook.ports.stores import EnhancementRow, EnhancementTexts, StoreUnavailable
from onbook.wire.audit_chain import Head
from onbook.wire.canonical import CanonicalizationError

_log = structlog.get_logger(__name__)

_CLOSE_S: Final = 2.0
# The connection cannot be opened, or it fails.
_FAILURES: Final[tuple[type[Exception], ...]] = (*FAILURES, StoreUnavailable)

# Postgres stores no U+0000 in a text. Callers cannot send one, a model can: its picture is kept.
_NUL: Final = "\x00"
NUL_PICTURE: Final = "\u2400"

_DIALECT: Final = make_url("postgresql+asyncpg://").get_dialect()()


def _array_type(column: Column[object]) -> str:
    # varchar(n) would cut a value that is too long, where the table refuses it.
    if isinstance(column.type, String):
        return "text"
    return column.type.compile(dialect=_DIALECT)


def _insert_sql(table: Table, first: int) -> str:
    names = ", ".join(f'"{column.name}"' for column in table.columns)
    arrays = ", ".join(
        f"${number}::{_array_type(column)}[]"
        for number, column in enumerate(table.columns, start=first)
    )
    return f'INSERT INTO "{table.name}" ({names}) SELECT * FROM unnest({arrays})'  # noqa: S608 - names and types of our own tables


_ROW_ID: Final = ROW_COLUMNS.index("id")
# A single statement, so that a row and its texts are there both or not at all.
_INSERT: Final = (
    f"WITH texts AS ({_insert_sql(enhancement_texts, len(ROW_COLUMNS + CHAIN_COLUMNS) + 1)}) "
    f"{_insert_sql(enhancement_logs, 1)}"
)
_KNOWN: Final = "SELECT 1 FROM enhancement_logs WHERE request_id = $1"
_HEAD: Final = (
    "SELECT seq, row_hash FROM enhancement_logs WHERE chain_id = $1 ORDER BY seq DESC LIMIT 1"
)


class PostgresEnhancementLog:
    """``ports.EnhancementLog`` on Postgres, for one event loop.

    The connection is opened at the first row and again after every failure. Where it was lost
    during a commit, the rows are looked for before they are said to be missing; a row that
    cannot be looked for may be there all the same, and recording it again gives
    ``AlreadyRecorded``. Rows are chained in the order of their commits, in a chain of this
    object's own (``chaining.Chain``); the unique index over its places keeps a commit that comes
    to light late from ever standing beside another one.

    Args:
        url: The URL of a Postgres database; the schema must be there (``schema.migrate``).
        signer: As in ``enhancement_log``; asked in the event loop.
        statement_timeout_s: Seconds that a commit may take.
        connect_timeout_s: Seconds until the server must have let us in.

    Raises:
        DatabaseUnusable: the URL is not that of a Postgres database.
    """

    def __init__(
        self,
        url: str,
        *,
        signer: SignerSource | None = None,
        statement_timeout_s: float = 5.0,
        connect_timeout_s: float = 3.0,
    ) -> None:
        connect_arguments(url)
        self._chain = Chain(signer)
        self._writer = _Writer(url, self._chain, statement_timeout_s, connect_timeout_s)
        self._pending: list[Entry] = []
        self._committer: asyncio.Task[None] | None = None
        self._closing = False

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
            StoreUnavailable: nothing is known to have been written.
        """
        if self._closing:
            raise StoreUnavailable("The audit log is closed.")
        entry = Entry(
            _storable(row_values(row), ROW_TIME),
            None if texts is None else _storable(text_values(texts), TEXT_TIME),
            asyncio.get_running_loop().create_future(),
        )
        self._pending.append(entry)
        if self._committer is None or self._committer.done():
            self._committer = asyncio.create_task(self._commit_all(), name="onbook-audit-log")
        await entry.done

    async def close(self) -> None:
        """Commit what is under way and let go of the connection."""
        self._closing = True
        if self._committer is not None:
            await asyncio.wait([self._committer])
        await self._writer.close()

    async def _commit_all(self) -> None:
        group: list[Entry] = []
        try:
            while self._pending:
                group, self._pending = self._pending[:MAX_GROUP], self._pending[MAX_GROUP:]
                try:
                    await self._writer.commit(group)
                except Exception as error:  # noqa: BLE001 - a bug must not leave callers waiting
                    _log.error("audit_log_failed", error_type=type(error).__name__)
                    stop(group)
                settle(group)
                group = []
        finally:
            # Left only if this task was cancelled, as at the end of the event loop.
            left, self._pending = group + self._pending, []
            stop(left)
            settle(left)


class _Writer:
    """The connection, used by one task at a time."""

    def __init__(
        self, url: str, chain: Chain, statement_timeout_s: float, connect_timeout_s: float
    ) -> None:
        self._url = url
        self._chain = chain
        self._statement_timeout_s = statement_timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._connection: PostgresConnection | None = None

    async def commit(self, group: Sequence[Entry]) -> None:
        """Commit ``group`` and set the error of each entry that could not be."""
        error = await self._attempt(group)
        if error is None:
            return
        if len(group) > 1 and _concerns_one_row(error):
            # The bad row is found in halves: its neighbours share a commit wherever they can.
            half = len(group) // 2
            await self.commit(group[:half])
            await self.commit(group[half:])
            return
        if _concerns_one_row(error) and not _disk_is_full(error):
            await self._settle_refusal(group[0], error)
            return
        committed = await self._found(group) if _outcome_is_unknown(error) else frozenset()
        lost = [entry for entry in group if _key(entry) not in committed]
        for entry in lost:
            entry.error = _unavailable(error)
        _log.warning("audit_log_unavailable", reason=str(_unavailable(error)), rows=len(lost))

    async def close(self) -> None:
        """Let go of the connection."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            async with asyncio.timeout(_CLOSE_S):
                await connection.close()
        except FAILURES:
            connection.terminate()

    async def _attempt(self, group: Sequence[Entry]) -> Exception | None:
        try:
            connection = await self._opened()
            if self._chain.uncertain:
                self._chain.settle(await self._end_of_chain(connection))
            extension = self._chain.extension(contents(group))
            texts = [entry.texts for entry in group if entry.texts is not None]
            columns = [
                *_columns(chained(group, extension)),
                *(_columns(texts) if texts else [()] * len(TEXT_COLUMNS)),
            ]
            # Until the answer says that the commit has happened.
            self._chain.doubt(extension.head)
            await connection.execute(_INSERT, *columns)
        except CanonicalizationError as error:
            return error
        except _FAILURES as error:
            if not _concerns_one_row(error):
                self._drop()
            return error
        except BaseException:
            # Cancelled in the middle of an exchange: the connection is of no more use.
            self._drop()
            raise
        self._chain.committed(extension.head)
        return None

    async def _end_of_chain(self, connection: PostgresConnection) -> Head | None:
        chain_id = self._chain.chain_id
        for seq, row_hash in await connection.fetch(_HEAD, chain_id):
            return Head(chain_id=chain_id, seq=seq, row_hash=row_hash)  # type: ignore[arg-type]  # the columns' types
        return None

    async def _settle_refusal(self, entry: Entry, error: Exception) -> None:
        known = taken = False
        if sqlstate(error) == "23505":
            try:
                connection = await self._opened()
                known = await connection.fetchval(_KNOWN, entry.row[ROW_REQUEST]) is not None
                taken = not known and self._chain.taken(await self._end_of_chain(connection))
            except _FAILURES as failure:
                # Why the row was refused cannot be told now; it may be no fault of the row.
                self._drop()
                entry.error = _unavailable(failure)
                return
        if known:
            entry.error = AlreadyRecorded("The audit log already has a row with this request_id.")
        elif taken:
            await self.commit((entry,))
        else:
            entry.error = RowRefused(f"The audit log refuses the row ({type(error).__name__}).")

    async def _found(self, group: Sequence[Entry]) -> frozenset[Values]:
        """Return the keys of the rows of ``group`` that are there, as far as can be told."""
        with suppress(*_FAILURES):
            rows = await (await self._opened()).fetch(
                "SELECT id, request_id FROM enhancement_logs WHERE id = ANY($1::text[])",
                [entry.row[_ROW_ID] for entry in group],
            )
            return frozenset(tuple(row) for row in rows)
        return frozenset()

    async def _opened(self) -> PostgresConnection:
        if self._connection is not None and not self._connection.is_closed():
            return self._connection
        self._connection = await connect(
            self._url,
            connect_timeout_s=self._connect_timeout_s,
            statement_timeout_s=self._statement_timeout_s,
            # Whatever the server's default: an acknowledged row survives a power cut.
            synchronous_commit="on",
        )
        return self._connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()


def _storable(values: Values, time: int) -> Values:
    found = list(values)
    found[time] = zoned(found[time])  # type: ignore[arg-type]  # the column is created_at
    if _NUL in "".join([value for value in values if isinstance(value, str)]):
        return tuple(
            value.replace(_NUL, NUL_PICTURE) if isinstance(value, str) else value for value in found
        )
    return tuple(found)


def _columns(rows: Iterable[Values]) -> list[Sequence[object] | None]:
    """Return the columns of ``rows``; of one that is empty throughout, None.

    ``unnest`` fills it with NULLs all the same, and the driver need not look at each.
    """
    return [
        None if column[0] is None and column.count(None) == len(column) else column
        for column in zip(*rows, strict=True)
    ]


def _key(entry: Entry) -> Values:
    return entry.row[_ROW_ID], entry.row[ROW_REQUEST]


def _unavailable(error: Exception) -> StoreUnavailable:
    if isinstance(error, StoreUnavailable):
        return StoreUnavailable(str(error))
    return StoreUnavailable(f"The audit log cannot be written: {reason(error)}.")


def _concerns_one_row(error: Exception) -> bool:
    """Tell whether another row could succeed where this one did not."""
    # Values, constraints and limits; a small row may still fit where a large one did not.
    return (
        isinstance(error, CanonicalizationError)
        or (sqlstate(error) or "").startswith(("22", "23", "54"))
        or _disk_is_full(error)
    )


def _disk_is_full(error: Exception) -> bool:
    return sqlstate(error) == "53100"


def _outcome_is_unknown(error: Exception) -> bool:
    """Tell whether the commit may have happened although its answer did not come."""
    if isinstance(error, StoreUnavailable):
        return False
    state = sqlstate(error)
    return state is None or state.startswith(("08", "57P"))
