"""Each step of the way of a request, alone, in this process: where the time goes."""

import asyncio
import json
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

import msgspec
import uvloop
from pydantic import SecretStr

from benchmarks import workload
from benchmarks.data import prepare_data
from benchmarks.stub_worker import SigningWorker
from onbook.adapters.inference.answers import completion_from
from onbook.adapters.telemetry.logs import configure_logging
from onbook.bootstrap import Service, build_service, ensure_first_key
from onbook.domain.enhancement import Caller, EnhanceCommand, Enhancement
from onbook.domain.fitting.fit import fit
from onbook.domain.fitting.refusals import is_refusal
from onbook.domain.messages import compose
from onbook.domain.must_keep import protect
from onbook.domain.templates import Template, TemplateKey
from onbook.flows.enhance_prompt import decide_mode, enhance_prompt, prepare
from onbook.flows.enhance_services import Prepared
from onbook.flows.infer_verified import infer_verified
from onbook.flows.record_enhancement import record_enhancement
from onbook.gateway.app import build_gateway
from onbook.gateway.routes.enhance_prompt import command_from, response_from
from onbook.ports.inference import Completion, WorkerPromise
from onbook.settings import Settings
from onbook.wire.gateway_api import read_enhance_request
from onbook.wire.receipt import signature_valid
from onbook.wire.worker_api import Endpoint, InferenceRequest

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message

    from onbook.domain.worker_health import Trouble

_AT_ONCE: Final = 16
_REQUEST_ID: Final = "00000000-0000-4000-8000-000000000000"
_NONCE: Final = "0123456789abcdef0123456789abcdef"
_SEED: Final = 7


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """CPU time of one step in microseconds per request, of all threads of this process.

    ``times_baseline`` is the best time over the best of ``json.loads`` of the same body.
    """

    name: str
    median_us: float
    best_us: float
    times_baseline: float


@dataclass(frozen=True, slots=True)
class _Item:
    """One prompt, with what each step takes and gives."""

    body: bytes
    command: EnhanceCommand
    prepared: Prepared
    completion: Completion
    enhancement: Enhancement


@dataclass(frozen=True, slots=True)
class _Bench:
    service: Service
    worker: "_Worker"
    caller: Caller
    packaged: Template
    items: list[_Item]


class _Worker:
    """Answers in this process with a true receipt, or again what was recorded.

    ``spent_s`` is the CPU time of the worker's own work.
    """

    def __init__(self) -> None:
        self._worker = SigningWorker()
        self.worker_id: str | None = self._worker.info.worker_id
        self.public_keys = frozenset({self._worker.info.public_key})
        self.published = self._worker.info.keys
        self.model_sha256: str | None = self._worker.info.model.file_sha256
        self.promise: WorkerPromise | None = None
        self.trouble: Trouble | None = None
        self.repeat: Completion | None = None
        self.last: Completion | None = None
        self.spent_s = 0.0

    async def infer(
        self, endpoint: Endpoint, request: InferenceRequest, *, timeout_s: float
    ) -> Completion:
        """Answer at once."""
        if self.repeat is not None:
            return self.repeat
        body = msgspec.json.encode(request)
        started = time.thread_time()
        answer = self._worker.answer(body)
        self.spent_s += time.thread_time() - started
        self.last = completion_from(endpoint, 200, answer, response_time_ms=timeout_s)
        return self.last

    async def ready(self) -> bool:
        """Say yes."""
        return True

    async def close(self) -> None:
        """Nothing to let go of."""


def measure_steps(*, seconds: float) -> list[Step]:
    """Measure every step, for about ``seconds`` in all."""
    with tempfile.TemporaryDirectory(prefix="onbook-bench-") as place:
        return uvloop.run(_measure(Path(place), seconds))


async def _measure(directory: Path, seconds: float) -> list[Step]:
    settings = Settings(data_dir=directory / "data", bootstrap_key=SecretStr(workload.ACCESS_KEY))
    await prepare_data(settings)
    worker = _Worker()
    service = build_service(settings, worker)
    with (directory / "log").open("w") as log:
        configure_logging("info", "json", log)
        try:
            await ensure_first_key(service)
            await service.book.refresh()
            bench = await _bench(service, worker)
            return await _run_all(bench, seconds)
        finally:
            await service.log.close()
            await service.dispose()


async def _bench(service: Service, worker: _Worker) -> _Bench:
    caller = await service.keys.authenticate(workload.ACCESS_KEY)
    items = []
    for prompt in workload.PROMPTS:
        body = workload.enhance_body(prompt, target=workload.TARGET)
        command = replace(command_from(read_enhance_request(body)), seed=_SEED)
        decision = decide_mode(command, caller, service.enhance)
        prepared = await prepare(command, caller, _REQUEST_ID, decision, service.enhance)
        await _infer(prepared, worker)
        if worker.last is None:
            raise RuntimeError("the worker was not asked")
        completion = worker.last
        enhancement = await enhance_prompt(command, caller, str(uuid.uuid4()), service.enhance)
        items.append(_Item(body, command, prepared, completion, enhancement))
    key = TemplateKey("qwen_instruct", "enhancement", "sfw", "sdxl")
    packaged = service.book.resolve(key).template
    return _Bench(service, worker, caller, packaged, items)


async def _infer(prepared: Prepared, worker: _Worker) -> None:
    await infer_verified(
        prepared.resolved.template,
        prepared.composed,
        seed=_SEED,
        request_id=_REQUEST_ID,
        nonce=_NONCE,
        timeout_s=1.0,
        worker=worker,
        required=True,
    )


