"""The audit log as whoever checks it sees it."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from onbook.ports.stores import EnhancementTexts
from onbook.wire.audit_chain import Head
from onbook.wire.signing import PublishedKey

Role = Literal["gateway", "worker"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditedRow:
    """One row of the log as it is now. ``content`` is what ``content_sha256`` is taken of.

    The chain's columns are None in a row from before there was a chain, or one that came by raw
    SQL, and only there: what is stored and is of no use is something that was never written.
    """

    content: Mapping[str, object]
    chain_id: str | None
    seq: int | None
    prev_hash: str | None
    group_end: int | None
    row_hash: str | None
    signing_key_id: str | None
    head_signature: str | None

    @property
    def request_id(self) -> str:
        """Which request the row is about."""
        return str(self.content["request_id"])

    @property
    def chained(self) -> bool:
        """Whether anything is said of its place in a chain, of use or not."""
        return any(
            value is not None
            for value in (
                self.chain_id,
                self.seq,
                self.prev_hash,
                self.group_end,
                self.row_hash,
                self.signing_key_id,
                self.head_signature,
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LogCounts:
    """How many rows there are, in no chain, and how many texts of a request that has no row."""

    rows: int
    unchained: int
    orphaned_texts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCheckpoint:
    """A signed checkpoint; ``body`` is the canonical JSON that was signed."""

    number: int
    created_at: datetime
    body: str
    body_sha256: str
    signing_key_id: str
    signature: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A public key that has signed something here, and whose it is.

    ``key_id`` is what is stored; "" stands for the one that follows from the key.
    """

    role: Role
    owner: str
    published: PublishedKey
    key_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateEvent:
    """One event of the templates; ``content`` has every column of it."""

    position: int
    content: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateEvidence:
    """What the database says of one template version: its content, and how it went live.

    ``content`` has the fields that ``content_sha256`` of a template is taken of. The event's
    fields are those of ``template_events``.
    """

    content: Mapping[str, object]
    content_sha256: str | None
    event: Mapping[str, object] | None


class AuditTrail(Protocol):
    """Reads what can be checked, and writes checkpoints. Methods raise ``StoreUnavailable``."""

    async def heads(self) -> Sequence[Head]:
        """Return where each chain ends now, by the highest sound ``seq`` that is there."""

    async def counts(self) -> LogCounts:
        """Return how many rows and texts there are, however they came there."""

    async def unchained_rows(self) -> int:
        """Return how many rows have no ``chain_id``."""

    def rows(self, chain_id: str, *, after: int = 0) -> AsyncIterator[AuditedRow]:
        """Yield the rows of a chain in order of ``seq``, beginning behind ``after``."""

    def unchained(self) -> AsyncIterator[AuditedRow]:
        """Yield every row that ``rows`` yields for no chain, oldest first.

        A row is in a place if its ``chain_id`` is a text and its ``seq`` from 1 to 2**53 - 1.
        """

    def events(self, *, after: int = 0) -> AsyncIterator[TemplateEvent]:
        """Yield the events of templates in order of position, beginning behind ``after``."""

    async def row(self, request_id: str) -> AuditedRow | None:
        """Return the row of a request, or None."""

    async def texts(self, request_ids: Sequence[str]) -> Mapping[str, EnhancementTexts]:
        """Return the texts of those requests that still have them."""

    async def template(
        self, name: str, version: int, *, before: datetime
    ) -> TemplateEvidence | None:
        """Return a version, and the newest event up to ``before`` that made it live."""

    def checkpoints(self, *, after: int = 0) -> AsyncIterator[StoredCheckpoint]:
        """Yield the checkpoints in order of ``number``, beginning behind ``after``."""

    async def last_checkpoint(self) -> StoredCheckpoint | None:
        """Return the checkpoint with the highest number, or None."""

    async def add_checkpoint(self, checkpoint: StoredCheckpoint) -> bool:
        """Store it; return False if another process has taken its number."""

    async def signing_keys(self) -> Sequence[SigningKey]:
        """Return every public key that is known, oldest first."""

    async def add_signing_keys(self, keys: Sequence[SigningKey], *, at: datetime) -> None:
        """Store those that are not there yet."""

    async def close(self) -> None:
        """Let go of the database."""
