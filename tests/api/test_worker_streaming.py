"""Streams, queues and callers who go away, with an engine that gives a piece when told to."""

import asyncio
import json
from collections.abc import Sequence

import msgspec
import pytest

from onbook.wire.canonical import sha256_of_text
from onbook.wire.receipt import Receipt, signature_valid
from onbook.worker.engines.base import (
    EngineError,
    Piece,
    UnsupportedSamplingError,
    UpstreamUnavailableError,
)
from onbook.worker.errors import PurityError
from support_worker import DONE, Bench, RawCall, ScriptedEngine, bench

PIECES = (Piece("one"), Piece(" two"), Piece(" three\n\nevent: done"), Piece("", "stop", 3))
MESSAGES = {"messages": [{"role": "user", "content": "SECRET"}]}
STREAM = json.dumps({**MESSAGES, "stream": True}).encode()
PLAIN = json.dumps(MESSAGES).encode()


async def _next(call: RawCall) -> dict[str, object]:
    async with asyncio.timeout(10):
        return await call.sent.get()


def _event(message: dict[str, object]) -> tuple[str, dict[str, object]]:
    body = message["body"]
    assert isinstance(body, bytes)
    name, data = body.decode().removesuffix("\n\n").split("\n")
    return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


async def _rest(call: RawCall, task: "asyncio.Task[None]") -> list[dict[str, object]]:
    async with asyncio.timeout(10):
        await task
    return [call.sent.get_nowait() for _ in range(call.sent.qsize())]


async def test_each_piece_is_sent_before_the_next_one_is_generated() -> None:
    gate = asyncio.Semaphore(0)
    engine = ScriptedEngine(PIECES, gate=gate)
    async with bench(engine) as worker:
        call = RawCall("/chat", STREAM)
        task = call.start(worker.app)
        gate.release()
        assert (await _next(call))["status"] == 200
        assert _event(await _next(call)) == ("delta", {"text": "one"})
        # The engine stands at its gate: what was sent cannot have waited for the rest.
        assert engine.given == 1
        assert not task.done()
        gate.release()
        assert _event(await _next(call)) == ("delta", {"text": " two"})
        gate.release()
        assert _event(await _next(call)) == ("delta", {"text": " three\n\nevent: done"})
        gate.release()
        last = await _next(call)
        name, done = _event(last)
        await task
        assert (name, last["more_body"]) == ("done", False)
        receipt = msgspec.convert(done["receipt"], Receipt)
        assert signature_valid(receipt, worker.signer.public_key)
        assert done["response"] == "one two three\n\nevent: done"
        assert receipt.output_sha256 == sha256_of_text(str(done["response"]))
        assert (done["finish_reason"], done["tokens_generated"]) == ("stop", 3)
        assert worker.outcomes("chat", "ok") == 1


async def test_enhance_streams_its_own_field() -> None:
    async with bench(ScriptedEngine(PIECES)) as worker:
        call = RawCall("/enhance", STREAM)
        *_, last = await _rest(call, call.start(worker.app))
    done = _event(last)[1]
    assert "response" not in done
    assert str(done["enhanced_prompt"]).startswith("one two")


@pytest.mark.parametrize("body", [STREAM, PLAIN])
@pytest.mark.parametrize("given", [0, 1, 2])
async def test_a_caller_who_goes_away_stops_the_generation_and_frees_the_slot(
    body: bytes, given: int
) -> None:
    gate = asyncio.Semaphore(0)
    engine = ScriptedEngine(PIECES, gate=gate)
    async with bench(engine) as worker:
        call = RawCall("/chat", body)
        task = call.start(worker.app)
        await engine.started.wait()
        for _ in range(given):
            gate.release()
        call.disconnect()
        sent = await _rest(call, task)
        assert engine.closed.is_set()
        assert engine.given <= given
        assert worker.executor.running == worker.executor.waiting == 0
        assert worker.outcomes("chat", "disconnected") == 1
        assert all(b"done" not in bytes(str(message), "utf-8") for message in sent)
        for _ in PIECES:
            gate.release()
        assert (await worker.post("chat", MESSAGES)).status_code == 200


