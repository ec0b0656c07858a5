"""The ways to run one model that are measured side by side: ours, the bare engine, and others."""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, cast

import aiohttp
import msgspec

from benchmarks.process import Server
from onbook.wire.signing import new_ring
from onbook.wire.worker_api import InferenceRequest, Message, effective_sampling
from onbook.worker.engines.llama_chunks import completion_body
from onbook.worker.engines.llama_cpp import start_llama_cpp
from onbook.worker.execution import Executed, Executor
from onbook.worker.receipts import ReceiptSigner
from onbook.worker.rendering import Renderer, chat_renderer

if TYPE_CHECKING:
    import xllamacpp

SLOTS: Final = 4
CONTEXT: Final = 1024
CACHE_MIB: Final = 128
TRANSFORMERS: Final = "ONBOOK_BENCH_TRANSFORMERS_PYTHON"
_KEY: Final = "benchmark"
_TIMEOUT: Final = aiohttp.ClientTimeout(total=300)


@dataclass(frozen=True, slots=True)
class Ran:
    """What one request brought. ``first_s`` is the time to the first text, where it is seen."""

    tokens: int
    first_s: float | None = None


class Subject(Protocol):
    """One way to run the model."""

    name: str

    def cpu_seconds(self) -> float:
        """Return the CPU time so far of the process that computes."""

    async def run(self, request: InferenceRequest, *, cached: bool = True) -> Ran:
        """Run ``request``; ``cached`` False without the prefix cache, where that can be had."""


class OursInProcess:
    """The worker's executor, receipts included, without HTTP."""

    name = "onbook, in process"

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def cpu_seconds(self) -> float:
        """Return this process's: it computes, and asks."""
        return time.process_time()

    async def run(self, request: InferenceRequest, *, cached: bool = True) -> Ran:
        """Run it and sign for it."""
        del cached
        started = time.perf_counter()
        first = None
        async with aclosing(self._executor.run("chat", request)) as steps:
            async for step in steps:
                first = first or time.perf_counter() - started
                if isinstance(step, Executed):
                    return Ran(step.tokens_generated, first)
        raise RuntimeError("no result")


class OursOverHttp:
    """A worker process, asked for whole answers as a gateway asks."""

    name = "onbook, over HTTP"

    def __init__(self, session: aiohttp.ClientSession, worker: Server) -> None:
        self._session, self._worker = session, worker

    def cpu_seconds(self) -> float:
        """Return the worker process's."""
        return self._worker.cpu_seconds()

    async def run(self, request: InferenceRequest, *, cached: bool = True) -> Ran:
        """Ask ``POST /chat``."""
        del cached
        body = msgspec.json.encode(request)
        async with self._session.post(f"{self._worker.url}/chat", data=body) as answer:
            answer.raise_for_status()
            return Ran(int((await answer.json())["tokens_generated"]))


class BareInProcess:
    """The binding, called as its manual says, with the same body."""

    def __init__(self, name: str, server: "xllamacpp.Server", renderer: Renderer) -> None:
        self.name = name
        self._server, self._renderer = server, renderer

    def cpu_seconds(self) -> float:
        """Return this process's: it computes, and asks."""
        return time.process_time()

    async def run(self, request: InferenceRequest, *, cached: bool = True) -> Ran:
        """Call it in a thread."""
        body = bare_body(self._renderer, request, cached=cached)
        return await asyncio.to_thread(self._call, body)

    def _call(self, body: str) -> Ran:
        started = time.perf_counter()
        first: list[float] = []
        chunks: list[str] = []

        def on_chunk(chunk: str) -> bool:
            if not first and '"text":""' not in chunk:
                first.append(time.perf_counter() - started)
            chunks.append(chunk)
            return False

        self._server.handle_completions(body, on_chunk)
        usage = cast("Mapping[str, int]", msgspec.json.decode(chunks[-1])["usage"])
        return Ran(usage["completion_tokens"], first[0] if first else None)


class BareOverHttp:
    """The binding's own HTTP server, asked for whole answers."""

    name = "bare engine, its HTTP server"

    def __init__(
        self, session: aiohttp.ClientSession, server: "xllamacpp.Server", renderer: Renderer
    ) -> None:
        self._session, self._renderer = session, renderer
        # Kept, though it is only asked by its address: the library stops a server that nobody has.
        self._server = server
        self._url = f"{server.listening_address}/v1/completions"

    def cpu_seconds(self) -> float:
        """Return this process's: it computes, and asks."""
        return time.process_time()

    async def run(self, request: InferenceRequest, *, cached: bool = True) -> Ran:
        """Ask ``POST /v1/completions``, not streamed."""
        body = msgspec.json.decode(bare_body(self._renderer, request, cached=cached))
        body |= {"stream": False, "return_progress": False}
        headers = {"Authorization": f"Bearer {_KEY}"}
        async with self._session.post(self._url, json=body, headers=headers) as answer:
            answer.raise_for_status()
            return Ran(int((await answer.json())["usage"]["completion_tokens"]))


