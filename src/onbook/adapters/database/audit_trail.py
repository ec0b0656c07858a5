"""The audit log as whoever checks it sees it, in the database."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, cast

from sqlalchemy import RowMapping, Select, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from onbook.adapters.database.audit_queries import (
    COUNTS,
    UNCHAINED,
    exactly,
    heads_query,
    misplaced,
    placed,
    plain,
    raw,
)
from onbook.adapters.database.audit_rows import (
    STORED_COLUMNS,
    row_reader,
    stored_number,
    stored_text,
    stored_time,
)
from onbook.adapters.database.engine import writer
from onbook.adapters.database.guard import store_errors
from onbook.adapters.database.tables import (
    audit_checkpoints,
    enhancement_logs,
    enhancement_texts,
    signing_keys,
)
from onbook.adapters.database.template_rows import (
    content_columns,
    events,
    parsed,
    storable,
    versions,
)
from onbook.domain.template_lifecycle import EVER_LIVE
from onbook.domain.templates import Template, content_mapping
from onbook.ports.audit import (
    AuditedRow,
    LogCounts,
    Role,
    SigningKey,
    StoredCheckpoint,
    TemplateEvent,
    TemplateEvidence,
)
from onbook.ports.stores import EnhancementTexts
from onbook.wire.audit_chain import Head
from onbook.wire.signing import PublishedKey, key_id_of

# Few enough that a batch is a few megabytes, enough that its query is not what takes the time.
BATCH: Final = 1000
# Below what either database allows as parameters of one statement.
_NAMES: Final = 500

_log: Final = enhancement_logs
_READ: Final = "read the audit log"


class SqlAuditTrail:
    """``ports.AuditTrail`` on SQLAlchemy Core; rows are read in batches of ``BATCH``.

    What a row holds comes as it is stored, however it got there: also a number in a column of
    texts, which SQLite allows, and bytes that are no UTF-8.

    Args:
        engine: The engine; it is the caller's to dispose of.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._writer = writer(engine)
        self._dialect = engine.dialect.name
        self._rows = plain(enhancement_logs, self._dialect, *STORED_COLUMNS)
        self._read: Callable[[Sequence[object]], AuditedRow] = row_reader(engine.dialect.name)

    async def heads(self) -> Sequence[Head]:
        """Return where each chain ends now, by the highest sound ``seq`` that is there."""
        with store_errors(_READ):
            async with self._engine.connect() as connection:
                found = (await connection.execute(heads_query(self._dialect))).all()
        return [
            Head(chain_id=chain_id, seq=seq, row_hash=stored_text(row_hash) or "")
            for chain_id, seq, row_hash in found
            if isinstance(chain_id, str) and isinstance(seq, int)
        ]

    async def counts(self) -> LogCounts:
        """Return how many rows and texts there are, however they came there."""
        with store_errors(_READ):
            async with self._engine.connect() as connection:
                rows, loose, texts = (await connection.execute(COUNTS)).one()
        return LogCounts(rows=rows, unchained=loose, orphaned_texts=texts)

    async def unchained_rows(self) -> int:
        """Return how many rows have no ``chain_id``."""
        with store_errors(_READ):
            async with self._engine.connect() as connection:
                return int((await connection.execute(UNCHAINED)).scalar_one())

    async def rows(self, chain_id: str, *, after: int = 0) -> AsyncIterator[AuditedRow]:
        """Yield the rows of a chain in order of ``seq``; ``after`` 0 is from the beginning."""
        of_chain = exactly(chain_id, self._dialect)
        if of_chain is None:
            return
        in_chain = self._rows.where(raw(_log.c.chain_id) == of_chain, placed(self._dialect))
        in_order = in_chain.order_by(_log.c.seq, _log.c.id).limit(BATCH)
        beyond = in_order.where(_log.c.seq > after) if after else in_order
        while True:
            with store_errors(_READ):
                async with self._engine.connect() as connection:
                    found = (await connection.execute(beyond)).all()
            for row in found:
                yield self._read(row)
            if len(found) < BATCH:
                return
            seq, row_id = (exactly(value, self._dialect) for value in (found[-1].seq, found[-1].id))
            # By the id too: where the index was dropped, two rows may have one number.
            number, identity = raw(_log.c.seq), raw(_log.c.id)
            beyond = in_order.where(number >= seq, (number > seq) | (identity > row_id))

    async def unchained(self) -> AsyncIterator[AuditedRow]:
        """Yield every row that ``rows`` yields for no chain, oldest first."""
        loose = self._rows.where(misplaced(self._dialect))
        with store_errors(_READ):
            async with (
                self._engine.connect() as connection,
                connection.stream(
                    loose.order_by(_log.c.created_at, _log.c.id),
                    execution_options={"yield_per": BATCH},
                ) as found,
            ):
                async for row in found:
                    yield self._read(row)

    async def events(self, *, after: int = 0) -> AsyncIterator[TemplateEvent]:
        """Yield the events of templates in order of position, beginning behind ``after``."""
        in_order = plain(events, self._dialect).order_by(events.c.position).limit(BATCH)
        while True:
            found = await self._all(in_order.where(events.c.position > after), "read the events")
            for row in found:
                yield TemplateEvent(position=row["position"], content=dict(row))
            if len(found) < BATCH:
                return
            after = found[-1]["position"]

    async def row(self, request_id: str) -> AuditedRow | None:
        """Return the row of a request, or None."""
        if not storable(request_id):
            return None
        with store_errors(_READ):
            async with self._engine.connect() as connection:
                found = (
                    await connection.execute(
                        self._rows.where(_log.c.request_id == request_id).limit(1)
                    )
                ).one_or_none()
        return None if found is None else self._read(found)

    async def texts(self, request_ids: Sequence[str]) -> Mapping[str, EnhancementTexts]:
        """Return the texts of those requests that still have them."""
        names = [name for name in request_ids if storable(name)]
        found: dict[str, EnhancementTexts] = {}
        for start in range(0, len(names), _NAMES):
            wanted = enhancement_texts.c.request_id.in_(names[start : start + _NAMES])
            kept = plain(enhancement_texts, self._dialect).where(wanted)
            for row in await self._all(kept, "read the texts"):
                found[row["request_id"]] = _texts(row)
        return found

    async def template(
        self, name: str, version: int, *, before: datetime
    ) -> TemplateEvidence | None:
        """Return a version, and the newest event up to ``before`` that made it live."""
        if not storable(name):
            return None
        stored = select(*content_columns(versions), versions.c.content_sha256).where(
            versions.c.template_name == name, versions.c.version == version
        )
        went_live = (
            plain(events, self._dialect)
            .where(
                events.c.template_name == name,
                events.c.to_version == version,
                events.c.action.in_(EVER_LIVE),
                events.c.created_at <= before,
            )
            .order_by(events.c.position.desc())
            .limit(1)
        )
        found = await self._all(stored, "read a template")
        if not found:
            return None
        event = await self._all(went_live, "read a template")
        template = parsed(dict(found[0]))
        return TemplateEvidence(
            # What breaks a rule has no content that was ever served.
            content=content_mapping(template) if isinstance(template, Template) else {},
            content_sha256=found[0]["content_sha256"],
            event=dict(event[0]) if event else None,
        )

    async def checkpoints(self, *, after: int = 0) -> AsyncIterator[StoredCheckpoint]:
        """Yield the checkpoints in order of ``number``; ``after`` 0 is from the beginning."""
        number = audit_checkpoints.c.number
        in_order = plain(audit_checkpoints, self._dialect).order_by(number).limit(BATCH)
        beyond = in_order.where(number > after) if after else in_order
        while True:
            found = await self._all(beyond, "read the checkpoints")
            for row in found:
                yield _checkpoint(row)
            if len(found) < BATCH:
                return
            beyond = in_order.where(raw(number) > exactly(found[-1]["number"], self._dialect))

    async def last_checkpoint(self) -> StoredCheckpoint | None:
        """Return the checkpoint with the highest number, or None."""
        newest = (
            plain(audit_checkpoints, self._dialect)
            .order_by(audit_checkpoints.c.number.desc())
            .limit(1)
        )
        found = await self._all(newest, "read the checkpoints")
        return _checkpoint(found[0]) if found else None

    async def add_checkpoint(self, checkpoint: StoredCheckpoint) -> bool:
        """Store it; return False if another process has taken its number."""
        taken = select(audit_checkpoints.c.number).where(
            audit_checkpoints.c.number == checkpoint.number
        )
        values = {
            column.name: getattr(checkpoint, column.name) for column in audit_checkpoints.columns
        }
        with store_errors("store the checkpoint"):
            try:
                async with self._writer.begin() as connection:
                    # Asked first, because a trigger refuses the second one in words of its own.
                    if (await connection.execute(taken)).first() is not None:
                        return False
                    await connection.execute(insert(audit_checkpoints).values(**values))
            except IntegrityError:
                return False
        return True

    async def signing_keys(self) -> Sequence[SigningKey]:
        """Return every public key that is known, oldest first."""
        known = plain(signing_keys, self._dialect).order_by(
            signing_keys.c.first_seen_at, signing_keys.c.not_before, signing_keys.c.public_key
        )
        return [
            SigningKey(
                role=cast(Role, row["role"]),
                owner=stored_text(row["owner"]) or "",
                published=PublishedKey(
                    public_key=stored_text(row["public_key"]) or "",
                    not_before=stored_text(row["not_before"]) or "",
                    endorsed_by=stored_text(row["endorsed_by"]),
                    endorsement=stored_text(row["endorsement"]),
                ),
                key_id=stored_text(row["key_id"]) or "",
            )
            for row in await self._all(known, "read the signing keys")
        ]

    async def add_signing_keys(self, keys: Sequence[SigningKey], *, at: datetime) -> None:
        """Store those that are not there yet."""
        for key in keys:
            known = select(signing_keys.c.key_id).where(
                signing_keys.c.public_key == key.published.public_key
            )
            values = {
                "public_key": key.published.public_key,
                "key_id": key_id_of(key.published.public_key),
                "role": key.role,
                "owner": key.owner,
                "not_before": key.published.not_before,
                "endorsed_by": key.published.endorsed_by,
                "endorsement": key.published.endorsement,
                "first_seen_at": at,
            }
            with store_errors("store the signing keys"):
                try:
                    async with self._writer.begin() as connection:
                        if (await connection.execute(known)).first() is None:
                            await connection.execute(insert(signing_keys).values(**values))
                except IntegrityError:
                    # Another process was faster.
                    continue

    async def close(self) -> None:
        """Let go of nothing: the engine is the caller's."""

    async def _all(self, statement: Select[*tuple[Any, ...]], action: str) -> Sequence[RowMapping]:
        with store_errors(action):
            async with self._engine.connect() as connection:
                return list((await connection.execute(statement)).mappings())


def _texts(row: RowMapping) -> EnhancementTexts:
    return EnhancementTexts(
        request_id=row["request_id"],
        created_at=stored_time(row["created_at"]),
        salt=stored_text(row["salt"]) or "",
        original=stored_text(row["original"]) or "",
        messages=stored_text(row["messages"]),
        raw_output=stored_text(row["raw_output"]),
        enhanced=stored_text(row["enhanced"]),
    )


def _checkpoint(row: RowMapping) -> StoredCheckpoint:
    return StoredCheckpoint(
        number=stored_number(row["number"]) or 0,
        created_at=stored_time(row["created_at"]),
        body=stored_text(row["body"]) or "",
        body_sha256=stored_text(row["body_sha256"]) or "",
        signing_key_id=stored_text(row["signing_key_id"]) or "",
        signature=stored_text(row["signature"]) or "",
    )
