"""Building a worker: load the model, test that it runs purely, and only then take requests."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from prometheus_client import CollectorRegistry

from onbook import __version__
from onbook.wire.worker_api import WorkerInfo
from onbook.worker.app import ENDPOINTS, WorkerApp
from onbook.worker.engines.base import Engine, EngineStartError
from onbook.worker.engines.echo import EchoEngine
from onbook.worker.execution import Executor
from onbook.worker.identity import load_or_create_key, worker_id_of
from onbook.worker.model_file import PACKAGED_SHA256, packaged_model
from onbook.worker.purity import probe_purity
from onbook.worker.receipts import ReceiptSigner
from onbook.worker.rendering import UnsupportedModelError, chat_renderer

if TYPE_CHECKING:
    from onbook.settings import Settings

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker that is ready: its application, its engine (to be closed) and its metrics."""

    app: WorkerApp
    engine: Engine
    registry: CollectorRegistry

    async def close(self) -> None:
        """Free the model."""
        await self.engine.close()


def build_worker(settings: "Settings", *, progress: Progress) -> Worker:
    """Load the model that ``settings`` name and return the worker. Blocking.

    Raises:
        EngineStartError: the model cannot be loaded, or cannot be run purely.
        IdentityError: the worker's key cannot be read or made.
    """
    key = load_or_create_key(settings.data_dir)
    engine = _engine(settings, progress)
    try:
        chat = chat_renderer(engine.text, engine.chat_template)
    except UnsupportedModelError as error:
        raise EngineStartError(f"{error} Use a ChatML model (Qwen2.5, Qwen3, SmolLM2).") from error
    purity = probe_purity(chat)
    if not purity.passed:
        raise EngineStartError(
            f"The model failed the purity self-test ({'; '.join(purity.failures)}); "
            "use another model."
        )
    signer = ReceiptSigner(worker_id_of(key), key, engine.model)
    executor = Executor(engine, signer, chat, max_queue=settings.max_queue)
    worker_key = settings.worker_key.get_secret_value() if settings.worker_key else None
    info = WorkerInfo(
        worker_id=signer.worker_id,
        worker_type="chat",
        version=__version__,
        model=engine.model,
        endpoints=[f"/{name}" for name in ENDPOINTS],
        purity=purity,
        public_key=signer.public_key,
    )
    registry = CollectorRegistry()
    app = WorkerApp(executor, info, key=worker_key, registry=registry)
    return Worker(app, engine, registry)


def _engine(settings: "Settings", progress: Progress) -> Engine:
    name: Literal["llama_cpp", "echo"] = settings.worker_engine
    if name == "echo":
        progress("Starting the echo engine: no model, it repeats what it is given.")
        return EchoEngine(settings.context_size)
    from onbook.worker.engines.llama_cpp import (  # noqa: PLC0415 - the echo engine needs none of it
        start_llama_cpp,
    )

    path, expected = _model_file(settings)
    progress(f"Loading the model {path.name} …")
    return start_llama_cpp(
        path,
        context_size=settings.context_size,
        slots=settings.slots,
        threads=settings.threads,
        prompt_cache_mib=settings.prompt_cache_mib,
        expected_sha256=expected,
    )


def _model_file(settings: "Settings") -> tuple[Path, str | None]:
    if settings.model_path is not None:
        return settings.model_path, settings.model_sha256
    path = packaged_model()
    if path is None:
        raise EngineStartError(
            "The packaged model is not installed; run 'make install', or set ONBOOK_MODEL_PATH to "
            "a GGUF file."
        )
    return path, settings.model_sha256 or PACKAGED_SHA256
