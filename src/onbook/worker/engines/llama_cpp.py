"""llama.cpp in process, through xllamacpp: slots, continuous batching, a warm prefix cache."""

import asyncio
import os
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from onbook.wire.canonical import sha256_of_text
from onbook.wire.gbnf import GrammarInvalid, check_grammar
from onbook.wire.receipt import EffectiveSampling
from onbook.wire.worker_api import ModelInfo
from onbook.worker.engines.base import EngineError, EngineStartError, GrammarError, Piece
from onbook.worker.engines.llama_chunks import Chunks, completion_body, piece_of, prefill_body
from onbook.worker.engines.llama_tokenizer import LlamaTokenizer
from onbook.worker.gguf import GgufModel, ModelFileError, read_gguf
from onbook.worker.model_file import file_sha256
from onbook.worker.rendering import PlainText, UnsupportedModelError, chat_renderer

if TYPE_CHECKING:
    import xllamacpp

# A batch of the prompt that is computed between two looks at whether it is still wanted. Without
# a GPU larger ones are not faster, and all that run beside it wait for its end.
_CPU_BATCH_TOKENS: Final = 128
_FORGOTTEN: Final = 2
# A batch takes seconds on the slowest of machines, and a token less.
_STUCK_S: Final = 60.0
_SEEN_PROMPTS: Final = 4096


class LlamaCppEngine:
    """One GGUF model in this process.

    The library always opens a loopback port of its own; it is locked with a random key and used
    here only to tokenise.

    With the same seed a prompt gives the same text while requests come one after another, whether
    its tokens are read from the cache or anew; on a GPU, and among concurrent requests, the
    arithmetic depends on what is computed together, and so may the text.
    """

    def __init__(
        self,
        server: "xllamacpp.Server",
        tokenizer: LlamaTokenizer,
        text: PlainText,
        chat_template: str | None,
        model: ModelInfo,
        *,
        reproducible: bool,
    ) -> None:
        self._server = server
        self._tokenizer = tokenizer
        self.text = text
        self.chat_template = chat_template
        self.model = model
        self.context_size = model.context_size or 0
        self._threads = ThreadPoolExecutor(model.slots or 1, thread_name_prefix="llama")
        self._active: set[Chunks] = set()
        self._running: set[Chunks] = set()
        self.clock: Callable[[], float] = time.monotonic
        self._seen = _Seen() if reproducible else None
        self._closed = False

    async def generate(
        self, token_ids: Sequence[int], sampling: EffectiveSampling, grammar: str | None
    ) -> AsyncGenerator[Piece, None]:
        """Yield text as it is generated; closing the iterator frees the slot."""
        if grammar is not None:
            try:
                # Long for a long one; what the executor has checked is remembered.
                await asyncio.to_thread(check_grammar, grammar)
            except GrammarInvalid as error:
                raise GrammarError(str(error)) from None
        if self._closed:
            raise EngineError("The engine is closed.")
        chunks = Chunks(self.clock)
        body = completion_body(token_ids, sampling, grammar)
        again = self._seen is not None and self._seen.add(token_ids)
        # Where any text is as good as another, or others run beside it, nothing is to be gained.
        fixed = sampling.seed >= 0 or sampling.temperature == 0
        forget = token_ids if again and fixed and not self._active else None
        self._active.add(chunks)
        try:
            self._threads.submit(self._run, body, chunks, forget)
            async for chunk in chunks:
                piece = piece_of(chunk)
                if piece is not None:
                    yield piece
        finally:
            chunks.cancelled = True
            self._active.discard(chunks)

    async def ready(self) -> bool:
        """Tell whether requests can be taken: from the start until it is closed or hangs.

        It hangs once the library has said nothing of what it runs, wanted or not, for a minute.
        """
        now = self.clock()
        stuck = any(now - chunks.heard_at > _STUCK_S for chunks in self._running.copy())
        return not self._closed and not stuck

    async def close(self) -> None:
        """Stop what is running and free the model."""
        if self._closed:
            return
        self._closed = True
        for chunks in self._active:
            chunks.cancelled = True
        await asyncio.to_thread(self._threads.shutdown)
        self._tokenizer.close()
        del self._server

    def _run(self, body: str, chunks: Chunks, forget: Sequence[int] | None) -> None:
        """Generate, in a thread of its own, until the end or until ``chunks`` are not wanted."""
        chunks.heard_at = self.clock()
        self._running.add(chunks)
        try:
            if forget is not None and not chunks.cancelled:
                self._forget_end(forget)
            if not chunks.cancelled:
                self._server.handle_completions(body, chunks.put)
        except Exception:  # noqa: BLE001 - whatever it is, the request has failed and must end
            chunks.error = EngineError("The engine failed while generating.")
        finally:
            self._running.discard(chunks)
            chunks.put(None)

    def _forget_end(self, token_ids: Sequence[int]) -> None:
        """Let the slot that holds ``token_ids`` forget the last two of them.

        A prompt that is wholly cached has its last token computed alone, by other sums than in a
        batch, and the text would not be that of the first time. Two are a batch.
        """
        if len(token_ids) > _FORGOTTEN:
            kept = token_ids[:-_FORGOTTEN]
            other = next((token for token in kept if token != token_ids[-_FORGOTTEN]), None)
            if other is not None:
                self._server.handle_completions(prefill_body([*kept, other]), _ignore)


