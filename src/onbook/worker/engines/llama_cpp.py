"""llama.cpp in process, through xllamacpp: slots, continuous batching, a warm prefix cache."""

import asyncio
import http.client
import os
import secrets
import threading
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import urlsplit

import msgspec

from onbook.wire.canonical import sha256_of_text
from onbook.wire.gbnf import GrammarInvalid, check_grammar
from onbook.wire.receipt import EffectiveSampling
from onbook.wire.worker_api import FinishReason, ModelInfo
from onbook.worker.engines.base import EngineError, EngineStartError, GrammarError, Piece
from onbook.worker.gguf import GgufModel, ModelFileError, read_gguf
from onbook.worker.model_file import file_sha256
from onbook.worker.rendering import PlainText

if TYPE_CHECKING:
    import xllamacpp

_TOKENIZE_CACHE_TEXTS: Final = 4096
_TOKENIZE_CACHE_CHARS: Final = 16_384
_TOKENIZE_TIMEOUT_S: Final = 30


class LlamaCppEngine:
    """One GGUF model in this process.

    The library always opens a loopback port of its own; it is locked with a random key and used
    here only to tokenise.
    """

    def __init__(
        self, server: "xllamacpp.Server", key: str, model: ModelInfo, gguf: GgufModel
    ) -> None:
        self._server = server
        self.model = model
        self.chat_template = gguf.chat_template
        self.context_size = model.context_size or 0
        self._tokenizer = _Tokenizer(str(server.listening_address), key)
        self.text = PlainText(self._tokenizer, gguf.special)
        self._threads = ThreadPoolExecutor(model.slots or 1, thread_name_prefix="llama")

    async def generate(
        self, token_ids: Sequence[int], sampling: EffectiveSampling, grammar: str | None
    ) -> AsyncGenerator[Piece, None]:
        """Yield text as it is generated; closing the iterator frees the slot."""
        if grammar is not None:
            try:
                check_grammar(grammar)
            except GrammarInvalid as error:
                raise GrammarError(str(error)) from None
        body = _completion_body(token_ids, sampling, grammar)
        loop = asyncio.get_running_loop()
        chunks: asyncio.Queue[Mapping[str, object] | None] = asyncio.Queue()
        cancelled = threading.Event()

        def on_chunk(chunk: Mapping[str, object]) -> bool:
            loop.call_soon_threadsafe(chunks.put_nowait, chunk)
            return cancelled.is_set()

        def run() -> None:
            try:
                if not cancelled.is_set():
                    self._server.handle_completions(body, on_chunk)
            finally:
                loop.call_soon_threadsafe(chunks.put_nowait, None)

        finished = loop.run_in_executor(self._threads, run)
        try:
            while (chunk := await chunks.get()) is not None:
                yield _piece(chunk)
            await finished
        except RuntimeError as error:
            raise EngineError("The engine failed while generating.") from error
        finally:
            cancelled.set()

    async def close(self) -> None:
        """Wait for running generations and free the model."""
        await asyncio.to_thread(self._threads.shutdown)
        self._tokenizer.close()
        del self._server


def start_llama_cpp(
    path: Path,
    *,
    context_size: int,
    slots: int,
    threads: int | None,
    prompt_cache_mib: int,
    expected_sha256: str | None,
) -> LlamaCppEngine:
    """Load ``path`` and return the engine, ready to generate. Blocking.

    Args:
        path: The GGUF file.
        context_size: Tokens per request; at most what the model was trained for.
        slots: Requests at the same time.
        threads: Threads to compute with; None takes one less than the cores.
        prompt_cache_mib: Host memory for prefixes that have left their slot, in MiB.
        expected_sha256: Refuse a file with another digest.

    Raises:
        EngineStartError: one sentence that says what is wrong and what to do.
    """
    # Busy-waiting OpenMP threads starve the event loop; this must be set before the import.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        import xllamacpp  # noqa: PLC0415 - see above; and only this engine needs it
    except ImportError as error:
        raise EngineStartError(
            f"The llama.cpp engine cannot be loaded ({error}); install the package 'xllamacpp' "
            "and, on Debian, the system package 'libgomp1'."
        ) from error
    gguf, digest = _checked_file(path, expected_sha256)
    context = min(context_size, gguf.context_length or context_size)
    key = secrets.token_urlsafe(32)
    params = _params(xllamacpp, path, key, context * slots, slots, threads, prompt_cache_mib)
    try:
        server = xllamacpp.Server(params)
    except RuntimeError:
        raise EngineStartError(
            f"llama.cpp cannot load the model file {path}; it is damaged, needs more memory than "
            "there is, or has an unknown architecture. Use another file."
        ) from None
    model = ModelInfo(
        name=path.stem,
        engine="llama_cpp",
        file_sha256=digest,
        chat_template_sha256=sha256_of_text(gguf.chat_template) if gguf.chat_template else None,
        family="chatml",
        context_size=context,
        slots=slots,
    )
    return LlamaCppEngine(server, key, model, gguf)


