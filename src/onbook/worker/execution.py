"""One execution: render, wait for a slot, generate, sign. Nothing is added, cut or retried."""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from typing import Final, cast

from onbook.wire.gbnf import GrammarInvalid, check_grammar
from onbook.wire.receipt import EffectiveSampling, Receipt
from onbook.wire.worker_api import (
    Endpoint,
    FinishReason,
    InferenceRequest,
    Message,
    ModelInfo,
    effective_sampling,
)
from onbook.worker.engines.base import ChatEngine, Engine, EngineError, GrammarError, Piece
from onbook.worker.errors import (
    BusyError,
    ChatsOnlyError,
    ContextOverflowError,
    DrainingError,
    PurityError,
)
from onbook.worker.receipts import ReceiptSigner
from onbook.worker.rendering import (
    Budget,
    RawCompletion,
    Renderer,
    TooManyTokensError,
    spending,
)

# How much the newest duration weighs in the estimate of the next ones.
_NEWEST: Final = 0.2
_LONGEST_WAIT_S: Final = 3600
# Rendering is Python for the most part, so that more threads would not be faster.
_RENDERING_THREADS: Final = 2


@dataclass(frozen=True, slots=True)
class Executed:
    """A finished execution. ``seconds`` is the time in the engine, without the queue."""

    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    tokens_generated: int
    seconds: float
    receipt: Receipt


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What the engine is to be given. ``expected`` tokens, None where nobody can tell.

    ``token_ids`` None: the messages themselves go to the engine.
    """

    rendering: str
    token_ids: list[int] | None
    expected: int | None
    start: Callable[[], AsyncGenerator[Piece, None]]


# Blocking: it runs in a thread, and stops soon once its budget is cancelled.
_Prepare = Callable[[InferenceRequest, EffectiveSampling, Budget], _Prepared]


class Executor:
    """Runs requests on one engine, at most ``slots`` at a time, the others in a bounded queue.

    Args:
        engine: Takes token ids, or the messages themselves where ``chat`` is None.
        signer: Signs the receipts.
        chat: Renders the messages of ``/chat`` and ``/enhance``; ``/generate`` is raw.
        max_queue: Requests that may wait, besides those that a free slot will take at once.
    """

    def __init__(
        self,
        engine: Engine | ChatEngine,
        signer: ReceiptSigner,
        chat: Renderer | None,
        *,
        max_queue: int,
    ) -> None:
        self._engine = engine
        self._signer = signer
        self._prepare = _ways(engine, chat)
        self._slot_count = engine.model.slots or 1
        self._slots = asyncio.Semaphore(self._slot_count)
        self._rendering = ThreadPoolExecutor(_RENDERING_THREADS, thread_name_prefix="render")
        self.max_queue = max_queue
        self.waiting = 0
        self.running = 0
        self.draining = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._seconds: float | None = None

    @property
    def model(self) -> ModelInfo:
        """What runs here."""
        return self._engine.model

    def begin_draining(self) -> None:
        """Take nothing new from now on; what runs or waits is finished."""
        self.draining = True

    async def drained(self, timeout_s: float) -> bool:
        """Wait until nothing runs or waits; tell whether it came to that within ``timeout_s``."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def run(
        self, endpoint: Endpoint, request: InferenceRequest
    ) -> AsyncGenerator[str | Executed, None]:
        """Yield text as it is generated, and last the finished execution.

        Closing the iterator stops the generation, or the waiting, and frees the slot.

        Raises:
            DrainingError: the worker is stopping.
            BusyError: the queue is full.
            ContextOverflowError: prompt and output do not fit the context.
            ContentNotPlainError: a content cannot be written as plain text.
            MessagesNotRenderableError: the model's family has no form for these turns.
            ChatsOnlyError: ``/generate`` on a server that renders messages itself.
            GrammarError: the grammar is not valid.
            UnsupportedSamplingError: the engine cannot draw tokens in the way that was asked.
            PurityError: the engine read something else than what was sent.
            EngineError: the engine failed.
        """
        sampling = effective_sampling(request, endpoint)
        with self._place() as place:
            # Before the slot: what cannot be run at all needs not to wait for one.
            prepared = await self._prepared(self._prepare[endpoint], request, sampling, place)
            await self._slots.acquire()
            try:
                place.take_slot()
                started = time.perf_counter()
                output = _Output(prepared.expected)
                async with aclosing(prepared.start()) as pieces:
                    async for piece in pieces:
                        if text := output.add(piece):
                            yield text
                seconds = time.perf_counter() - started
                self._observe(seconds)
                yield self._executed(request, sampling, prepared, output, seconds)
            finally:
                self._slots.release()

    async def _prepared(
        self,
        prepare: _Prepare,
        request: InferenceRequest,
        sampling: EffectiveSampling,
        place: "_Place",
    ) -> _Prepared:
        budget = Budget(self._engine.context_size)
        work = self._rendering.submit(prepare, request, sampling, budget)
        place.hold_until(work)
        try:
            return await asyncio.wrap_future(work)
        finally:
            budget.cancelled = True

    def _executed(
        self,
        request: InferenceRequest,
        sampling: EffectiveSampling,
        prepared: _Prepared,
        output: "_Output",
        seconds: float,
    ) -> Executed:
        if output.reason is None:
            raise EngineError("The engine stopped without a finish reason.")
        if prepared.token_ids is not None:
            prompt_tokens = len(prepared.token_ids)
        elif output.prompt_tokens is not None:
            prompt_tokens = output.prompt_tokens
        else:
            raise EngineError("The upstream does not say how many tokens it has read.")
        text = "".join(output.texts)
        receipt = self._signer.receipt(
            request,
            sampling=sampling,
            rendering=prepared.rendering,
            prompt_tokens=prompt_tokens,
            token_ids=prepared.token_ids,
            finish_reason=output.reason,
            output=text,
        )
        return Executed(text, output.reason, prompt_tokens, output.generated, seconds, receipt)

    @contextmanager
    def _place(self) -> Iterator["_Place"]:
        if self.draining:
            raise DrainingError
        if self.running + self.waiting >= self._slot_count + self.max_queue:
            raise BusyError(self._retry_after_s())
        place = _Place(self)
        try:
            yield place
        finally:
            place.leave()

    def count(self, *, waiting: int, running: int) -> None:
        """Count requests in and out."""
        self.waiting += waiting
        self.running += running
        if self.waiting or self.running:
            self._idle.clear()
        else:
            self._idle.set()

    def _observe(self, seconds: float) -> None:
        known = self._seconds
        self._seconds = seconds if known is None else known + _NEWEST * (seconds - known)

    def _retry_after_s(self) -> int:
        each = self._seconds or 1.0
        return min(_LONGEST_WAIT_S, max(1, math.ceil(each * self.waiting / self._slot_count)))


