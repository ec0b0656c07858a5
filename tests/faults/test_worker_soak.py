"""Thousands of requests, a part of them given up, refused or failing: nothing may be left over."""

import asyncio
import gc
import os
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from onbook.wire.receipt import EffectiveSampling
from onbook.worker.engines.base import EngineError, Piece
from onbook.worker.engines.echo import EchoEngine
from support_worker import Bench, RawCall, bench, packaged_llama

_PAGE = os.sysconf("SC_PAGE_SIZE")
_POOL = 2
# Growth of resident memory after the warm-up, as a share.
_GROWTH = 0.05
_FAILING = "this one fails"


class _FailingEcho(EchoEngine):
    """Fails in the middle of the requests that ask for it, and is slow enough to be left."""

    async def generate(
        self, token_ids: Sequence[int], sampling: EffectiveSampling, grammar: str | None
    ) -> AsyncGenerator[Piece, None]:
        async for piece in super().generate(token_ids, sampling, grammar):
            await asyncio.sleep(0)
            if _FAILING in piece.text:
                raise EngineError("The engine failed.")
            yield piece


async def _fill_pool() -> None:
    """Give the loop threads of a known number, all of them started: the pool grows by chance."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_POOL))
    together = threading.Barrier(_POOL)
    await asyncio.gather(*(asyncio.to_thread(together.wait) for _ in range(_POOL)))


def _resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_bytes().split()[1]) * _PAGE


async def _ask(worker: Bench, number: int, content: str, max_tokens: int) -> str:
    """Send request ``number``, of the kind that its number says; return the outcome."""
    kind = number % 8
    body: dict[str, object] = {
        "messages": [{"role": "user", "content": f"{content} {number}"}],
        "max_tokens": max_tokens,
        "seed": number,
        "stream": kind in (1, 5),
    }
    if kind == 2:
        body["messages"] = [{"role": "user", "content": f"{_FAILING} {number}"}]
    if kind == 3:
        body["max_tokens"] = 30_000
    if kind in (4, 5):
        return await _leave(worker, body, steps=number // 8 % 3)
    answer = await worker.post("chat", body)
    return str(answer.status_code)


async def _leave(worker: Bench, body: dict[str, object], *, steps: int) -> str:
    """Send a request and go away after some turns of the loop."""
    request = worker.http.build_request("POST", "/chat", json=body)
    headers = [(name.lower(), value) for name, value in request.headers.raw]
    call = RawCall("/chat", request.read(), headers)
    task = call.start(worker.app)
    for _ in range(steps * 4):
        await asyncio.sleep(0)
    call.disconnect()
    await task
    return "left"


async def _rounds(worker: Bench, numbers: range, content: str, max_tokens: int) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    for start in range(numbers.start, numbers.stop, 8):
        some = range(start, min(start + 8, numbers.stop))
        outcomes.update(
            await asyncio.gather(*(_ask(worker, item, content, max_tokens) for item in some))
        )
    return outcomes


async def _check_nothing_left(worker: Bench, tasks: int, threads: int) -> None:
    assert (worker.executor.running, worker.executor.waiting) == (0, 0)
    assert len(asyncio.all_tasks()) <= tasks
    assert threading.active_count() <= threads


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
async def test_two_thousand_requests_leave_no_memory_no_task_and_no_slot() -> None:
    await _fill_pool()
    engine = _FailingEcho(2048)
    async with bench(engine, max_queue=8) as worker:
        await _rounds(worker, range(400), "a fox in the rain", 32)
        tasks, threads, before = len(asyncio.all_tasks()), threading.active_count(), _resident()
        outcomes = await _rounds(worker, range(400, 2400), "a fox in the rain", 32)
        await _check_nothing_left(worker, tasks, threads)
        assert _resident() <= before * (1 + _GROWTH)
        assert outcomes["500"] == outcomes["400"] == 250
        assert outcomes["left"] == 500
        assert outcomes["200"] == 1000
        assert worker.outcomes("chat", "disconnected") > 0


@pytest.mark.model
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_the_real_engine_leaves_nothing_either() -> None:
    with packaged_llama(slots=2, context_size=512) as engine:

        async def soak() -> None:
            await _fill_pool()
            async with bench(engine, max_queue=8) as worker:
                await _rounds(worker, range(32), "a fox", 2)
                tasks, threads = len(asyncio.all_tasks()), threading.active_count()
                before = _resident()
                outcomes = await _rounds(worker, range(32, 112), "a fox", 2)
                await _check_nothing_left(worker, tasks, threads)
                assert _resident() <= before * (1 + _GROWTH)
                assert outcomes["400"] == 10
                assert outcomes["left"] == 20
                assert outcomes["200"] == 50

        asyncio.run(soak())
