"""The only place that builds adapters and hands them to flows."""

import asyncio
import tomllib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

import structlog
from prometheus_client import CollectorRegistry

from onbook.adapters.clock import SystemClock, SystemIds
from onbook.adapters.database.access_key_store import SqlAccessKeyStore
from onbook.adapters.database.engine import create_engine
from onbook.adapters.database.enhancement_log import SqliteEnhancementLog
from onbook.adapters.database.schema import migrate
from onbook.adapters.database.template_store import SqlTemplateStore
from onbook.adapters.files.durable import ensure_data_dir
from onbook.adapters.files.packaged import packaged_lexicon_bytes, packaged_templates
from onbook.adapters.files.secrets import load_or_create_pepper
from onbook.adapters.files.snapshot import FileTemplateSnapshots
from onbook.adapters.files.spool import SpooledEnhancementLog
from onbook.adapters.inference.remote_worker import RemoteWorker
from onbook.adapters.telemetry.metrics import GatewayMetrics
from onbook.adapters.telemetry.observer import TelemetryObserver
from onbook.adapters.tokenizers import counters
from onbook.domain.access import key_hmac
from onbook.domain.content_mode.lexicon import parse_lexicon
from onbook.domain.content_mode.lexicon_detector import LexiconDetector
from onbook.flows.access_keys import KeyRing, issue_key
from onbook.flows.enhance_services import EnhanceServices
from onbook.flows.resolve_template import TemplateBook
from onbook.ports.inference import InferenceWorker
from onbook.ports.stores import AccessKeyStore, StoreUnavailable
from onbook.settings import Settings

_SLOW_TASKS_S: Final = 5.0
_log = structlog.get_logger("onbook.service")


@dataclass(slots=True)
class Service:
    """A gateway's parts, wired together. ``start`` and ``close`` bracket its life."""

    settings: Settings
    enhance: EnhanceServices
    book: TemplateBook
    key_store: AccessKeyStore
    pepper: bytes
    keys: KeyRing
    log: SpooledEnhancementLog
    worker: InferenceWorker
    metrics: GatewayMetrics
    registry: CollectorRegistry
    dispose: Callable[[], Awaitable[None]]
    worker_ready: bool = False
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self) -> None:
        """Load the book, ask for the worker, and keep both up to date from now on."""
        await self.book.refresh()
        await self._look_after()
        self._tasks = [
            asyncio.create_task(self._every(self.settings.template_poll_s, self._refresh)),
            asyncio.create_task(self._every(_SLOW_TASKS_S, self._look_after)),
        ]

    async def close(self) -> None:
        """Stop the background work, commit what is under way, and let go of everything."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.keys.note_use()
        await self.worker.close()
        await self.log.close()
        await self.dispose()

    async def _refresh(self) -> None:
        await self.book.refresh()

    async def _look_after(self) -> None:
        self.worker_ready = await self.worker.ready()
        await self.keys.note_use()
        if self.log.pending:
            with suppress(StoreUnavailable):
                drained = await self.log.drain()
                _log.info("spool.drained", rows=drained, pending=self.log.pending)

    async def _every(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await work()
            except Exception as error:  # noqa: BLE001 - a background task must survive anything
                _log.error("service.background_failed", error_type=type(error).__name__)


async def prepare_database(settings: Settings) -> None:
    """Create or upgrade the database and seed it with templates that it does not have.

    Raises:
        StoreUnavailable: it cannot be used; the message is one sentence.
    """
    ensure_data_dir(settings.data_dir)
    await asyncio.to_thread(migrate, settings.database)
    engine = create_engine(settings.database)
    try:
        await SqlTemplateStore(engine).seed(packaged_templates(), at=SystemClock().now())
    finally:
        await engine.dispose()


def build_service(settings: Settings, worker: InferenceWorker | None = None) -> Service:
    """Build a gateway on ``settings``; without ``worker`` the one at ``worker_url`` serves.

    The database must have been prepared.
    """
    clock, ids = SystemClock(), SystemIds()
    engine = create_engine(settings.database)
    registry = CollectorRegistry()
    metrics = GatewayMetrics(registry)
    snapshots = FileTemplateSnapshots(settings.data_dir / "templates.snapshot.json")
    book = TemplateBook(SqlTemplateStore(engine), snapshots, packaged_templates(), clock)
    metrics.watch(book)
    key_store = SqlAccessKeyStore(engine)
    pepper = pepper_of(settings)
    log = SpooledEnhancementLog(
        SqliteEnhancementLog(settings.database), settings.data_dir / "enhancement_logs.spool"
    )
    worker = worker or _remote_worker(settings)
    return Service(
        settings=settings,
        enhance=EnhanceServices(
            book=book,
            detector=_detector(),
            worker=worker,
            log=log,
            counters=counters(),
            observer=TelemetryObserver(metrics),
            clock=clock,
            ids=ids,
            ceiling=settings.content_ceiling,
            worker_timeout_s=settings.worker_timeout_s,
            require_receipts=settings.require_receipts,
        ),
        book=book,
        key_store=key_store,
        pepper=pepper,
        keys=KeyRing(key_store, pepper=pepper, clock=clock),
        log=log,
        worker=worker,
        metrics=metrics,
        registry=registry,
        dispose=engine.dispose,
    )


async def ensure_first_key(service: Service) -> str | None:
    """Make the first admin key if there is none; return it only if it was generated.

    Raises:
        StoreUnavailable: the keys cannot be read or written.
    """
    given = service.settings.bootstrap_key
    store, clock, ids = service.key_store, service.enhance.clock, service.enhance.ids
    if given is not None:
        plain = given.get_secret_value()
        if await store.by_hmac(key_hmac(plain, service.pepper)) is None:
            await issue_key(
                "bootstrap",
                ["admin"],
                store=store,
                pepper=service.pepper,
                clock=clock,
                ids=ids,
                plain=plain,
            )
        return None
    if any("admin" in key.scopes for key in await store.all()):
        return None
    plain, _ = await issue_key(
        "first admin key", ["admin"], store=store, pepper=service.pepper, clock=clock, ids=ids
    )
    return plain


def pepper_of(settings: Settings) -> bytes:
    """Return the secret that access keys are hashed with; made at the first call.

    Raises:
        SecretUnusable: its file is damaged or cannot be made.
    """
    if settings.key_pepper is not None:
        return settings.key_pepper.get_secret_value().encode()
    return load_or_create_pepper(settings.data_dir)


def _remote_worker(settings: Settings) -> RemoteWorker:
    return RemoteWorker(
        settings.worker_url or "",
        key=settings.worker_key.get_secret_value() if settings.worker_key else None,
        public_key=settings.worker_public_key,
    )


def _detector() -> LexiconDetector:
    data = packaged_lexicon_bytes()
    lexicon = parse_lexicon(tomllib.loads(data.decode()), sha256=sha256(data).hexdigest())
    return LexiconDetector(lexicon)