class _Place:
    """A request's place: first among those that wait, then among those that run."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._running = False
        self._loop = asyncio.get_running_loop()
        self._work: Future[_Prepared] | None = None
        executor.count(waiting=1, running=0)

    def hold_until(self, work: "Future[_Prepared]") -> None:
        """Keep the place until ``work`` has ended, also where nobody waits for it any more."""
        self._work = work

    def take_slot(self) -> None:
        self._executor.count(waiting=-1, running=1)
        self._running = True

    def leave(self) -> None:
        if self._running:
            self._executor.count(waiting=0, running=-1)
        elif self._work is None or self._work.done():
            self._left_queue()
        else:
            # Work that has not begun is done as soon as it is cancelled.
            self._work.add_done_callback(self._work_ended)

    def _work_ended(self, _work: "Future[_Prepared]") -> None:
        # With the loop closed there is no queue any more.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._left_queue)

    def _left_queue(self) -> None:
        self._executor.count(waiting=-1, running=0)


class _Output:
    """What came out so far."""

    def __init__(self, expected: int | None) -> None:
        self._expected = expected
        self.texts: list[str] = []
        self.reason: FinishReason | None = None
        self.generated = 0
        self.prompt_tokens: int | None = None

    def add(self, piece: Piece) -> str:
        """Take ``piece`` in and return its text."""
        if piece.prompt_tokens is not None:
            if self._expected is not None and piece.prompt_tokens != self._expected:
                raise PurityError(piece.prompt_tokens, self._expected)
            self.prompt_tokens = piece.prompt_tokens
        if piece.text:
            self.texts.append(piece.text)
        self.reason = piece.finish_reason or self.reason
        self.generated = piece.tokens_generated or self.generated
        return piece.text


def _ways(engine: Engine | ChatEngine, chat: Renderer | None) -> dict[Endpoint, _Prepare]:
    if chat is None:
        turns = _by_messages(cast("ChatEngine", engine))
        return {"chat": turns, "enhance": turns, "generate": _no_raw_completion}
    by_ids = cast("Engine", engine)
    turns = _by_token_ids(by_ids, chat)
    raw = _by_token_ids(by_ids, RawCompletion(by_ids.text))
    return {"chat": turns, "enhance": turns, "generate": raw}


def _no_raw_completion(
    _request: InferenceRequest, _sampling: EffectiveSampling, _budget: Budget
) -> _Prepared:
    raise ChatsOnlyError(
        "The server behind this worker takes chats only: it has no raw completion."
    )


def _by_token_ids(engine: Engine, renderer: Renderer) -> _Prepare:
    def prepare(
        request: InferenceRequest, sampling: EffectiveSampling, budget: Budget
    ) -> _Prepared:
        _check_grammar(request.grammar)
        _check_size(request.messages, sampling, engine)
        try:
            with spending(budget):
                token_ids = renderer.render(request.messages)
        except TooManyTokensError as error:
            needed = error.found + sampling.max_tokens
            raise ContextOverflowError(needed, engine.context_size) from None
        _check_fit(len(token_ids), sampling, engine.context_size)
        if not token_ids:
            raise EngineError("The prompt has no tokens.")
        return _Prepared(
            renderer.name,
            token_ids,
            len(token_ids),
            lambda: engine.generate(token_ids, sampling, request.grammar),
        )

    return prepare


def _by_messages(engine: ChatEngine) -> _Prepare:
    def prepare(
        request: InferenceRequest, sampling: EffectiveSampling, budget: Budget
    ) -> _Prepared:
        _check_grammar(request.grammar)
        messages: Sequence[Message] = request.messages
        # Its context is checked below, with what the server's own template adds.
        budget.max_ids = None
        with spending(budget):
            expected = engine.expected_prompt_tokens(messages)
        if expected is not None and engine.context_size is not None:
            _check_fit(expected, sampling, engine.context_size)
        return _Prepared(
            "upstream",
            None,
            expected,
            lambda: engine.chat(messages, sampling, request.grammar),
        )

    return prepare


def _check_grammar(grammar: str | None) -> None:
    if grammar is None:
        return
    try:
        check_grammar(grammar)
    except GrammarInvalid as error:
        raise GrammarError(str(error)) from None


def _check_size(messages: Sequence[Message], sampling: EffectiveSampling, engine: Engine) -> None:
    """Refuse contents that cannot fit however well they are tokenised, before they are."""
    longest = engine.text.longest_token_bytes
    if longest is None:
        return
    size = sum(len(message.content.encode("utf-8", "surrogatepass")) for message in messages)
    _check_fit(math.ceil(size / longest), sampling, engine.context_size)


def _check_fit(prompt_tokens: int, sampling: EffectiveSampling, context_size: int) -> None:
    needed = prompt_tokens + sampling.max_tokens
    if needed > context_size:
        raise ContextOverflowError(needed, context_size)
