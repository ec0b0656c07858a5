"""The stores, as the flows see them. Each has one contract suite that all adapters pass."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from onbook.domain.template_history import ActiveSplit
from onbook.domain.templates import Template


class StoreUnavailable(Exception):
    """The store cannot be reached or cannot do its work; the message holds no request data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateChanges:
    """What a gateway has to take over to serve the state of the book at ``epoch``.

    ``full`` means that ``active`` is everything there is; else ``active`` and ``gone`` are what
    changed. ``splits`` is always everything. ``stale`` names templates whose live version breaks
    a rule, with that version: ``active`` then holds the newest earlier version that was live and
    keeps the rules, or the name is in ``gone`` if there is none.
    """

    epoch: int
    full: bool
    active: Sequence[Template]
    gone: Sequence[str] = ()
    splits: Sequence[ActiveSplit] = ()
    stale: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PinnedTemplate:
    """A version by number. ``ever_live`` False is a draft."""

    template: Template
    ever_live: bool


class TemplateStore(Protocol):
    """The book as a gateway reads it. Each method raises ``StoreUnavailable``."""

    async def epoch(self) -> int:
        """Return a number that grows with every change to what is served: the truth."""

    async def changes(self, since: int | None) -> TemplateChanges:
        """Return what changed after epoch ``since``, in one consistent read; None for everything.

        Everything too if ``since`` is newer than the book (a restored backup).
        """

    async def changed(self, timeout_s: float) -> None:
        """Return once something may have changed, or after ``timeout_s`` seconds.

        Best effort: whoever misses a change finds it by ``epoch``.
        """

    async def pinned(self, template_name: str, version: int) -> PinnedTemplate | None:
        """Return one version, or None if there is none or it breaks a rule."""

    async def seed(self, templates: Sequence[Template], *, at: datetime) -> int:
        """Insert those templates whose name is not there yet; return how many were new.

        One whose key another active template has is inserted inactive. The event's actor is
        ``seed``.
        """

    async def acknowledge(
        self, gateway_id: str, *, name: str, epoch: int, active_sha256: str
    ) -> None:
        """Note that a gateway lives and serves the book at ``epoch``."""

    async def forget(self, gateway_id: str) -> None:
        """Remove a gateway that stops."""

    async def close(self) -> None:
        """Let go of connections of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnhancementRow:
    """One immutable row of ``enhancement_logs``. Times in ms, digests in hexadecimal."""

    id: str
    request_id: str
    created_at: datetime
    function: str
    caller: str
    user_id: str | None = None
    job_type: str | None = None
    template_name: str | None = None
    template_version: int | None = None
    template_sha256: str | None = None
    template_source: str | None = None
    template_split: str | None = None
    content_mode: str
    target: str | None = None
    model_type: str | None = None
    model_used: str | None = None
    worker_id: str | None = None
    strategy: str | None = None
    fallback_level: int | None = None
    cache_hit: bool | None = None
    attempts: int
    execution_time_ms: float
    worker_response_time_ms: float | None = None
    token_count: int | None = None
    token_limit: int | None = None
    tokens_before_compression: int | None = None
    tokenizer: str | None = None
    compression_applied: bool | None = None
    finish_reason: str | None = None
    error_code: str | None = None
    integrity_status: str
    prompt_sha256: str
    messages_sha256: str | None = None
    output_sha256: str | None = None
    seed: int | None = None
    receipt: str | None = None
    decision: str | None = None
    output_steps: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EnhancementTexts:
    """The purgeable half of a row: the texts, and the salt of the row's text digests."""

    request_id: str
    created_at: datetime
    salt: str
    original: str
    messages: str | None
    raw_output: str | None
    enhanced: str | None


class EnhancementLog(Protocol):
    """The audit log."""

    async def record(self, row: EnhancementRow, texts: EnhancementTexts | None) -> None:
        """Commit the row, and its texts, durably before returning.

        Raises:
            StoreUnavailable: nothing was written.
        """

    async def close(self) -> None:
        """Commit what is under way and let go of the database."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessKey:
    """A stored key: its HMAC, never the key itself."""

    key_id: str
    name: str
    key_hmac: str
    scopes: frozenset[str]
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None


class AccessKeyStore(Protocol):
    """Who may call."""

    async def add(self, key: AccessKey) -> None:
        """Store a new key.

        Raises:
            StoreUnavailable: the database cannot be written.
        """

    async def by_hmac(self, key_hmac: str) -> AccessKey | None:
        """Return the key with this HMAC, revoked and expired ones too.

        Raises:
            StoreUnavailable: the database cannot be read.
        """

    async def all(self) -> Sequence[AccessKey]:
        """Return every key, oldest first.

        Raises:
            StoreUnavailable: the database cannot be read.
        """

    async def revoke(self, key_id: str, *, at: datetime) -> bool:
        """Revoke a key; return False if there is none with this id or it already was.

        Raises:
            StoreUnavailable: the database cannot be written.
        """

    async def touch(self, key_ids: Sequence[str], *, at: datetime) -> None:
        """Note when keys were last used; best effort.

        Raises:
            StoreUnavailable: the database cannot be written.
        """


class TemplateSnapshots(Protocol):
    """The last good set of templates, outside the database."""

    def save(self, templates: Sequence[Template], *, at: datetime) -> None:
        """Keep ``templates`` on local disk, replacing the older set in one step."""

    def load(self) -> tuple[Sequence[Template], datetime] | None:
        """Return the last set and when it was good, or None if there is none that is whole."""
