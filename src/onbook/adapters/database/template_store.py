"""The book as gateways read it, in the database."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import structlog
from sqlalchemy import bindparam, delete, select, type_coerce, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from onbook.adapters.database import sqlite_file
from onbook.adapters.database.engine import writer
from onbook.adapters.database.guard import store_errors
from onbook.adapters.database.tables import gateways, template_epoch
from onbook.adapters.database.template_rows import (
    MAX_VERSION,
    Problem,
    Row,
    content_columns,
    earlier_versions,
    events,
    ever_live_versions,
    parsed,
    rows,
    running_splits,
    storable,
    template_split,
    versions,
)
from onbook.adapters.database.template_seed import seed_templates
from onbook.adapters.database.template_signal import database_file, template_signal
from onbook.adapters.database.types import UtcDateTime, utc_now
from onbook.domain.template_history import ActiveSplit
from onbook.domain.templates import Template
from onbook.ports.stores import PinnedTemplate, StoreUnavailable, TemplateChanges

_log = structlog.get_logger(__name__)

# Rows that are fetched at a time, and how long they may be parsed in one go.
_CHUNK: Final = 50
_PARSING_S: Final = 0.005
# Rows whose hash is filled in by one transaction, so that the write lock is soon free again.
_SEALED_AT_ONCE: Final = 100

_DEAD_AFTER: Final = timedelta(days=1)

_epoch: Final = select(template_epoch.c.epoch)
_rows: Final = select(
    *content_columns(rows), rows.c.is_active, rows.c.content_sha256, rows.c.changed_epoch
)
# A version never changes, so its hash holds; the row's only for the state that was read.
_FILL_VERSION: Final = (
    update(versions)
    .where(
        versions.c.template_name == bindparam("of_name"),
        versions.c.version == bindparam("of_version"),
        versions.c.content_sha256.is_(None),
    )
    .values(content_sha256=bindparam("digest"))
)
_FILL_ROW: Final = (
    update(rows)
    .where(
        rows.c.template_name == bindparam("of_name"),
        rows.c.changed_epoch == bindparam("of_epoch"),
        rows.c.content_sha256.is_(None),
    )
    .values(content_sha256=bindparam("digest"))
)


@dataclass(frozen=True, slots=True)
class _Seal:
    """A content hash that an edit by raw SQL left out, and the state that it is the hash of."""

    template: Template
    changed_epoch: int


@dataclass(slots=True)
class _Reading:
    """What one read of the rows has found so far."""

    active: list[Template] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    broken: list[tuple[Row, Problem]] = field(default_factory=list)
    seals: list[_Seal] = field(default_factory=list)


class SqlTemplateStore:
    """``ports.TemplateStore`` on SQLAlchemy Core.

    A live row that breaks a rule (an edit by raw SQL) is never served: an earlier version that
    was live stands in, and the log event ``template_row_invalid`` names it, once. The content
    hash is always that of the content found; where the row has none it is filled in afterwards.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._is_postgres = engine.dialect.name == "postgresql"
        # One state of the book for all statements; SQLite's transactions are like that anyway.
        self._reader = (
            engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            if self._is_postgres
            else engine
        )
        self._writer = writer(engine)
        # An administrator's shell gives up at once where another holds SQLite's write lock.
        self._quick_writer = writer(engine, synced=False)
        self._signal = template_signal(engine)
        self._reported: dict[str, int] = {}
        self._to_seal: list[_Seal] = []
        self._sealing: asyncio.Task[None] | None = None
        self._has_pruned = False
        self._file: sqlite_file.Inode | None = None

    async def epoch(self) -> int:
        """Return a number that grows with every change to what is served; triggers count it."""
        with store_errors("tell whether templates changed"):
            async with self._engine.connect() as connection:
                return await _current_epoch(connection)

    async def changes(self, since: int | None) -> TemplateChanges:
        """Return what changed after epoch ``since``, in one consistent read; None for everything.

        Everything too if ``since`` is newer than the book, or if the file is another one now.
        """
        with store_errors("read the templates"):
            if not self._is_postgres and await self._is_another_file():
                since = None
            async with self._reader.connect() as connection:
                epoch = await _current_epoch(connection)
                full = since is None or since > epoch
                reading = _Reading()
                if full or since != epoch:
                    await _read_rows(connection, None if full else since, reading)
                stale = await self._stand_ins(connection, reading)
                splits = await _read_splits(connection)
        self._seal_later(reading.seals)
        return TemplateChanges(
            epoch=epoch,
            full=full,
            active=sorted(reading.active, key=lambda template: template.template_name),
            gone=sorted(reading.gone),
            splits=splits,
            stale=stale,
        )

    async def changed(self, timeout_s: float) -> None:
        """Return once something may have changed, or after ``timeout_s`` seconds."""
        await self._signal.wait(timeout_s)

    async def pinned(self, template_name: str, version: int) -> PinnedTemplate | None:
        """Return one version, or None if there is none or it breaks a rule."""
        if not storable(template_name) or not 1 <= version <= MAX_VERSION:
            return None
        ever_live = ever_live_versions(template_name).where(events.c.to_version == version).exists()
        statement = select(*content_columns(versions), ever_live.label("ever_live")).where(
            versions.c.template_name == template_name, versions.c.version == version
        )
        with store_errors("read a version of a template"):
            async with self._engine.connect() as connection:
                row = (await connection.execute(statement)).mappings().one_or_none()
        found = None if row is None else parsed(dict(row))
        if row is None or not isinstance(found, Template):
            return None
        return PinnedTemplate(found, ever_live=bool(row["ever_live"]))

    async def seed(self, templates: Sequence[Template], *, at: datetime) -> int:
        """Insert those templates whose name is not there yet; return how many were new.

        Where another template is live for the same key, the operator's choice stands and the
        new one is inserted inactive.
        """
        with store_errors("store templates"):
            return await seed_templates(self._engine, templates, at=at)

    async def acknowledge(
        self, gateway_id: str, *, name: str, epoch: int, active_sha256: str
    ) -> None:
        """Note that a gateway lives and serves the book at ``epoch``; by the database's clock."""
        dialect = postgresql if self._is_postgres else sqlite
        values = {
            "name": name,
            "epoch": epoch,
            "active_sha256": active_sha256,
            "seen_at": utc_now(),
        }
        statement = dialect.insert(gateways).values(gateway_id=gateway_id, **values)
        with store_errors("note what a gateway serves"):
            async with self._quick_writer.begin() as connection:
                await connection.execute(
                    statement.on_conflict_do_update(index_elements=["gateway_id"], set_=values)
                )
                if not self._has_pruned:
                    await _forget_the_dead(connection)
                    self._has_pruned = True

    async def forget(self, gateway_id: str) -> None:
        """Remove a gateway that stops."""
        with store_errors("forget a gateway"):
            async with self._quick_writer.begin() as connection:
                await connection.execute(
                    delete(gateways).where(gateways.c.gateway_id == gateway_id)
                )

    async def close(self) -> None:
        """Finish filling in a few hashes, and let go of the signal's connection."""
        # The next gateway does the rest; a stop is not held up for minutes.
        del self._to_seal[_SEALED_AT_ONCE:]
        sealing, self._sealing = self._sealing, None
        if sealing is not None:
            await sealing
        await self._signal.close()

    async def _is_another_file(self) -> bool:
        file = await asyncio.to_thread(sqlite_file.inode, await database_file(self._engine))
        before, self._file = self._file, file
        return before is not None and before != file

    async def _stand_ins(self, connection: AsyncConnection, reading: _Reading) -> dict[str, int]:
        """Find what serves for each broken row; return the broken versions by name."""
        stale: dict[str, int] = {}
        for row, problem in reading.broken:
            name = str(row["template_name"])
            version = row["version"]
            stale[name] = version if isinstance(version, int) else 0
            self._report(name, stale[name], problem)
            earlier = await _newest_sound(connection, row)
            if earlier is None:
                reading.gone.append(name)
            else:
                reading.active.append(earlier)
        for template in reading.active:
            if template.template_name not in stale:
                self._reported.pop(template.template_name, None)
        return stale

    def _report(self, name: str, version: int, problem: Problem) -> None:
        if self._reported.get(name) == version:
            return
        self._reported[name] = version
        shown = name.encode("utf-8", "replace").decode()[:200]
        _log.warning(
            "template_row_invalid", template_name=shown, version=version, fields=problem.fields
        )

    def _seal_later(self, seals: Sequence[_Seal]) -> None:
        """Fill in hashes while the new text is served already; one such task at a time."""
        # In one order for all gateways, so that none waits for another in a circle.
        self._to_seal += sorted(seals, key=lambda seal: seal.template.template_name)
        if self._to_seal and (self._sealing is None or self._sealing.done()):
            self._sealing = asyncio.create_task(self._seal())

    async def _seal(self) -> None:
        while self._to_seal:
            seals = self._to_seal[:_SEALED_AT_ONCE]
            del self._to_seal[:_SEALED_AT_ONCE]
            try:
                with store_errors("fill in content hashes"):
                    async with self._quick_writer.begin() as connection:
                        if self._is_postgres:
                            # Somebody's open transaction may hold the row for hours.
                            await connection.exec_driver_sql("SET LOCAL lock_timeout = '1s'")
                        await _fill_in(connection, seals)
            except StoreUnavailable as error:
                # Readers compute what is missing; who reads the row next tries again.
                self._to_seal.clear()
                _log.info("template_hashes_not_filled_in", reason=str(error))