async def _run_all(bench: _Bench, seconds: float) -> list[Step]:
    calls = _calls(bench)
    each = seconds / (len(calls) + 4)
    measured = [(name, _time_calls(call, bench.items, each)) for name, call in calls]
    measured.append(("check the access key", await _time_key(bench, each)))
    measured.append(("build request, digest, check receipt", await _time_receipt(bench, each)))
    measured.append((f"audit row, {_AT_ONCE} at once", await _time_rows(bench, each)))
    measured.append((f"whole request, {_AT_ONCE} at once", await _time_whole(bench, each)))
    baseline = min(measured[0][1])
    return [
        Step(
            name=name,
            median_us=round(median(samples), 1),
            best_us=round(min(samples), 1),
            times_baseline=round(min(samples) / baseline, 1),
        )
        for name, samples in measured
    ]


def _calls(bench: _Bench) -> list[tuple[str, Callable[[_Item], object]]]:
    """Return the steps that are plain calls; the first is the baseline."""
    services, encoder = bench.service.enhance, msgspec.json.Encoder()
    counter = services.counters["clip"]
    observer, key = services.observer, next(iter(bench.worker.public_keys))

    def signature(item: _Item) -> object:
        receipt = item.completion.receipt
        return receipt is not None and signature_valid(receipt, key)

    def fitted(item: _Item) -> object:
        template = item.prepared.resolved.template
        return fit(
            item.completion.text,
            item.prepared.masked,
            limit=template.token_limit,
            counter=counter,
            style="tags",
        )

    def composed(item: _Item) -> object:
        masked = protect(item.command.prompt)
        return compose(item.prepared.resolved.template, masked.text, seed=_SEED)

    def checked_output(item: _Item) -> object:
        text = item.completion.text
        return is_refusal(text), services.detector.detect(text)

    return [
        ("json.loads of the body (the baseline)", lambda item: json.loads(item.body)),
        ("decode the request", lambda item: command_from(read_enhance_request(item.body))),
        ("detect the mode", lambda item: decide_mode(item.command, bench.caller, services)),
        (
            "resolve the template",
            lambda item: (
                services.book.model_types(),
                services.book.targets(),
                services.book.resolve(item.prepared.resolved.template.key),
            ),
        ),
        ("protect and compose", composed),
        (
            "compose, packaged template",
            lambda item: compose(bench.packaged, item.prepared.masked.text, seed=_SEED),
        ),
        ("check one signature", signature),
        ("check the output's mode", checked_output),
        ("fit to 75 tokens", fitted),
        ("metrics and canonical fields", lambda item: observer.finished(item.enhancement)),
        (
            "encode the answer",
            lambda item: encoder.encode(response_from(item.enhancement)),
        ),
    ]


def _time_calls(call: Callable[[_Item], object], items: list[_Item], seconds: float) -> list[float]:
    samples: list[float] = []
    until = time.perf_counter() + seconds
    while not samples or time.perf_counter() < until:
        started = time.process_time()
        for item in items:
            call(item)
        samples.append((time.process_time() - started) / len(items) * 1e6)
    return samples


async def _time_awaits(
    bench: _Bench,
    work: Callable[[_Item], Awaitable[object]],
    seconds: float,
    *,
    at_once: int = 1,
    fresh: Callable[[_Item], _Item] | None = None,
) -> list[float]:
    samples: list[float] = []
    until = time.perf_counter() + seconds
    while not samples or time.perf_counter() < until:
        items = [fresh(item) for item in bench.items] if fresh else bench.items
        spent = bench.worker.spent_s
        started = time.process_time()
        if at_once == 1:
            for item in items:
                await work(item)
        else:
            for first in range(0, len(items), at_once):
                await asyncio.gather(*(work(item) for item in items[first : first + at_once]))
        used = time.process_time() - started - (bench.worker.spent_s - spent)
        samples.append(used / len(items) * 1e6)
    return samples


async def _time_key(bench: _Bench, seconds: float) -> list[float]:
    return await _time_awaits(
        bench, lambda _: bench.service.keys.authenticate(workload.ACCESS_KEY), seconds
    )


async def _time_receipt(bench: _Bench, seconds: float) -> list[float]:
    async def work(item: _Item) -> None:
        bench.worker.repeat = item.completion
        await _infer(item.prepared, bench.worker)

    try:
        return await _time_awaits(bench, work, seconds)
    finally:
        bench.worker.repeat = None


async def _time_rows(bench: _Bench, seconds: float) -> list[float]:
    services = bench.service.enhance

    def fresh(item: _Item) -> _Item:
        enhancement = replace(item.enhancement, request_id=str(uuid.uuid4()))
        return replace(item, enhancement=enhancement)

    return await _time_awaits(
        bench,
        lambda item: record_enhancement(item.enhancement, services.log, services.ids),
        seconds,
        at_once=_AT_ONCE,
        fresh=fresh,
    )


async def _time_whole(bench: _Bench, seconds: float) -> list[float]:
    """Time the gateway's application, without HTTP and without the worker's own work."""
    app = build_gateway(bench.service)
    headers = [
        (b"content-type", b"application/json"),
        (b"authorization", f"Bearer {workload.ACCESS_KEY}".encode()),
    ]
    return await _time_awaits(
        bench, lambda item: _call(app, item.body, headers), seconds, at_once=_AT_ONCE
    )


async def _call(app: "ASGIApp", body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    sent: list[Message] = []

    async def receive() -> "Message":
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: "Message") -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": workload.ENHANCE_PATH, "headers": headers}
    await app(scope, receive, send)
    if sent[0]["status"] != 200 or not workload.went_whole_way(sent[1]["body"], "verified"):
        raise RuntimeError("a request did not go the whole way")