async def test_a_caller_who_goes_away_in_the_queue_never_reaches_the_engine() -> None:
    gate = asyncio.Semaphore(0)
    engine = ScriptedEngine([DONE], gate=gate)
    async with bench(engine) as worker:
        first, second = RawCall("/chat", PLAIN), RawCall("/chat", PLAIN)
        running = first.start(worker.app)
        await engine.started.wait()
        waiting = second.start(worker.app)
        await _until_waiting(worker, 1)
        second.disconnect()
        assert await _rest(second, waiting) == []
        assert worker.executor.waiting == 0
        gate.release()
        assert (await _rest(first, running))[0]["status"] == 200
        assert len(engine.calls) == 1


async def test_a_caller_who_goes_away_within_the_body_is_no_error() -> None:
    async with bench(ScriptedEngine(PIECES)) as worker:
        call = RawCall("/chat", b"{")
        call.incoming.put_nowait({"type": "http.request", "body": b"{", "more_body": True})
        call.disconnect()
        scope = {"type": "http", "method": "POST", "path": "/chat", "headers": []}

        async def send(_message: object) -> None:
            raise AssertionError("nobody is there to be answered")

        await worker.app(scope, call.incoming.get, send)
        assert worker.outcomes("chat", "disconnected") == 1


async def _until_waiting(worker: Bench, count: int) -> None:
    async with asyncio.timeout(10):
        while worker.executor.waiting < count:  # noqa: ASYNC110 - nothing signals the queue's length
            await asyncio.sleep(0)


async def test_a_full_queue_is_429_with_retry_after() -> None:
    gate = asyncio.Semaphore(0)
    engine = ScriptedEngine([DONE], gate=gate)
    async with bench(engine, max_queue=1) as worker:
        running, waiting = RawCall("/chat", PLAIN), RawCall("/chat", PLAIN)
        tasks = [running.start(worker.app)]
        await engine.started.wait()
        tasks.append(waiting.start(worker.app))
        await _until_waiting(worker, 1)
        for body in (MESSAGES, {**MESSAGES, "stream": True}):
            refused = await worker.post("chat", body)
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            assert refused.json()["error_code"] == "RATE_LIMITED"
        info = (await worker.http.get("/worker/info")).json()
        assert (info["running"], info["waiting"], info["max_queue"]) == (1, 1, 1)
        gate.release()
        gate.release()
        for call, task in zip((running, waiting), tasks, strict=True):
            assert (await _rest(call, task))[0]["status"] == 200
        assert worker.executor.running == worker.executor.waiting == 0


async def test_while_draining_what_runs_and_waits_is_finished_and_nothing_new_is_taken() -> None:
    gate = asyncio.Semaphore(0)
    engine = ScriptedEngine(PIECES, gate=gate)
    async with bench(engine) as worker:
        calls = [RawCall("/chat", STREAM), RawCall("/chat", PLAIN)]
        tasks = [calls[0].start(worker.app)]
        await engine.started.wait()
        tasks.append(calls[1].start(worker.app))
        await _until_waiting(worker, 1)
        worker.executor.begin_draining()
        drained = asyncio.create_task(worker.executor.drained(10))
        for _ in range(2):
            refused = await worker.post("chat", MESSAGES)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
            assert refused.json()["error_code"] == "WORKER_UNAVAILABLE"
        health = await worker.http.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "draining")
        assert health.headers["retry-after"] == "5"
        assert not drained.done()
        for _ in range(2 * len(PIECES)):
            gate.release()
        sent = [await _rest(call, task) for call, task in zip(calls, tasks, strict=True)]
        assert _event(sent[0][-1])[0] == "done"
        assert sent[1][0]["status"] == 200
        assert await drained


async def test_draining_does_not_wait_for_ever() -> None:
    gate = asyncio.Semaphore(0)
    engine = ScriptedEngine(PIECES, gate=gate)
    async with bench(engine) as worker:
        call = RawCall("/chat", PLAIN)
        task = call.start(worker.app)
        await engine.started.wait()
        worker.executor.begin_draining()
        assert not await worker.executor.drained(0)
        call.disconnect()
        await _rest(call, task)
        assert await worker.executor.drained(0)


BUGS: Sequence[tuple[Exception, str]] = (
    (EngineError("The engine failed while generating."), "The engine failed."),
    (RuntimeError("SECRET"), "The worker failed."),
    (KeyError("SECRET"), "The worker failed."),
)