async def _current_epoch(connection: AsyncConnection) -> int:
    epoch = (await connection.execute(_epoch)).scalar()
    if epoch is None:
        raise StoreUnavailable("The database has lost its template epoch; restore a backup.")
    return int(epoch)


async def _read_rows(connection: AsyncConnection, since: int | None, reading: _Reading) -> None:
    wanted = rows.c.is_active if since is None else rows.c.changed_epoch > since
    statement = _rows.where(wanted).execution_options(yield_per=_CHUNK)
    async with connection.stream(statement) as result:
        begun = time.perf_counter()
        async for chunk in result.mappings().partitions():
            for found in chunk:
                _take(dict(found), reading)
                if time.perf_counter() - begun > _PARSING_S:
                    # A hundred thousand rows must not hold up the requests meanwhile.
                    await asyncio.sleep(0)
                    begun = time.perf_counter()


def _take(row: Row, reading: _Reading) -> None:
    if not row["is_active"]:
        reading.gone.append(str(row["template_name"]))
        return
    found = parsed(row)
    if isinstance(found, Problem):
        reading.broken.append((row, found))
        return
    reading.active.append(found)
    changed_epoch = row["changed_epoch"]
    if row["content_sha256"] is None and isinstance(changed_epoch, int):
        reading.seals.append(_Seal(found, changed_epoch))


