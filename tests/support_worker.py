"""A worker over an engine that the test holds in its hand, reached without a socket."""

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

import httpx
import msgspec
import pytest
import uvicorn
from prometheus_client import CollectorRegistry

from onbook.wire.http_signatures import RequestVerifier
from onbook.wire.receipt import EffectiveSampling, Receipt
from onbook.wire.signing import KeyRing, PublishedKey, Signer, new_ring
from onbook.wire.worker_api import InferenceRequest, Message, WorkerInfo
from onbook.worker.access import Access
from onbook.worker.app import ENDPOINTS, WorkerApp
from onbook.worker.engines.base import Engine, Piece
from onbook.worker.engines.echo import EchoEngine
from onbook.worker.engines.llama_cpp import LlamaCppEngine, start_llama_cpp
from onbook.worker.execution import Executor
from onbook.worker.model_file import packaged_model
from onbook.worker.purity import probe_purity
from onbook.worker.receipts import ReceiptSigner
from onbook.worker.rendering import chat_renderer

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from starlette.types import ASGIApp

DONE = Piece("", "stop", 3)


class ScriptedEngine(EchoEngine):
    """Gives the pieces (or raises the errors) that the test says, each when it is released.

    ``gate`` None gives everything at once. ``closed`` counts generators that were closed early.
    """

    def __init__(
        self,
        steps: Sequence[Piece | Exception] = (),
        *,
        gate: asyncio.Semaphore | None = None,
        slots: int = 1,
        context_size: int = 2048,
    ) -> None:
        super().__init__(context_size)
        self.model = msgspec.structs.replace(
            self.model,
            slots=slots,
            file_sha256="f" * 64,
            chat_template_sha256="c" * 64,
        )
        self.steps = steps
        self.gate = gate
        self.calls: list[tuple[list[int], EffectiveSampling, str | None]] = []
        self.given = 0
        self.away = False
        self.closed = asyncio.Event()
        self.started = asyncio.Event()

    async def generate(
        self, token_ids: Sequence[int], sampling: EffectiveSampling, grammar: str | None
    ) -> AsyncGenerator[Piece, None]:
        self.calls.append((list(token_ids), sampling, grammar))
        self.started.set()
        try:
            for step in self.steps:
                if self.gate is not None:
                    await self.gate.acquire()
                if isinstance(step, Exception):
                    raise step
                self.given += 1
                yield step
        finally:
            self.closed.set()

    async def ready(self) -> bool:
        return not self.away


class HeldKeys:
    """A ring that the test holds in its hand; a new key of it is in use at once."""

    def __init__(self) -> None:
        self.ring: KeyRing = new_ring("worker", at=datetime.now(UTC))

    @property
    def published(self) -> list[PublishedKey]:
        return self.ring.published

    def signer(self) -> Signer:
        return self.ring.signer(datetime.now(UTC))

    def rotate(self) -> None:
        self.ring = self.ring.rotated(not_before=datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class Bench:
    """A worker's application with its parts, and a client that calls it in process."""

    app: WorkerApp
    engine: Engine
    executor: Executor
    signer: ReceiptSigner
    keys: HeldKeys
    registry: CollectorRegistry
    http: httpx.AsyncClient
    asked: dict[str, object] = field(
        default_factory=lambda: {"messages": [{"role": "user", "content": "hello there"}]}
    )

    async def post(self, endpoint: str, body: object, **headers: str) -> httpx.Response:
        return await self.http.post(f"/{endpoint}", json=body, headers=headers)

    def outcomes(self, endpoint: str, outcome: str) -> float:
        labels = {"endpoint": endpoint, "outcome": outcome}
        return self.registry.get_sample_value("onbook_worker_requests_total", labels) or 0.0


@asynccontextmanager
async def bench(
    engine: Engine | None = None,
    *,
    key: str | None = None,
    max_queue: int = 8,
    verifier: RequestVerifier | None = None,
) -> AsyncIterator[Bench]:
    """Wire a worker around ``engine``, by default an echo with a context of 2,048 tokens."""
    engine = engine or EchoEngine(2048)
    chat = chat_renderer(engine.text, engine.chat_template)
    keys = HeldKeys()
    signer = ReceiptSigner(keys.ring.owner, keys.signer, engine.model)
    executor = Executor(engine, signer, chat, max_queue=max_queue)
    info = WorkerInfo(
        worker_id=signer.worker_id,
        worker_type="chat",
        version="0",
        model=engine.model,
        endpoints=[f"/{name}" for name in ENDPOINTS],
        purity=probe_purity(chat, engine.text, engine.chat_template),
        public_key=signer.public_key,
        max_queue=max_queue,
    )
    registry = CollectorRegistry()
    app = WorkerApp(
        executor,
        info,
        keys=keys,
        access=Access(key, verifier),
        engine_ready=engine.ready,
        registry=registry,
    )
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        yield Bench(app, engine, executor, signer, keys, registry, http)


class _Server(uvicorn.Server):
    """Leaves the signals to whoever runs the tests."""

    def capture_signals(self) -> "AbstractContextManager[None]":  # type: ignore[override]  # the base's is a generator
        return nullcontext()


@asynccontextmanager
async def over_loopback(app: "ASGIApp") -> AsyncIterator[str]:
    """Serve ``app`` on a real port of this machine, and give its URL."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        # Whoever connects before the server is up waits for it.
        listener.listen()
        config = uvicorn.Config(
            app, http="httptools", lifespan="off", log_config=None, access_log=False
        )
        server = _Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving


def receipt_of(answer: httpx.Response) -> Receipt:
    return msgspec.convert(answer.json()["receipt"], Receipt)


def user(content: str, **sampling: object) -> InferenceRequest:
    return msgspec.convert({"messages": [Message("user", content)], **sampling}, InferenceRequest)


@dataclass(slots=True)
class RawCall:
    """One request over bare ASGI: the test feeds messages in and sees each one come out."""

    path: str
    body: bytes
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    sent: asyncio.Queue[dict[str, object]] = field(default_factory=asyncio.Queue)
    incoming: asyncio.Queue[dict[str, object]] = field(default_factory=asyncio.Queue)

    def start(self, app: WorkerApp) -> "asyncio.Task[None]":
        scope = {"type": "http", "method": "POST", "path": self.path, "headers": self.headers}
        self.incoming.put_nowait({"type": "http.request", "body": self.body, "more_body": False})

        async def send(message: object) -> None:
            self.sent.put_nowait(cast("dict[str, object]", message))

        return asyncio.create_task(app(scope, self.incoming.get, send))

    def disconnect(self) -> None:
        self.incoming.put_nowait({"type": "http.disconnect"})


@contextmanager
def packaged_llama(*, slots: int = 2, context_size: int = 2048) -> Iterator[LlamaCppEngine]:
    """Load the packaged model, on one thread, or skip the test that wants it."""
    path = packaged_model()
    if path is None:
        pytest.skip("the packaged model is not installed")
    engine = start_llama_cpp(
        path,
        context_size=context_size,
        slots=slots,
        threads=1,
        prompt_cache_mib=0,
        expected_sha256=None,
    )
    try:
        yield engine
    finally:
        asyncio.run(engine.close())
