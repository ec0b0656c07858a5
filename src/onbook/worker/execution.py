"""One execution: render, generate, sign. Nothing is added, cut, retried or tidied up."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from onbook.wire.receipt import Receipt
from onbook.wire.worker_api import (
    Endpoint,
    FinishReason,
    InferenceRequest,
    ModelInfo,
    effective_sampling,
)
from onbook.worker.engines.base import Engine, EngineError
from onbook.worker.receipts import ReceiptSigner
from onbook.worker.rendering import ChatMl, RawCompletion, Renderer


class ContextOverflowError(Exception):
    """The request does not fit the context; both counts are in tokens."""

    def __init__(self, needed: int, context_size: int) -> None:
        super().__init__(f"{needed} tokens do not fit a context of {context_size}")
        self.needed = needed
        self.context_size = context_size


class BusyError(Exception):
    """The queue is full."""


@dataclass(frozen=True, slots=True)
class Executed:
    """A finished execution. ``seconds`` is the time in the engine, without the queue."""

    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    tokens_generated: int
    seconds: float
    receipt: Receipt


class Executor:
    """Runs requests on one engine, at most ``slots`` at a time, the others in a bounded queue."""

    def __init__(
        self, engine: Engine, signer: ReceiptSigner, chat: ChatMl, *, max_queue: int
    ) -> None:
        self._engine = engine
        self._signer = signer
        self._renderers: dict[Endpoint, Renderer] = {
            "chat": chat,
            "enhance": chat,
            "generate": RawCompletion(engine.text),
        }
        self._slots = asyncio.Semaphore(engine.model.slots or 1)
        self._max_queue = max_queue
        self.waiting = 0
        self.running = 0

    @property
    def model(self) -> ModelInfo:
        """What runs here."""
        return self._engine.model

    async def run(
        self, endpoint: Endpoint, request: InferenceRequest
    ) -> AsyncGenerator[str | Executed, None]:
        """Yield text as it is generated, and last the finished execution.

        Closing the iterator stops the generation and frees the slot.

        Raises:
            BusyError: the queue is full.
            ContextOverflowError: prompt and output do not fit the context.
            ContentNotPlainError: a content cannot be written as plain text.
            GrammarError: the grammar is not valid.
            EngineError: the engine failed.
        """
        sampling = effective_sampling(request, endpoint)
        renderer = self._renderers[endpoint]
        async with self._slot():
            token_ids = await asyncio.to_thread(renderer.render, request.messages)
            needed = len(token_ids) + sampling.max_tokens
            if needed > self._engine.context_size:
                raise ContextOverflowError(needed, self._engine.context_size)
            if not token_ids:
                raise EngineError("The prompt has no tokens.")
            started = time.perf_counter()
            texts: list[str] = []
            reason: FinishReason | None = None
            generated = 0
            pieces = self._engine.generate(token_ids, sampling, request.grammar)
            async with aclosing(pieces):
                async for piece in pieces:
                    if piece.text:
                        texts.append(piece.text)
                        yield piece.text
                    reason = piece.finish_reason or reason
                    generated = piece.tokens_generated or generated
            if reason is None:
                raise EngineError("The engine stopped without a finish reason.")
            output = "".join(texts)
            receipt = self._signer.receipt(
                request,
                sampling=sampling,
                rendering=renderer.name,
                token_ids=token_ids,
                finish_reason=reason,
                output=output,
            )
            yield Executed(
                text=output,
                finish_reason=reason,
                prompt_tokens=len(token_ids),
                tokens_generated=generated,
                seconds=time.perf_counter() - started,
                receipt=receipt,
            )

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        if self.waiting >= self._max_queue:
            raise BusyError
        self.waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1
            self._slots.release()