class Transformers:
    """Hugging Face transformers, one request after another, as such services queue them."""

    name = "transformers"

    def __init__(self, process: "subprocess.Popen[bytes]", renderer: Renderer) -> None:
        self._process, self._renderer = process, renderer
        self._turn = asyncio.Lock()

    def cpu_seconds(self) -> float:
        """Return the child's."""
        return process_cpu_seconds(self._process.pid)

    async def run(self, request: InferenceRequest, *, cached: bool = True) -> Ran:
        """Ask the child for it."""
        del cached
        asked = {
            "ids": self._renderer.render(request.messages),
            "max_tokens": request.max_tokens,
            "seed": request.seed,
        }
        async with self._turn:
            answer = await asyncio.to_thread(self._exchange, msgspec.json.encode(asked))
        return Ran(int(answer["tokens"]), answer["first_s"])

    def _exchange(self, line: bytes) -> Mapping[str, float]:
        sent, said = self._process.stdin, self._process.stdout
        if sent is None or said is None:
            raise RuntimeError("the child has no pipes")
        sent.write(line + b"\n")
        sent.flush()
        return cast("Mapping[str, float]", msgspec.json.decode(said.readline()))


def bare_body(renderer: Renderer, request: InferenceRequest, *, cached: bool) -> str:
    """Return the body that our engine sends for ``request``."""
    ids = renderer.render(request.messages)
    body = completion_body(ids, effective_sampling(request, "chat"), None)
    return body if cached else body.replace('"cache_prompt":true', '"cache_prompt":false')


@asynccontextmanager
async def subjects(model: Path, *, threads: int) -> AsyncIterator[list[Subject]]:
    """Start all that can be started here, the bare engine with our settings first."""
    async with AsyncExitStack() as stack:
        engine = start_llama_cpp(
            model,
            context_size=CONTEXT,
            slots=SLOTS,
            threads=threads,
            prompt_cache_mib=CACHE_MIB,
            expected_sha256=None,
        )
        stack.push_async_callback(engine.close)
        renderer = chat_renderer(engine.text, engine.chat_template)
        ring = new_ring("worker", at=datetime.now(UTC))
        signer = ReceiptSigner(ring.owner, lambda: ring.signer(datetime.now(UTC)), engine.model)
        executor = Executor(engine, signer, renderer, max_queue=64)
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=_TIMEOUT))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        worker = stack.enter_context(_worker(directory, model, threads))
        found: list[Subject] = [
            BareInProcess(
                "bare engine, called directly", _bare(model, threads, as_ours=True), renderer
            ),
            # One of its own: what the other has just read would be in its cache.
            BareOverHttp(session, _bare(model, threads, as_ours=True), renderer),
            OursInProcess(executor),
            OursOverHttp(session, worker),
            BareInProcess(
                "bare engine, its own defaults", _bare(model, threads, as_ours=False), renderer
            ),
        ]
        child = _transformers(model, threads)
        if child is not None:
            stack.callback(child.wait)
            stack.callback(child.kill)
            found.append(Transformers(child, renderer))
        yield found


def conversation(system: str, user: str, *, max_tokens: int, seed: int) -> InferenceRequest:
    """Return one request of the load."""
    messages = [Message("system", system), Message("user", user)]
    return InferenceRequest(messages=messages, max_tokens=max_tokens, seed=seed)


def process_cpu_seconds(pid: int) -> float:
    """Return the CPU time of all threads of a process so far, in steps of the kernel's tick."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _worker(directory: Path, model: Path, threads: int) -> Server:
    command = [str(Path(sys.executable).with_name("onbook")), "worker", "--port", "0"]
    return Server(
        [*command, "--data-dir", str(directory), "--model", str(model)],
        directory=directory,
        name="worker",
        ready="is ready at ",
        core=None,
        environment={
            "ONBOOK_SLOTS": str(SLOTS),
            "ONBOOK_THREADS": str(threads),
            "ONBOOK_CONTEXT_SIZE": str(CONTEXT),
            "ONBOOK_PROMPT_CACHE_MIB": str(CACHE_MIB),
        },
    )


def _bare(model: Path, threads: int, *, as_ours: bool) -> "xllamacpp.Server":
    import xllamacpp  # noqa: PLC0415 - the engine has set what must be set before

    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.n_ctx = CONTEXT * SLOTS
    params.n_parallel = SLOTS
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    params.cache_ram_mib = CACHE_MIB
    params.verbosity = -1
    params.api_keys = [_KEY]
    params.ui = False
    if as_ours:
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.n_batch = params.n_ubatch = 128
    return xllamacpp.Server(params)


def _transformers(model: Path, threads: int) -> "subprocess.Popen[bytes] | None":
    python = os.environ.get(TRANSFORMERS)
    if not python:
        return None
    script = Path(__file__).with_name("transformers_worker.py")
    command: Sequence[str] = [python, str(script), str(model.parent), model.name, str(threads)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    while child.stdout is not None and (line := child.stdout.readline()):
        if line.strip() == b"ready":
            return child
    child.wait()
    return None