class _Seen:
    """The prompts that were run lately, by their hashes."""

    def __init__(self) -> None:
        self._hashes: OrderedDict[int, None] = OrderedDict()

    def add(self, token_ids: Sequence[int]) -> bool:
        """Remember ``token_ids``; tell whether they were here before."""
        key = hash(tuple(token_ids))
        known = key in self._hashes
        self._hashes[key] = None
        self._hashes.move_to_end(key)
        if len(self._hashes) > _SEEN_PROMPTS:
            self._hashes.popitem(last=False)
        return known


def _ignore(_chunk: str) -> bool:
    return False


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
    reproducible = not _has_gpu(xllamacpp.get_device_info())
    if reproducible:
        _compute_alike(xllamacpp, params)
    try:
        server = xllamacpp.Server(params)
    except RuntimeError:
        raise EngineStartError(
            f"llama.cpp cannot load the model file {path}; it is damaged, needs more memory than "
            "there is, or has an unknown architecture. Use another file."
        ) from None
    tokenizer = LlamaTokenizer(str(server.listening_address), key)
    text = gguf.plain_text(tokenizer)
    model = ModelInfo(
        name=path.stem,
        engine="llama_cpp",
        file_sha256=digest,
        chat_template_sha256=sha256_of_text(gguf.chat_template) if gguf.chat_template else None,
        family=_family(text, gguf.chat_template),
        context_size=context,
        slots=slots,
    )
    return LlamaCppEngine(
        server, tokenizer, text, gguf.chat_template, model, reproducible=reproducible
    )


def _family(text: PlainText, chat_template: str | None) -> str | None:
    try:
        return chat_renderer(text, chat_template).name
    except UnsupportedModelError:
        return None


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


def _has_gpu(devices: Iterable[Mapping[str, object]]) -> bool:
    return any("GPU" in str(device["type"]) for device in devices)


def _compute_alike(library: object, params: "xllamacpp.CommonParams") -> None:
    """Let a token come out of the same sums in every batch of two or more tokens.

    On a CPU, flash attention adds up in another order for long batches than for short ones, and
    is slower at generating; without it a prompt's cached part equals the computed one.
    """
    kinds = getattr(library, "llama_flash_attn_type")  # noqa: B009 - an untyped module
    params.flash_attn_type = kinds.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.n_batch = _CPU_BATCH_TOKENS
    params.n_ubatch = _CPU_BATCH_TOKENS
