"""Building every part of a gateway and wiring it to the others."""

import os
import socket
import tomllib
import uuid
from functools import partial
from hashlib import sha256
from pathlib import Path

from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from onbook.adapters.clock import SystemClock, SystemIds
from onbook.adapters.database.access_key_store import SqlAccessKeyStore
from onbook.adapters.database.audit_trail import SqlAuditTrail
from onbook.adapters.database.engine import create_engine
from onbook.adapters.database.enhancement_log import enhancement_log
from onbook.adapters.database.template_library import SqlTemplateLibrary
from onbook.adapters.database.template_store import SqlTemplateStore
from onbook.adapters.files.key_snapshot import KEY_SNAPSHOT_FILE, FileKeySnapshots
from onbook.adapters.files.packaged import packaged_lexicon_bytes, packaged_templates
from onbook.adapters.files.signing_keys import (
    GATEWAY_KEYS_FILE,
    FollowedRing,
    load_or_create_gateway_ring,
)
from onbook.adapters.files.snapshot import FileTemplateSnapshots
from onbook.adapters.files.spool import SpooledEnhancementLog
from onbook.adapters.inference.quarantine import WatchedWorker
from onbook.adapters.inference.remote_worker import RemoteWorker
from onbook.adapters.telemetry.metrics import GatewayMetrics
from onbook.adapters.telemetry.observer import TelemetryObserver
from onbook.adapters.tokenizers import counters
from onbook.adapters.tokenizers.gguf_vocabulary import VocabularyUnreadable
from onbook.adapters.tokenizers.prompt_ids import OnlyTheModel, prompt_ids_of
from onbook.bootstrap.checkpointing import AuditKeeper
from onbook.bootstrap.database import pepper_of
from onbook.bootstrap.prepared import LogOncePrepared, Prepared
from onbook.bootstrap.service import Gateway, Service
from onbook.domain.content_mode.decision import ContentModeDetector
from onbook.domain.content_mode.lexicon import parse_lexicon
from onbook.domain.content_mode.lexicon_detector import LexiconDetector
from onbook.flows.access_keys import KeyRing, bootstrap_access_key
from onbook.flows.enhance_services import EnhanceServices
from onbook.flows.evaluate_template import TemplateEvaluator
from onbook.flows.resolve_template import TemplateBook
from onbook.flows.template_editing import TemplateEditing
from onbook.ports.inference import InferenceWorker
from onbook.ports.prompt_ids import PromptIds
from onbook.ports.stores import AccessKeyStore
from onbook.ports.tokenizing import TokenCounters
from onbook.settings import Settings


def build_service(
    settings: Settings,
    worker: InferenceWorker | None = None,
    *,
    name: str | None = None,
    context_size: int | None = None,
    model_file: Path | None = None,
) -> Service:
    """Build a gateway on ``settings``; nothing is opened before ``start``, except the spool.

    Blocking: a model file whose tokenizer is to be held is read here.

    Args:
        settings: The settings.
        worker: Who writes; by default the worker at ``worker_url``.
        name: What others see of this process, ``host:port``; by default ``host:process id``.
        context_size: Tokens of the worker's context, where that is known.
        model_file: The model that ``worker`` runs, where that is a file of this machine.

    Raises:
        DatabaseUnusable: the database URL is wrong.
        VocabularyUnreadable: ``verify_model_path`` is no model file, or another one's.
        SecretUnusable: the pepper or the signing keys cannot be read or made.
    """
    engine = create_engine(settings.database)
    # Editors who wait for each other must not hold every connection that requests need.
    editors = create_engine(settings.database)
    store, library = SqlTemplateStore(engine), SqlTemplateLibrary(editors)
    key_store, pepper = SqlAccessKeyStore(engine), pepper_of(settings)
    signing = followed_gateway_ring(settings)
    gateway = Gateway(str(uuid.uuid4()), name or f"{socket.gethostname()}:{os.getpid()}")
    registry = CollectorRegistry()
    metrics = GatewayMetrics(registry)
    book = _book(settings, store, gateway)
    metrics.watch(book)
    prepared = Prepared()
    log = _log(settings, prepared, signing)
    watched = _watched(settings, worker or _remote_worker(settings, signing), metrics)
    held = _prompt_ids(settings, watched, model_file)
    enhance = _enhance_services(settings, book, watched, log, TelemetryObserver(metrics), held)
    return Service(
        settings=settings,
        gateway=gateway,
        enhance=enhance,
        book=book,
        store=store,
        library=library,
        editing=_editing(settings, library, store, enhance, context_size),
        key_store=key_store,
        pepper=pepper,
        keys=_key_ring(settings, key_store, pepper),
        log=log,
        worker=watched,
        metrics=metrics,
        registry=registry,
        dispose=partial(_dispose, engine, editors),
        prepared=prepared,
        signing=signing,
        audit=AuditKeeper(settings, SqlAuditTrail(engine), signing, watched, SystemClock()),
    )


def _log(settings: Settings, prepared: Prepared, signing: FollowedRing) -> SpooledEnhancementLog:
    return SpooledEnhancementLog(
        LogOncePrepared(enhancement_log(settings.database, signer=signing.signer), prepared),
        settings.data_dir / "enhancement_logs.spool",
    )


