"""What a stream's events say, as pieces: text as it comes, and one last piece with the totals."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final, TypeVar

import msgspec

from onbook.wire.worker_api import FinishReason
from onbook.worker.engines.base import EngineError, Piece, UpstreamUnavailableError
from onbook.worker.engines.openai_upstream.sampling import differences
from onbook.worker.engines.openai_upstream.streams import error_in

_ANSWER_BYTES: Final = 4 * 1024 * 1024
_BYTES_PER_TOKEN: Final = 4096


class _LlamaEvent(msgspec.Struct):
    error: object = None
    content: str | None = None
    stop: bool = False
    stop_type: str | None = None
    tokens_predicted: int | None = None
    tokens_evaluated: int | None = None
    truncated: bool = False
    generation_settings: dict[str, object] | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    tool_calls: list[object] | None = None


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _OpenAiEvent(msgspec.Struct):
    error: object = None
    choices: list[_Choice] = []
    usage: _Usage | None = None


_Event = TypeVar("_Event", _LlamaEvent, _OpenAiEvent)

LLAMA_FIELDS: Final = (
    "content",
    "stop",
    "stop_type",
    "tokens_predicted",
    "tokens_evaluated",
    "truncated",
    "generation_settings",
)
_STOP_TYPES: Final[dict[str, FinishReason]] = {"eos": "stop", "word": "stop", "limit": "length"}
_FINISH_REASONS: Final[dict[str, FinishReason]] = {"stop": "stop", "length": "length"}


def answer_limit(max_tokens: int) -> int:
    """Return how many bytes an answer of ``max_tokens`` may have, with all that wraps it."""
    return _ANSWER_BYTES + max_tokens * _BYTES_PER_TOKEN


async def llama_pieces(
    events: AsyncGenerator[bytes, None], asked: dict[str, object]
) -> AsyncGenerator[Piece, None]:
    """Read the events of ``/completion``.

    Raises:
        UpstreamUnavailableError: the stream ends without its last event.
        EngineError: an event cannot be read, or the server says that it drew tokens otherwise
            than ``asked`` or cut the prompt.
    """
    async with aclosing(events):
        async for data in events:
            event = _decoded(data, _LlamaEvent)
            if event.content and not event.stop:
                yield Piece(event.content)
            if not event.stop:
                continue
            reason = _STOP_TYPES.get(event.stop_type or "")
            if reason is None or event.tokens_predicted is None:
                raise EngineError("The upstream does not say how the generation ended.")
            if event.truncated:
                raise EngineError("The upstream cut the context off.")
            if changed := differences(asked, event.generation_settings or {}):
                raise EngineError(f"The upstream did not use what was asked: {', '.join(changed)}.")
            yield Piece(event.content or "", reason, event.tokens_predicted, event.tokens_evaluated)
            return
    raise UpstreamUnavailableError("The upstream hung up within its answer.")


async def openai_pieces(events: AsyncGenerator[bytes, None]) -> AsyncGenerator[Piece, None]:
    """Read the events of ``/v1/completions`` or ``/v1/chat/completions``.

    Raises:
        UpstreamUnavailableError: the stream ends without a finish reason.
        EngineError: an event cannot be read, the text was taken apart, or the usage is missing.
    """
    reason: str | None = None
    usage: _Usage | None = None
    async with aclosing(events):
        async for data in events:
            event = _decoded(data, _OpenAiEvent)
            for choice in event.choices[:1]:
                if text := _text_of(choice):
                    yield Piece(text)
                reason = choice.finish_reason or reason
            usage = event.usage or usage
    if reason is None:
        raise UpstreamUnavailableError("The upstream hung up within its answer.")
    ended = _FINISH_REASONS.get(reason)
    if ended is None:
        raise EngineError("The upstream ended the generation for a reason of its own.")
    if usage is None or usage.completion_tokens is None:
        raise EngineError("The upstream does not report its usage.")
    yield Piece("", ended, usage.completion_tokens, usage.prompt_tokens)


def _text_of(choice: _Choice) -> str | None:
    delta = choice.delta
    if delta is None:
        return choice.text
    if delta.reasoning or delta.reasoning_content or delta.refusal or delta.tool_calls:
        raise EngineError("The upstream takes the generated text apart; turn its parsers off.")
    return delta.content


def _decoded(data: bytes, kind: type[_Event]) -> _Event:
    try:
        event = msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise EngineError("The upstream sends an event that cannot be read.") from None
    if event.error is not None:
        raise error_in(data, 0)
    return event
