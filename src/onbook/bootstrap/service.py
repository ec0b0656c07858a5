"""A gateway's parts and its life: following the book, healing, and letting go."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Final

import structlog
from prometheus_client import CollectorRegistry

from onbook.adapters.files.signing_keys import FollowedRing
from onbook.adapters.files.spool import SpooledEnhancementLog
from onbook.adapters.inference.quarantine import WatchedWorker
from onbook.adapters.telemetry.metrics import GatewayMetrics
from onbook.bootstrap.checkpointing import AuditKeeper
from onbook.bootstrap.database import ensure_first_key, prepare_database
from onbook.bootstrap.prepared import Prepared
from onbook.domain.worker_health import StandingState
from onbook.flows.access_keys import KeyRing
from onbook.flows.enhance_services import EnhanceServices
from onbook.flows.resolve_template import TemplateBook
from onbook.flows.template_editing import TemplateEditing
from onbook.ports.stores import AccessKeyStore, StoreUnavailable, TemplateStore
from onbook.ports.template_library import TemplateLibrary
from onbook.settings import Settings
from onbook.wire.signing import KeyRing as SigningKeys
from onbook.wire.signing import Signer

# How often a database that could not be prepared is tried again.
# A gateway counts as live for three of these: see ``TemplateLibrary.gateways``.
_HEARTBEAT_S: Final = 5.0
_SLOW_TASKS_S: Final = 5.0
_log = structlog.get_logger("onbook.service")


@dataclass(frozen=True, slots=True)
class Gateway:
    """One process, as the others see it. ``gateway_id`` is new with every start."""

    gateway_id: str
    name: str


@dataclass(slots=True)
class Service:
    """A gateway's parts, wired together. ``start`` and ``close`` bracket its life.

    ``pause`` waits for some seconds, between two looks and two heartbeats.
    """

    settings: Settings
    gateway: Gateway
    enhance: EnhanceServices
    book: TemplateBook
    store: TemplateStore
    library: TemplateLibrary
    editing: TemplateEditing
    key_store: AccessKeyStore
    pepper: bytes
    keys: KeyRing
    log: SpooledEnhancementLog
    worker: WatchedWorker
    metrics: GatewayMetrics
    registry: CollectorRegistry
    dispose: Callable[[], Awaitable[None]]
    prepared: Prepared
    signing: FollowedRing
    audit: AuditKeeper
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep
    worker_ready: bool = False
    _tell_key: Callable[[str], None] | None = None
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _back: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def ring(self) -> SigningKeys:
        """The keys that this gateway signs with."""
        return self.signing.ring

    def signer(self) -> Signer:
        """Return the one of them that is in use now."""
        return self.signing.signer()

    def worker_state(self) -> StandingState:
        """Tell whether the worker's answers can be used, and if not, why."""
        state = self.worker.standing().state
        if state in ("ok", "unavailable"):
            return "ok" if self.worker_ready else "unavailable"
        return state

    def prepare_later(self, reason: str, *, tell_key: Callable[[str], None]) -> None:
        """Let ``start`` go on without a prepared database, and prepare it when that is possible.

        Args:
            reason: Why it is not prepared, in one sentence.
            tell_key: Shows the first admin key to the operator, should one have to be made then.
        """
        self.prepared.away, self._tell_key = reason, tell_key
        again_s = self.settings.database_retry_s
        _log.warning("database.away_at_start", reason=reason, trying_again_every_s=again_s)

    async def start(self) -> None:
        """Load the book, ask for the worker, and keep both up to date from now on."""
        await self.book.refresh()
        await self._look_after()
        self._tasks = [
            asyncio.create_task(self._live()),
            asyncio.create_task(self._every(0.0, self._look_after_in_time)),
            asyncio.create_task(
                self._every(self.settings.checkpoint_interval_s, self._write_checkpoint)
            ),
        ]

    async def close(self) -> None:
        """Stop the background work, commit what is under way, and let go of everything."""
        async with AsyncExitStack() as last_first:
            # Whatever one of them raises, the others still let go.
            for let_go in (
                self.dispose,
                self.store.close,
                # After the log, so that it names the last rows.
                self._write_last_checkpoint,
                self.log.close,
                self.worker.close,
                self.book.forget,
                self.keys.note_use,
            ):
                last_first.push_async_callback(let_go)
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def read_again(self) -> None:
        """Read the whole book again, whatever the epoch says, and report what is served."""
        if self.prepared.away is None:
            await self._refresh(full=True)
            await self.book.acknowledge()

    async def _live(self) -> None:
        """Prepare the database if that is still to be done; then follow the book."""
        while self.prepared.away is not None:
            await self.pause(self.settings.database_retry_s)
            await self._carefully(self._prepare)
        await asyncio.gather(
            self._every(0.0, self._follow), self._every(_HEARTBEAT_S, self.book.acknowledge)
        )

    async def _prepare(self) -> None:
        try:
            await prepare_database(self.settings)
            # Whoever sees the key finds everything in order.
            await self._refresh()
            first_key = await ensure_first_key(self)
        except StoreUnavailable as error:
            # What is plainly wrong ends a start; a service that runs goes on without it.
            if str(error) != self.prepared.away:
                self.prepared.away = str(error)
                _log.warning("database.still_away", reason=self.prepared.away)
            return
        # Whoever sees the key may use it at once, and not only when the database is next asked.
        await self.keys.keep()
        if first_key is not None and self._tell_key is not None:
            self._tell_key(first_key)
        self.prepared.away = None
        _log.info("database.prepared")
        self._back.set()

    async def _follow(self) -> None:
        if self.book.state().reachable:
            await self.store.changed(self.settings.template_poll_s)
        else:
            # What cannot be reached cannot tell of a change either.
            await self.pause(self.settings.template_poll_s)
        await self._refresh()

    async def _refresh(self, *, full: bool = False) -> None:
        before = self.book.state().reachable
        await self.book.refresh(full=full)
        now = self.book.state()
        if now.reachable and not before:
            _log.info("database.back", templates=now.source)
            # Beside the book: to move many rows takes its time.
            self._back.set()
        elif before and not now.reachable:
            _log.warning("database.away", templates=now.source)

    async def _look_after_in_time(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_SLOW_TASKS_S):
                await self._back.wait()
        self._back.clear()
        await self._look_after()

    async def _look_after(self) -> None:
        await self.worker.ready()
        self.worker_ready = self.worker.standing().healthy
        if self.prepared.away is not None:
            return
        await self.keys.note_use()
        await self.keys.keep()
        await self.audit.note_keys()
        if self.log.pending:
            with suppress(StoreUnavailable):
                drained = await self.log.drain()
                if drained:
                    _log.info("spool.drained", rows=drained, pending=self.log.pending)

    async def _write_checkpoint(self) -> None:
        if self.prepared.away is None:
            await self.audit.write()

    async def _write_last_checkpoint(self) -> None:
        if self.prepared.away is None:
            await self.audit.write_last()

    async def _every(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await self.pause(seconds)
            if not await self._carefully(work):
                # What fails at once must not fail without end.
                await self.pause(self.settings.template_poll_s)

    async def _carefully(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Do ``work``; return whether that worked. A background task must survive anything."""
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - see above
            _log.error("service.background_failed", error_type=type(error).__name__)
            return False
        return True
