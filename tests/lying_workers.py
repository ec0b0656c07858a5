"""Real workers whose inside lies: the app, the engine's tokenizer and the signatures are real."""

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

import msgspec
from prometheus_client import CollectorRegistry

from onbook.adapters.inference.in_process import InProcessWorker
from onbook.wire.receipt import EffectiveSampling, Receipt, signed
from onbook.wire.signing import new_ring
from onbook.wire.worker_api import Endpoint, InferenceRequest, Message, ModelInfo, WorkerInfo
from onbook.worker.access import Access
from onbook.worker.app import ENDPOINTS, WorkerApp
from onbook.worker.engines.base import Engine, Piece
from onbook.worker.execution import Executed, Executor
from onbook.worker.purity import probe_purity
from onbook.worker.receipts import ReceiptSigner
from onbook.worker.rendering import Renderer, chat_renderer
from support_worker import HeldKeys

SAID = "a cat in a garden, golden hour light, wide angle, warm palette"


@dataclass(frozen=True, slots=True)
class Lies:
    """What is changed inside; each leaves the rest as an honest worker has it.

    ``request`` changes what was asked; ``messages`` what is rendered, ``ids`` what was rendered;
    ``said`` what the engine says; ``statement`` what the receipt states, before the worker signs it
    with its own key; ``answer`` what leaves the worker, after that.
    """

    request: Callable[[InferenceRequest], InferenceRequest] = lambda request: request
    messages: Callable[[Sequence[Message]], Sequence[Message]] = lambda messages: messages
    ids: Callable[[list[int]], list[int]] = lambda ids: ids
    said: Callable[[str], str] = lambda text: text
    statement: Callable[[Receipt], Receipt] = lambda receipt: receipt
    answer: Callable[[Executed], Executed] = lambda executed: executed


@dataclass(slots=True)
class Mask:
    """What the worker's parts look up with each request."""

    lies: Lies = field(default_factory=Lies)


class SpeakingEngine:
    """A real engine's tokenizer and model file; what it says is given, and what it saw is kept."""

    context_size = 100_000

    def __init__(self, real: Engine, mask: Mask) -> None:
        self.text = real.text
        self.chat_template = real.chat_template
        self.model = real.model
        self.saw: list[list[int]] = []
        self._mask = mask

    async def generate(
        self, token_ids: Sequence[int], sampling: EffectiveSampling, grammar: str | None
    ) -> AsyncGenerator[Piece, None]:
        self.saw.append(list(token_ids))
        yield Piece(self._mask.lies.said(SAID))
        yield Piece("", "stop", 12)

    async def ready(self) -> bool:
        return True

    async def close(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class LyingRenderer:
    honest: Renderer
    mask: Mask

    @property
    def name(self) -> str:
        return self.honest.name

    def render(self, messages: Sequence[Message]) -> list[int]:
        lies = self.mask.lies
        return lies.ids(self.honest.render(lies.messages(messages)))


@dataclass(frozen=True, slots=True)
class LyingSigner:
    """States what it is told to, and signs that."""

    honest: ReceiptSigner
    mask: Mask

    def receipt(self, request: InferenceRequest, **execution: Any) -> Receipt:  # noqa: ANN401 - passed on
        stated = self.mask.lies.statement(self.honest.receipt(request, **execution))
        return signed(stated, self.honest.signer().key)


class LyingExecutor(Executor):
    mask: Mask

    async def run(
        self, endpoint: Endpoint, request: InferenceRequest
    ) -> AsyncGenerator[str | Executed, None]:
        lies = self.mask.lies
        async for step in super().run(endpoint, lies.request(request)):
            yield lies.answer(step) if isinstance(step, Executed) else step


@dataclass(frozen=True, slots=True)
class Liar:
    """A worker whose lies a test can change while it runs."""

    caller: InProcessWorker
    engine: SpeakingEngine
    keys: HeldKeys
    honest: Renderer
    worker_id: str
    mask: Mask

    def lie(self, lies: Lies) -> None:
        self.mask.lies = lies

    def take_another_key(self) -> None:
        """Sign with a new ring from now on, which nothing endorses."""
        self.keys.ring = new_ring("worker", at=datetime.now(UTC))


def build_liar(
    real: Engine, *, shown: ModelInfo | None = None, rendering: str | None = None
) -> Liar:
    """Build a worker on ``real``'s tokenizer; it says of itself that it runs ``shown``.

    ``rendering`` is what it calls its way to render, from the start.
    """
    mask, keys = Mask(), HeldKeys()
    engine = SpeakingEngine(real, mask)
    honest = chat_renderer(engine.text, engine.chat_template)
    signer = ReceiptSigner(keys.ring.owner, keys.signer, engine.model)
    lying_signer = cast("ReceiptSigner", LyingSigner(signer, mask))
    executor = LyingExecutor(engine, lying_signer, LyingRenderer(honest, mask), max_queue=8)
    executor.mask = mask
    purity = probe_purity(honest, engine.text, engine.chat_template)
    if rendering is not None:
        purity = msgspec.structs.replace(purity, rendering=rendering)
        mask.lies = stated(rendering=rendering)
    info = WorkerInfo(
        worker_id=signer.worker_id,
        worker_type="chat",
        version="0",
        model=shown or engine.model,
        endpoints=[f"/{name}" for name in ENDPOINTS],
        purity=purity,
        public_key=signer.public_key,
    )
    app = WorkerApp(
        executor,
        info,
        keys=keys,
        access=Access(None),
        engine_ready=engine.ready,
        registry=CollectorRegistry(),
    )
    caller = InProcessWorker(app, app.info, key=None)
    return Liar(caller, engine, keys, honest, signer.worker_id, mask)


def stated(**changes: object) -> Lies:
    """Return the lie of a worker that signs a receipt with these fields, with its own good key."""
    return Lies(statement=lambda receipt: msgspec.structs.replace(receipt, **changes))