@pytest.mark.parametrize(("bug", "sentence"), BUGS)
@pytest.mark.parametrize("before", [0, 1])
async def test_an_engines_failure_is_500_without_any_text(
    bug: Exception, sentence: str, before: int, capsys: pytest.CaptureFixture[str]
) -> None:
    async with bench(ScriptedEngine([*PIECES[:before], bug])) as worker:
        answer = await worker.post("chat", MESSAGES)
        assert answer.status_code == 500
        assert (answer.json()["error_code"], answer.json()["error"]) == ("INTERNAL", sentence)
        assert worker.outcomes("chat", "INTERNAL") == 1
        assert worker.executor.running == 0
    captured = capsys.readouterr()
    assert "SECRET" not in f"{answer.text}{captured.out}{captured.err}"
    assert "worker." in f"{captured.out}{captured.err}"


@pytest.mark.parametrize(("bug", "sentence"), BUGS)
async def test_an_engines_failure_before_the_first_piece_is_500_for_a_stream_too(
    bug: Exception, sentence: str
) -> None:
    async with bench(ScriptedEngine([bug])) as worker:
        answer = await worker.post("chat", {**MESSAGES, "stream": True})
    assert (answer.status_code, answer.json()["error"]) == (500, sentence)


@pytest.mark.parametrize(("bug", "sentence"), BUGS)
async def test_an_engines_failure_within_a_stream_ends_it_with_an_error(
    bug: Exception, sentence: str
) -> None:
    async with bench(ScriptedEngine([PIECES[0], bug])) as worker:
        call = RawCall("/chat", STREAM)
        start, delta, last = await _rest(call, call.start(worker.app))
        assert worker.outcomes("chat", "INTERNAL") == 1
        assert worker.outcomes("chat", "ok") == 0
    assert start["status"] == 200
    assert _event(delta) == ("delta", {"text": "one"})
    name, problem = _event(last)
    assert (name, last["more_body"]) == ("error", False)
    assert (problem["error_code"], problem["error"]) == ("INTERNAL", sentence)
    assert "SECRET" not in str(problem)


@pytest.mark.parametrize(
    ("error", "status", "code", "details"),
    [
        (UpstreamUnavailableError("SECRET"), 503, "WORKER_UNAVAILABLE", None),
        (UnsupportedSamplingError(["min_p"]), 400, "INVALID_PAYLOAD", {"fields": ["min_p"]}),
        (PurityError(12, 11), 502, "PURITY_VIOLATION", None),
    ],
)
async def test_what_an_upstream_brings_about_has_its_code(
    error: Exception, status: int, code: str, details: object
) -> None:
    async with bench(ScriptedEngine([error])) as worker:
        answer = await worker.post("chat", MESSAGES)
        assert (answer.status_code, answer.json()["error_code"]) == (status, code)
        assert answer.json()["details"] == details
        assert answer.headers.get("retry-after") == ("5" if status == 503 else None)
        assert worker.outcomes("chat", code) == 1
        assert worker.executor.running == 0
    assert "SECRET" not in answer.text


async def test_an_engine_that_read_something_else_gives_no_text() -> None:
    engine = ScriptedEngine([Piece("half"), Piece("", "stop", 1, prompt_tokens=1)])
    async with bench(engine) as worker:
        answer = await worker.post("chat", MESSAGES)
        assert (answer.status_code, answer.json()["error_code"]) == (502, "PURITY_VIOLATION")
        assert "half" not in answer.text
        call = RawCall("/chat", STREAM)
        *_, last = await _rest(call, call.start(worker.app))
    name, problem = _event(last)
    assert (name, problem["error_code"]) == ("error", "PURITY_VIOLATION")


async def test_an_upstream_that_is_away_is_seen_in_the_health() -> None:
    engine = ScriptedEngine(PIECES)
    async with bench(engine) as worker:
        assert (await worker.http.get("/health")).status_code == 200
        engine.away = True
        health = await worker.http.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "upstream_away")
        engine.away = False
        assert (await worker.http.get("/health")).status_code == 200


async def test_an_engine_that_stops_without_a_reason_gives_no_result() -> None:
    async with bench(ScriptedEngine([Piece("half")])) as worker:
        answer = await worker.post("chat", MESSAGES)
    assert answer.status_code == 500
    assert "half" not in answer.text