async def _newest_sound(connection: AsyncConnection, row: Row) -> Template | None:
    async with connection.stream(earlier_versions(row)) as result:
        async for earlier in result.mappings():
            template = parsed(dict(earlier))
            if isinstance(template, Template):
                return template
    return None


async def _forget_the_dead(connection: AsyncConnection) -> None:
    """Remove gateways that have not reported for long: killed, they could not say goodbye."""
    now = (await connection.execute(select(type_coerce(utc_now(), UtcDateTime)))).scalar_one()
    await connection.execute(delete(gateways).where(gateways.c.seen_at < now - _DEAD_AFTER))


async def _read_splits(connection: AsyncConnection) -> list[ActiveSplit]:
    found = (await connection.execute(running_splits())).mappings().all()
    splits = []
    for row in map(dict, found):
        candidate = parsed(row)
        if isinstance(candidate, Template):
            splits.append(ActiveSplit(template_split(row, prefix="split_"), candidate))
    return splits


async def _fill_in(connection: AsyncConnection, seals: Sequence[_Seal]) -> None:
    digests = [
        {"of_name": seal.template.template_name, "digest": seal.template.content_sha256}
        for seal in seals
    ]
    await connection.execute(
        _FILL_VERSION,
        [
            {**digest, "of_version": seal.template.version}
            for digest, seal in zip(digests, seals, strict=True)
        ],
    )
    await connection.execute(
        _FILL_ROW,
        [
            {**digest, "of_epoch": seal.changed_epoch}
            for digest, seal in zip(digests, seals, strict=True)
        ],
    )