def _checked_file(path: Path, expected_sha256: str | None) -> tuple[GgufModel, str]:
    try:
        gguf = read_gguf(path)
    except ModelFileError as error:
        raise EngineStartError(f"{error} Use another file or install the model again.") from error
    digest = file_sha256(path)
    if expected_sha256 is not None and digest != expected_sha256.lower():
        raise EngineStartError(
            f"The model file {path} has SHA-256 {digest}, not the expected one: it is damaged or "
            "another file. Install the model again or set ONBOOK_MODEL_SHA256."
        )
    return gguf, digest


def _params(
    library: "object",
    path: Path,
    key: str,
    context: int,
    slots: int,
    threads: int | None,
    prompt_cache_mib: int,
) -> "xllamacpp.CommonParams":
    params = cast("Callable[[], xllamacpp.CommonParams]", getattr(library, "CommonParams"))()  # noqa: B009 - an untyped module
    compute = threads or max(1, (os.cpu_count() or 2) - 1)
    params.model.path = str(path)
    params.n_ctx = context
    params.n_parallel = slots
    params.kv_unified = False
    params.cpuparams.n_threads = compute
    params.cpuparams_batch.n_threads = compute
    params.cache_ram_mib = prompt_cache_mib
    params.verbosity = -1
    # The library's own server must be of no use to anyone else on this machine.
    params.api_keys = [key]
    params.ui = False
    params.endpoint_slots = False
    params.cors_origins = ""
    return params


def _completion_body(
    token_ids: Sequence[int], sampling: EffectiveSampling, grammar: str | None
) -> dict[str, object]:
    """State every sampler, so that none of the engine's own defaults takes part."""
    body: dict[str, object] = {
        "prompt": list(token_ids),
        "n_predict": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "typical_p": 1.0,
        "xtc_probability": 0.0,
        "repeat_penalty": sampling.repetition_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "presence_penalty": sampling.presence_penalty,
        "dry_multiplier": sampling.dry_multiplier,
        "seed": sampling.seed,
        "stop": list(sampling.stop),
        "cache_prompt": True,
        "stream": True,
    }
    if grammar is not None:
        body["grammar"] = grammar
    return body


def _piece(chunk: Mapping[str, object]) -> Piece:
    error = chunk.get("error")
    if isinstance(error, Mapping):
        if "grammar" in str(error.get("message", "")):
            raise GrammarError("The grammar is not valid GBNF.")
        raise EngineError("The engine refused the request.")
    choices = cast("Sequence[Mapping[str, object]]", chunk["choices"])
    usage = cast("Mapping[str, int]", chunk.get("usage") or {})
    return Piece(
        text=str(choices[0].get("text") or ""),
        finish_reason=_finish_reason(choices[0].get("finish_reason")),
        tokens_generated=usage.get("completion_tokens", 0),
    )


def _finish_reason(value: object) -> FinishReason | None:
    if value == "stop":
        return "stop"
    return "length" if value == "length" else None


class _Tokenizer:
    """The model's tokenizer, over the engine's loopback port. Thread-safe; caches short texts."""

    def __init__(self, address: str, key: str) -> None:
        self._host = urlsplit(address).netloc
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self._cache: OrderedDict[str, list[int]] = OrderedDict()
        self._lock = threading.Lock()
        self._idle: list[http.client.HTTPConnection] = []

    def __call__(self, text: str) -> list[int]:
        with self._lock:
            cached = self._cache.get(text)
            if cached is not None:
                self._cache.move_to_end(text)
                return cached
        ids = self._ask(text)
        if len(text) <= _TOKENIZE_CACHE_CHARS:
            with self._lock:
                self._cache[text] = ids
                if len(self._cache) > _TOKENIZE_CACHE_TEXTS:
                    self._cache.popitem(last=False)
        return ids

    def close(self) -> None:
        """Close the connections that are not in use."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _ask(self, text: str) -> list[int]:
        body = msgspec.json.encode({"content": text, "add_special": False, "parse_special": False})
        with self._lock:
            kept = self._idle.pop() if self._idle else None
        if kept is not None:
            try:
                return self._exchange(kept, body)
            except (OSError, http.client.HTTPException):
                # The engine drops a connection after seconds without use: a fresh one decides.
                kept.close()
        fresh = http.client.HTTPConnection(self._host, timeout=_TOKENIZE_TIMEOUT_S)
        try:
            return self._exchange(fresh, body)
        except (OSError, http.client.HTTPException) as error:
            fresh.close()
            raise EngineError("The engine's tokenizer does not answer.") from error

    def _exchange(self, connection: http.client.HTTPConnection, body: bytes) -> list[int]:
        connection.request("POST", "/tokenize", body, self._headers)
        response = connection.getresponse()
        answer = response.read()
        with self._lock:
            self._idle.append(connection)
        if response.status != http.client.OK:
            raise EngineError("The engine could not tokenise a text.")
        return msgspec.json.decode(answer, type=_Tokens).tokens


class _Tokens(msgspec.Struct):
    tokens: list[int]