def _watched(settings: Settings, worker: InferenceWorker, metrics: GatewayMetrics) -> WatchedWorker:
    watched = WatchedWorker(
        worker,
        quarantine_s=settings.quarantine_s,
        clock=SystemClock(),
        on_violation=metrics.worker_quarantines.inc,
    )
    metrics.watch_worker(watched.standing)
    return watched


def followed_gateway_ring(settings: Settings) -> FollowedRing:
    """Return the keys that this gateway signs with, made at the first start.

    Raises:
        SecretUnusable: the file is damaged, or cannot be read or made.
    """
    ring = load_or_create_gateway_ring(settings.data_dir)
    return FollowedRing(settings.data_dir / GATEWAY_KEYS_FILE, ring, now=SystemClock().now)


def _book(settings: Settings, store: SqlTemplateStore, gateway: Gateway) -> TemplateBook:
    return TemplateBook(
        store,
        FileTemplateSnapshots(settings.data_dir / "templates.snapshot.json"),
        packaged_templates(),
        SystemClock(),
        gateway_id=gateway.gateway_id,
        gateway_name=gateway.name,
    )


def _enhance_services(
    settings: Settings,
    book: TemplateBook,
    worker: InferenceWorker,
    log: SpooledEnhancementLog,
    observer: TelemetryObserver,
    prompt_ids: PromptIds | None,
) -> EnhanceServices:
    return EnhanceServices(
        book=book,
        detector=_detector(),
        worker=worker,
        log=log,
        counters=counters(),
        observer=observer,
        clock=SystemClock(),
        ids=SystemIds(),
        ceiling=settings.content_ceiling,
        worker_timeout_s=settings.worker_timeout_s,
        require_receipts=settings.require_receipts,
        prompt_ids=prompt_ids,
    )


def _prompt_ids(
    settings: Settings, worker: InferenceWorker, model_file: Path | None
) -> PromptIds | None:
    """Load the tokenizer that the gateway holds itself, or what it was told of the model."""
    if model_file is not None and worker.model_sha256 is not None:
        return prompt_ids_of(model_file, model_sha256=worker.model_sha256)
    expected = settings.model_sha256 if settings.worker_url is not None else None
    if settings.verify_model_path is None:
        return None if expected is None else OnlyTheModel(expected)
    held = prompt_ids_of(settings.verify_model_path)
    if expected not in (None, held.model_sha256):
        raise VocabularyUnreadable(
            f"The model {settings.verify_model_path} has the SHA-256 {held.model_sha256}, and not "
            "the one in ONBOOK_MODEL_SHA256; name the same model in both."
        )
    return held


def _key_ring(settings: Settings, store: AccessKeyStore, pepper: bytes) -> KeyRing:
    clock, given = SystemClock(), settings.bootstrap_key
    return KeyRing(
        store,
        pepper=pepper,
        clock=clock,
        snapshots=FileKeySnapshots(settings.data_dir / KEY_SNAPSHOT_FILE, pepper=pepper),
        bootstrap=None
        if given is None
        else bootstrap_access_key(given.get_secret_value(), pepper=pepper, at=clock.now()),
    )


def build_evaluator(
    settings: Settings, worker: InferenceWorker | None, token_counters: TokenCounters
) -> TemplateEvaluator:
    """Build what runs the tests of a template, and nothing of a gateway beside it.

    ``worker`` None is the one at ``worker_url``; whoever calls closes the evaluator's.
    """
    own = worker or _remote_worker(settings, followed_gateway_ring(settings))
    return _evaluator(settings, own, _detector(), token_counters)


def _evaluator(
    settings: Settings,
    worker: InferenceWorker,
    detector: ContentModeDetector,
    token_counters: TokenCounters,
    prompt_ids: PromptIds | None = None,
) -> TemplateEvaluator:
    return TemplateEvaluator(
        worker=worker,
        detector=detector,
        counters=token_counters,
        clock=SystemClock(),
        ids=SystemIds(),
        worker_timeout_s=settings.worker_timeout_s,
        require_receipts=settings.require_receipts,
        prompt_ids=prompt_ids,
    )


def _remote_worker(settings: Settings, signing: FollowedRing) -> RemoteWorker:
    return RemoteWorker(
        settings.worker_url or "",
        key=settings.worker_key.get_secret_value() if settings.worker_key else None,
        public_keys=settings.worker_public_key,
        signer=signing.signer,
        shown=lambda: signing.ring.published,
    )


def _detector() -> LexiconDetector:
    data = packaged_lexicon_bytes()
    lexicon = parse_lexicon(tomllib.loads(data.decode()), sha256=sha256(data).hexdigest())
    return LexiconDetector(lexicon)


async def _dispose(*engines: AsyncEngine) -> None:
    for engine in engines:
        await engine.dispose()


def _editing(
    settings: Settings,
    library: SqlTemplateLibrary,
    store: SqlTemplateStore,
    enhance: EnhanceServices,
    context_size: int | None,
) -> TemplateEditing:
    return TemplateEditing(
        library=library,
        epoch=store.epoch,
        counters=enhance.counters,
        clock=enhance.clock,
        evaluator=_evaluator(
            settings, enhance.worker, enhance.detector, enhance.counters, enhance.prompt_ids
        ),
        context_size=lambda: context_size,
        ceiling=settings.content_ceiling,
    )
