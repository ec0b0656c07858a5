"""The worker beside the bare engine: tokens per second, and how soon the first token comes."""

import asyncio
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.engines import TRANSFORMERS, Ran, Subject, conversation, subjects
from onbook.wire.worker_api import InferenceRequest
from onbook.worker.model_file import packaged_model

_CONCURRENT: Final = (1, 4)
_REQUESTS: Final = {1: 2, 4: 4}
_MAX_TOKENS: Final = 64
_SUBJECTS: Final = ("fox", "ship", "castle", "chef", "caravan", "robot", "tower", "piano")
_WORDS: Final = ("light", "camera", "palette", "texture", "setting", "mood", "weather", "lens")
_SYSTEM: Final = "You rewrite short image ideas into rich prompts. " + " ".join(
    f"Rule {number}: mention {word} of the scene, with a plain noun and one adjective."
    for number, word in enumerate(_WORDS, 1)
)


class Throughput(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens per second over all requests; ratios are to the bare engine in the same round.

    ``cpu_ms`` is CPU time per token, which other processes of the machine disturb less.
    """

    subject: str
    concurrent: int
    tokens_per_s: float
    ratio: float
    ratio_best: float
    cpu_ms: float


@dataclass(frozen=True, slots=True)
class _Slice:
    tokens_per_s: float
    cpu_ms: float


class FirstToken(msgspec.Struct, frozen=True, kw_only=True):
    """Median time to the first text in ms: warm system prompt, and prefix cache off."""

    subject: str
    warm_ms: float
    cache_off_ms: float | None


class WorkerFigures(msgspec.Struct, kw_only=True):
    """What this part measures. ``skipped`` says what could not be."""

    throughput: list[Throughput]
    first_token: list[FirstToken]
    skipped: list[str]


def measure_worker(*, rounds: int) -> WorkerFigures:
    """Measure all that can be started here, in alternating slices."""
    figures = WorkerFigures(throughput=[], first_token=[], skipped=[])
    model = packaged_model()
    if model is None:
        figures.skipped.append("the worker: the packaged model is not installed")
    else:
        asyncio.run(_measure(figures, model, rounds))
    return figures


def print_worker(console: Console, figures: WorkerFigures) -> None:
    """Print the tables."""
    speed = Table(title="Tokens per second (median of the rounds; best in brackets)")
    speed.add_column("subject")
    for column in ("concurrent", "tokens/s", "times the bare engine", "CPU ms/token"):
        speed.add_column(column, justify="right")
    for item in figures.throughput:
        speed.add_row(
            item.subject,
            str(item.concurrent),
            f"{item.tokens_per_s:.1f}",
            f"{item.ratio:.3f} ({item.ratio_best:.3f})",
            f"{item.cpu_ms:.2f}",
        )
    console.print(speed)
    first = Table(title="Time to the first text")
    first.add_column("subject")
    for column in ("warm system prompt ms", "prefix cache off ms"):
        first.add_column(column, justify="right")
    for found in figures.first_token:
        off = "" if found.cache_off_ms is None else f"{found.cache_off_ms:.0f}"
        first.add_row(found.subject, f"{found.warm_ms:.0f}", off)
    console.print(first)
    for reason in figures.skipped:
        console.print(f"not measured: {reason}", style="yellow")


async def _measure(figures: WorkerFigures, model: Path, rounds: int) -> None:
    threads = max(1, (os.cpu_count() or 2) - 1)
    async with subjects(model, threads=threads) as found:
        if not any(subject.name == "transformers" for subject in found):
            figures.skipped.append(f"transformers: {TRANSFORMERS} names no Python that has it")
        load = _requests()
        for subject in found:
            # Every slot, so that all of them hold the system prompt.
            await _slice(subject, [next(load) for _ in range(4)], 4)
        for concurrent in _CONCURRENT:
            figures.throughput += await _throughput(found, load, concurrent, rounds)
        figures.first_token = await _first_tokens(found, load, rounds)


async def _throughput(
    found: Sequence[Subject], load: Iterator[InferenceRequest], concurrent: int, rounds: int
) -> list[Throughput]:
    slices: list[list[_Slice]] = [[] for _ in found]
    for number in range(rounds):
        requests = [next(load) for _ in range(_REQUESTS[concurrent])]
        # Who goes first changes, so that no subject always has the quiet moments.
        for place in range(len(found)):
            at = (place + number) % len(found)
            slices[at].append(await _slice(found[at], requests, concurrent))
    return [
        _throughput_of(subject.name, concurrent, own, slices[0])
        for subject, own in zip(found, slices, strict=True)
    ]


def _throughput_of(
    subject: str, concurrent: int, own: Sequence[_Slice], bare: Sequence[_Slice]
) -> Throughput:
    return Throughput(
        subject=subject,
        concurrent=concurrent,
        tokens_per_s=median(item.tokens_per_s for item in own),
        ratio=median(
            mine.tokens_per_s / other.tokens_per_s for mine, other in zip(own, bare, strict=True)
        ),
        ratio_best=max(item.tokens_per_s for item in own) / max(item.tokens_per_s for item in bare),
        cpu_ms=median(item.cpu_ms for item in own),
    )


async def _slice(subject: Subject, requests: Sequence[InferenceRequest], concurrent: int) -> _Slice:
    """Run ``requests``, that many at a time."""
    free = asyncio.Semaphore(concurrent)

    async def one(request: InferenceRequest) -> Ran:
        async with free:
            return await subject.run(request)

    started, cpu = time.perf_counter(), subject.cpu_seconds()
    ran = await asyncio.gather(*(one(request) for request in requests))
    tokens = sum(item.tokens for item in ran)
    seconds, used = time.perf_counter() - started, subject.cpu_seconds() - cpu
    return _Slice(tokens / seconds, used / tokens * 1000)


async def _first_tokens(
    found: Sequence[Subject], load: Iterator[InferenceRequest], rounds: int
) -> list[FirstToken]:
    warm: list[list[float]] = [[] for _ in found]
    off: list[list[float]] = [[] for _ in found]
    for _ in range(2 * rounds):
        request = msgspec.structs.replace(next(load), max_tokens=2)
        for subject, mine, without in zip(found, warm, off, strict=True):
            ran = await subject.run(request)
            if ran.first_s is None:
                continue
            if subject.name.startswith("bare"):
                mine.append(ran.first_s)
                without.append((await subject.run(request, cached=False)).first_s or 0.0)
            elif subject.name == "transformers":
                # It has no cache between requests.
                without.append(ran.first_s)
            else:
                mine.append(ran.first_s)
    return [
        FirstToken(
            subject=subject.name,
            warm_ms=median(mine or without) * 1000,
            cache_off_ms=median(without) * 1000 if without else None,
        )
        for subject, mine, without in zip(found, warm, off, strict=True)
        if mine or without
    ]


def _requests() -> Iterator[InferenceRequest]:
    """Yield requests of one system prompt, every one another idea."""
    for number in count():
        idea = f"a {_SUBJECTS[number % len(_SUBJECTS)]} number {number} in the snow at dawn"
        yield conversation(_SYSTEM, idea, max_tokens=_MAX_TOKENS, seed=number)
