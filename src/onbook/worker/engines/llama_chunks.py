"""What llama.cpp is asked, what it answers, and the way from its thread to the event loop."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

import msgspec

from onbook.wire.receipt import EffectiveSampling
from onbook.wire.worker_api import FinishReason
from onbook.worker.engines.base import EngineError, GrammarError, Piece


class _Choice(msgspec.Struct):
    text: str = ""
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int


class _Error(msgspec.Struct):
    message: str = ""


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: _Error | None = None


_REASONS: Final[dict[str | None, FinishReason]] = {"stop": "stop", "length": "length"}
_chunks: Final = msgspec.json.Decoder(_Chunk)


def completion_body(
    token_ids: Sequence[int], sampling: EffectiveSampling, grammar: str | None
) -> str:
    """Return a request that states every sampler: none of the engine's defaults takes part."""
    body: dict[str, object] = {
        "prompt": token_ids,
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
        "stop": sampling.stop,
        "cache_prompt": True,
        "stream": True,
        # A chunk after each batch of the prompt: only at a chunk can a request be cancelled.
        "return_progress": True,
    }
    if grammar is not None:
        body["grammar"] = grammar
    return msgspec.json.encode(body).decode()


def prefill_body(token_ids: Sequence[int]) -> str:
    """Return a request that reads ``token_ids`` into a slot and writes nothing."""
    body = {
        "prompt": token_ids,
        "n_predict": 0,
        "temperature": 0.0,
        "cache_prompt": True,
        "stream": False,
    }
    return msgspec.json.encode(body).decode()


def piece_of(data: str) -> Piece | None:
    """Return what a chunk of the engine's says, None where it says nothing yet.

    Raises:
        GrammarError: the engine does not accept the grammar.
        EngineError: it refused the request, or answered with something else.
    """
    try:
        chunk = _chunks.decode(data)
    except msgspec.DecodeError:
        raise EngineError("The engine's answer cannot be read.") from None
    if chunk.error is not None:
        if "grammar" in chunk.error.message:
            raise GrammarError("The grammar is not valid GBNF.")
        raise EngineError("The engine refused the request.")
    choice = chunk.choices[0] if chunk.choices else _Choice()
    reason = _REASONS.get(choice.finish_reason)
    if reason is None and not choice.text:
        return None
    if chunk.usage is None:
        return Piece(choice.text, reason)
    return Piece(choice.text, reason, chunk.usage.completion_tokens, chunk.usage.prompt_tokens)


class Chunks:
    """Chunks on their way from the engine's thread to the event loop, in order.

    However many arrive while the loop is busy, it is woken once. ``heard_at`` is when, by
    ``clock``, the last one arrived.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.heard_at = clock()
        self._loop = asyncio.get_running_loop()
        self._arrived: deque[str | None] = deque()
        self._signal = asyncio.Event()
        self._signalled = False
        self.cancelled = False
        self.error: EngineError | None = None

    def put(self, chunk: str | None) -> bool:
        """Hand over a chunk, or None for the end; tell whether to stop. In the engine's thread."""
        self.heard_at = self._clock()
        self._arrived.append(chunk)
        if not self._signalled:
            self._signalled = True
            try:
                self._loop.call_soon_threadsafe(self._signal.set)
            except RuntimeError:
                # The loop is closed: nobody waits for the rest.
                self.cancelled = True
        return self.cancelled

    async def __aiter__(self) -> AsyncIterator[str]:
        """Yield the chunks until the end.

        Raises:
            EngineError: the engine failed.
        """
        while True:
            await self._signal.wait()
            self._signal.clear()
            # Before the look: a chunk that comes after it is signalled anew.
            self._signalled = False
            while self._arrived:
                chunk = self._arrived.popleft()
                if chunk is None:
                    if self.error is not None:
                        raise self.error
                    return
                yield chunk
