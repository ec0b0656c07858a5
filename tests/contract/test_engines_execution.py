"""The executor over engines that the test holds: slots, the queue, draining, and what is signed."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from onbook.wire.receipt import EffectiveSampling, signature_valid, token_ids_sha256
from onbook.wire.signing import KeyRing, new_ring
from onbook.wire.worker_api import InferenceRequest, Message, ModelInfo
from onbook.worker.engines.base import EngineError, GrammarError, Piece
from onbook.worker.engines.echo import EchoEngine
from onbook.worker.errors import (
    BusyError,
    ChatsOnlyError,
    ContextOverflowError,
    DrainingError,
    PurityError,
)
from onbook.worker.execution import Executed, Executor
from onbook.worker.receipts import ReceiptSigner
from onbook.worker.rendering import (
    CHATML_END,
    CHATML_START,
    ContentNotPlainError,
    PlainText,
    chat_renderer,
)
from support_worker import DONE, ScriptedEngine, user

HELLO = user("hello there")


@dataclass(slots=True)
class _Ring:
    ring: KeyRing

    def rotate(self) -> None:
        self.ring = self.ring.rotated(not_before=datetime.now(UTC))


_FAR = ModelInfo(name="far", engine="far", slots=1)


@dataclass(slots=True)
class _ChatServer:
    """A server that renders by itself and says what it has read."""

    read: int | None
    expected: int | None
    context_size: int | None = 600
    model: ModelInfo = _FAR
    asked: Sequence[Message] = ()

    def expected_prompt_tokens(self, messages: Sequence[Message]) -> int | None:
        del messages
        return self.expected

    async def chat(
        self, messages: Sequence[Message], sampling: EffectiveSampling, grammar: str | None
    ) -> AsyncGenerator[Piece, None]:
        del sampling, grammar
        self.asked = messages
        yield Piece("hi")
        yield Piece("", "stop", 1, self.read)

    async def ready(self) -> bool:
        return True

    async def close(self) -> None:
        return


@pytest.fixture
def ring() -> _Ring:
    return _Ring(new_ring("worker", at=datetime.now(UTC)))


@pytest.fixture
def signer(ring: _Ring) -> ReceiptSigner:
    model = ModelInfo(name="m", engine="e", file_sha256="f" * 64)
    return ReceiptSigner("worker-1", lambda: ring.ring.signer(datetime.now(UTC)), model)


def _over(engine: EchoEngine, signer: ReceiptSigner, max_queue: int = 2) -> Executor:
    return Executor(engine, signer, chat_renderer(engine.text, None), max_queue=max_queue)


async def _run(executor: Executor, request: InferenceRequest = HELLO) -> Executed:
    async with aclosing(executor.run("chat", request)) as steps:
        *_, last = [step async for step in steps]
    assert isinstance(last, Executed)
    return last


async def _settle(executor: Executor, *, running: int, waiting: int) -> None:
    # The rendering is done in a thread, so how many turns it takes is not known.
    for _ in range(1_000_000):
        if (executor.running, executor.waiting) == (running, waiting):
            return
        await asyncio.sleep(0)
    raise TimeoutError


def _held(slots: int = 1) -> tuple[ScriptedEngine, asyncio.Semaphore]:
    gate = asyncio.Semaphore(0)
    return ScriptedEngine([Piece("a"), DONE], gate=gate, slots=slots), gate


async def test_receipts_name_the_key_and_follow_a_rotation(
    ring: _Ring, signer: ReceiptSigner
) -> None:
    executor = _over(EchoEngine(2048), signer)
    first = (await _run(executor)).receipt
    ring.rotate()
    second = (await _run(executor)).receipt
    keys = [key.public_key for key in ring.ring.published]
    assert [signature_valid(first, key) for key in keys] == [True, False]
    assert [signature_valid(second, key) for key in keys] == [False, True]
    assert second.key_id == signer.signer().key_id != first.key_id
    assert first.verification == "token_ids"


async def test_the_queue_is_bounded_and_says_when_to_come_back(signer: ReceiptSigner) -> None:
    engine, gate = _held(slots=2)
    executor = _over(engine, signer, max_queue=3)
    tasks = [asyncio.create_task(_run(executor)) for _ in range(5)]
    await _settle(executor, running=2, waiting=3)
    with pytest.raises(BusyError) as caught:
        await _run(executor)
    assert caught.value.retry_after_s >= 1
    for _ in range(10):
        gate.release()
    assert len(await asyncio.gather(*tasks)) == 5
    assert (executor.running, executor.waiting) == (0, 0)


async def test_a_full_queue_is_estimated_from_what_requests_took(
    signer: ReceiptSigner, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("onbook.worker.execution.time.perf_counter", lambda: now)
    engine, gate = _held()
    executor = _over(engine, signer, max_queue=4)
    first = asyncio.create_task(_run(executor))
    await _settle(executor, running=1, waiting=0)
    now = 7.0
    for _ in range(2):
        gate.release()
    assert (await first).seconds == 7.0
    tasks = [asyncio.create_task(_run(executor)) for _ in range(5)]
    await _settle(executor, running=1, waiting=4)
    with pytest.raises(BusyError) as caught:
        await _run(executor)
    assert caught.value.retry_after_s == 28
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await _settle(executor, running=0, waiting=0)


async def test_a_cancel_in_the_queue_gives_its_place_back(signer: ReceiptSigner) -> None:
    engine, gate = _held()
    executor = _over(engine, signer, max_queue=1)
    running = asyncio.create_task(_run(executor))
    queued = asyncio.create_task(_run(executor))
    await _settle(executor, running=1, waiting=1)
    queued.cancel()
    await _settle(executor, running=1, waiting=0)
    other = asyncio.create_task(_run(executor))
    for _ in range(4):
        gate.release()
    await asyncio.gather(running, other)
    assert len(engine.calls) == 2


@pytest.mark.parametrize(
    "failure",
    [
        EngineError("broken"),
        RuntimeError("a bug"),
        ContentNotPlainError(),
        ContextOverflowError(0, 0),
    ],
    ids=["engine", "bug", "rendering", "overflow"],
)
async def test_every_failure_frees_the_slot(
    signer: ReceiptSigner, failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = HELLO
    engine = ScriptedEngine([Piece("a"), DONE])
    executor = _over(engine, signer, max_queue=1)
    with monkeypatch.context() as patch:
        if isinstance(failure, ContextOverflowError):
            request = user("hello", max_tokens=5000)
        elif isinstance(failure, ContentNotPlainError):

            def refuse(_self: object, _text: str) -> list[int]:
                raise failure

            patch.setattr(type(engine.text), "ids", refuse)
        else:
            engine.steps = [Piece("a"), failure]
        for _ in range(3):
            with pytest.raises(type(failure)):
                await _run(executor, request)
    engine.steps = [Piece("a"), DONE]
    assert (await _run(executor)).text == "a"
    assert (executor.running, executor.waiting) == (0, 0)


async def test_what_does_not_fit_is_told_while_every_slot_is_taken(signer: ReceiptSigner) -> None:
    engine, gate = _held()
    executor = _over(engine, signer)
    running = asyncio.create_task(_run(executor))
    await _settle(executor, running=1, waiting=0)
    with pytest.raises(ContextOverflowError) as caught:
        await _run(executor, user("hello there", max_tokens=3000))
    rendered = len(chat_renderer(engine.text, None).render(HELLO.messages))
    assert (caught.value.needed, caught.value.context_size) == (3000 + rendered, 2048)
    assert len(engine.calls) == 1
    for _ in range(2):
        gate.release()
    await running


async def test_draining_finishes_what_was_taken_and_takes_no_more(signer: ReceiptSigner) -> None:
    engine, gate = _held()
    executor = _over(engine, signer)
    tasks = [asyncio.create_task(_run(executor)) for _ in range(2)]
    await _settle(executor, running=1, waiting=1)
    executor.begin_draining()
    with pytest.raises(DrainingError):
        await _run(executor)
    assert not await executor.drained(0)
    for _ in range(4):
        gate.release()
    assert await executor.drained(5)
    assert all(task.done() or not task.cancelled() for task in tasks)
    assert [item.text for item in await asyncio.gather(*tasks)] == ["a", "a"]


@pytest.mark.parametrize("told", [1, 7, 4000])
async def test_an_engine_that_read_something_else_is_a_violation(
    signer: ReceiptSigner, told: int
) -> None:
    engine = ScriptedEngine([Piece("a"), Piece("", "stop", 1, told)])
    executor = _over(engine, signer)
    expected = len(chat_renderer(engine.text, None).render(HELLO.messages))
    with pytest.raises(PurityError) as caught:
        await _run(executor)
    assert (caught.value.read, caught.value.expected) == (told, expected)


async def test_an_engine_that_read_what_it_was_given_is_signed_for(signer: ReceiptSigner) -> None:
    ids = chat_renderer(EchoEngine(64).text, None).render(HELLO.messages)
    engine = ScriptedEngine([Piece("a"), Piece("", "stop", 1, len(ids))])
    receipt = (await _run(_over(engine, signer))).receipt
    assert (receipt.prompt_tokens, receipt.token_ids_sha256) == (len(ids), token_ids_sha256(ids))


async def test_messages_for_a_server_that_renders_them(ring: _Ring, signer: ReceiptSigner) -> None:
    server = _ChatServer(read=9, expected=9)
    executed = await _run(Executor(server, signer, None, max_queue=1))
    receipt = executed.receipt
    assert server.asked == HELLO.messages
    assert (executed.text, executed.prompt_tokens, receipt.prompt_tokens) == ("hi", 9, 9)
    assert (receipt.verification, receipt.token_ids_sha256) == ("request_only", None)
    assert signature_valid(receipt, ring.ring.published[0].public_key)


async def test_a_server_whose_count_is_not_the_pure_one_is_a_violation(
    signer: ReceiptSigner,
) -> None:
    with pytest.raises(PurityError):
        await _run(Executor(_ChatServer(read=31, expected=10), signer, None, max_queue=1))


async def test_without_a_known_count_the_servers_own_is_stated(signer: ReceiptSigner) -> None:
    executor = Executor(_ChatServer(read=31, expected=None), signer, None, max_queue=1)
    assert (await _run(executor)).receipt.prompt_tokens == 31
    silent = Executor(_ChatServer(read=None, expected=10), signer, None, max_queue=1)
    with pytest.raises(EngineError):
        await _run(silent)


async def test_a_server_that_renders_has_no_raw_completion_and_a_known_context(
    signer: ReceiptSigner,
) -> None:
    executor = Executor(_ChatServer(read=9, expected=9), signer, None, max_queue=1)
    with pytest.raises(ChatsOnlyError):
        await anext(executor.run("generate", HELLO))
    with pytest.raises(ContextOverflowError):
        await _run(executor, user("hello", max_tokens=592))
    assert (executor.running, executor.waiting) == (0, 0)


async def test_a_place_is_held_until_its_rendering_has_really_ended(signer: ReceiptSigner) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow:
        name = "slow"

        def render(self, messages: Sequence[Message]) -> list[int]:
            begun.set()
            assert go_on.wait(20)
            return [7]

    executor = Executor(EchoEngine(2048), signer, Slow(), max_queue=0)
    gone = asyncio.create_task(_run(executor))
    assert await asyncio.to_thread(begun.wait, 20)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert executor.waiting == 1
    with pytest.raises(BusyError):
        await _run(executor)
    go_on.set()
    await _settle(executor, running=0, waiting=0)
    await _run(executor)


async def test_a_cancelled_rendering_stops_at_the_next_text(signer: ReceiptSigner) -> None:
    begun, go_on = threading.Event(), threading.Event()
    read = 0

    def tokenize(_text: str) -> list[int]:
        nonlocal read
        read += 1
        begun.set()
        assert go_on.wait(20)
        return [7]

    engine = EchoEngine(512)
    engine.text = PlainText(tokenize, {CHATML_START: 0, CHATML_END: 1})
    executor = _over(engine, signer)
    gone = asyncio.create_task(_run(executor))
    assert await asyncio.to_thread(begun.wait, 20)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    go_on.set()
    await _settle(executor, running=0, waiting=0)
    assert read == 1


async def test_what_cannot_fit_is_not_tokenised_at_all(signer: ReceiptSigner) -> None:
    engine = EchoEngine(512)
    texts: list[str] = []

    def tokenize(text: str) -> list[int]:
        texts.append(text)
        return [7]

    engine.text = PlainText(tokenize, {CHATML_START: 0, CHATML_END: 1}, longest_token_bytes=10)
    executor = _over(engine, signer)
    with pytest.raises(ContextOverflowError) as caught:
        await _run(executor, user("é" * 2505, max_tokens=12))
    assert (caught.value.needed, caught.value.context_size) == (501 + 12, 512)
    assert texts == []
    await _run(executor, user("é" * 2500, max_tokens=12))
    assert texts


async def test_a_prompt_that_is_too_long_is_counted_as_far_as_it_was_read(
    signer: ReceiptSigner,
) -> None:
    with pytest.raises(ContextOverflowError) as caught:
        await _run(_over(EchoEngine(512), signer), user("four" * 1000, max_tokens=12))
    assert 1000 <= caught.value.needed - 12 <= 1010


async def test_a_grammar_is_checked_before_a_slot_is_taken(signer: ReceiptSigner) -> None:
    engine, _ = _held()
    with pytest.raises(GrammarError):
        await _run(_over(engine, signer), user("a", grammar="root ::= " + "[a-z]? " * 999))
    assert engine.calls == []
