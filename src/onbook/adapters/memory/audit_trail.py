"""The audit log in memory, as whoever checks it sees it."""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime

from onbook.ports.audit import (
    AuditedRow,
    LogCounts,
    SigningKey,
    StoredCheckpoint,
    TemplateEvent,
    TemplateEvidence,
)
from onbook.ports.stores import EnhancementTexts, StoreUnavailable
from onbook.wire.audit_chain import GENESIS, Head
from onbook.wire.signing import key_id_of

_MAX_SEQ = 2**53 - 1


class MemoryAuditTrail:
    """``ports.AuditTrail`` in memory; whoever has it may edit what it holds.

    ``available`` False makes every call fail, as an outage would.
    """

    def __init__(self) -> None:
        self.available = True
        self.stored: list[AuditedRow] = []
        self.kept_texts: dict[str, EnhancementTexts] = {}
        self.kept_events: list[TemplateEvent] = []
        self.templates: dict[tuple[str, int], TemplateEvidence] = {}
        self.kept_checkpoints: dict[int, StoredCheckpoint] = {}
        self.keys: dict[str, SigningKey] = {}

    async def heads(self) -> Sequence[Head]:
        """Return where each chain ends now."""
        self._check()
        found: dict[str, Head] = {}
        for row in self._chained():
            head = found.get(row.chain_id or "")
            if head is None or (row.seq or 0) > head.seq:
                found[row.chain_id or ""] = Head(
                    chain_id=row.chain_id or "", seq=row.seq or 0, row_hash=row.row_hash or GENESIS
                )
        return [found[chain_id] for chain_id in sorted(found)]

    async def counts(self) -> LogCounts:
        """Return how many rows and texts there are."""
        requests = {row.request_id for row in self.stored}
        return LogCounts(
            rows=len(self.stored),
            unchained=await self.unchained_rows(),
            orphaned_texts=len(self.kept_texts.keys() - requests),
        )

    async def unchained_rows(self) -> int:
        """Return how many rows have no ``chain_id``."""
        self._check()
        return sum(row.chain_id is None for row in self.stored)

    async def events(self, *, after: int = 0) -> AsyncIterator[TemplateEvent]:
        """Yield the events of templates in order of position."""
        self._check()
        for event in sorted(self.kept_events, key=lambda event: event.position):
            if event.position > after:
                yield event

    async def rows(self, chain_id: str, *, after: int = 0) -> AsyncIterator[AuditedRow]:
        """Yield the rows of a chain in order of ``seq``; ``after`` 0 is from the beginning."""
        self._check()
        in_chain = [row for row in self._chained() if row.chain_id == chain_id]
        for row in sorted(in_chain, key=lambda row: (row.seq or 0, str(row.content["id"]))):
            if not after or (row.seq or 0) > after:
                yield row

    async def unchained(self) -> AsyncIterator[AuditedRow]:
        """Yield the rows that are in no sound place, oldest first."""
        self._check()
        placed = set(map(id, self._chained()))
        loose = [row for row in self.stored if id(row) not in placed]
        for row in sorted(loose, key=lambda row: str(row.content["created_at"])):
            yield row

    async def row(self, request_id: str) -> AuditedRow | None:
        """Return the row of a request, or None."""
        self._check()
        return next((row for row in self.stored if row.request_id == request_id), None)

    async def texts(self, request_ids: Sequence[str]) -> Mapping[str, EnhancementTexts]:
        """Return the texts of those requests that still have them."""
        self._check()
        return {name: self.kept_texts[name] for name in request_ids if name in self.kept_texts}

    async def template(
        self, name: str, version: int, *, before: datetime
    ) -> TemplateEvidence | None:
        """Return a version; its event only if that was not after ``before``."""
        self._check()
        found = self.templates.get((name, version))
        if found is None or found.event is None:
            return found
        if datetime.fromisoformat(str(found.event["created_at"])) <= before:
            return found
        return TemplateEvidence(
            content=found.content, content_sha256=found.content_sha256, event=None
        )

    async def checkpoints(self, *, after: int = 0) -> AsyncIterator[StoredCheckpoint]:
        """Yield the checkpoints in order of ``number``; ``after`` 0 is from the beginning."""
        self._check()
        for number in sorted(self.kept_checkpoints):
            if not after or number > after:
                yield self.kept_checkpoints[number]

    async def last_checkpoint(self) -> StoredCheckpoint | None:
        """Return the checkpoint with the highest number, or None."""
        self._check()
        return self.kept_checkpoints[max(self.kept_checkpoints)] if self.kept_checkpoints else None

    async def add_checkpoint(self, checkpoint: StoredCheckpoint) -> bool:
        """Store it; return False if its number is taken."""
        self._check()
        if checkpoint.number in self.kept_checkpoints:
            return False
        self.kept_checkpoints[checkpoint.number] = checkpoint
        return True

    async def signing_keys(self) -> Sequence[SigningKey]:
        """Return every public key that is known, oldest first."""
        self._check()
        return list(self.keys.values())

    async def add_signing_keys(self, keys: Sequence[SigningKey], *, at: datetime) -> None:  # noqa: ARG002 - the port's signature
        """Store those that are not there yet."""
        self._check()
        for key in keys:
            public = key.published.public_key
            self.keys.setdefault(
                public,
                SigningKey(
                    role=key.role,
                    owner=key.owner,
                    published=key.published,
                    key_id=key_id_of(public),
                ),
            )

    async def close(self) -> None:
        """Let go of nothing."""

    def _chained(self) -> Sequence[AuditedRow]:
        return [
            row
            for row in self.stored
            if row.chain_id is not None and row.seq is not None and 1 <= row.seq <= _MAX_SEQ
        ]

    def _check(self) -> None:
        if not self.available:
            raise StoreUnavailable("The audit log is switched off.")
