"""The lesser mode: an upstream that takes messages and renders them itself."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec

from onbook.wire.receipt import EffectiveSampling
from onbook.wire.worker_api import Message, ModelInfo, PurityReport
from onbook.worker.engines.base import EngineError, Piece
from onbook.worker.engines.openai_upstream.answers import answer_limit, openai_pieces
from onbook.worker.engines.openai_upstream.sampling import Flavour, openai_sampling
from onbook.worker.engines.openai_upstream.streams import StreamClient
from onbook.worker.engines.openai_upstream.token_engine import checked_grammar
from onbook.worker.engines.openai_upstream.tokenizer import UpstreamTokenizer
from onbook.worker.engines.openai_upstream.watch import ModelWatch
from onbook.worker.rendering import (
    ContentNotPlainError,
    MessagesNotRenderableError,
    Renderer,
)


class ChatUpstream:
    """Sends messages to ``/v1/chat/completions``.

    Args:
        flavour: Whose extra fields the server knows.
        stream: Requests to the server.
        tokenizer: The server's tokenizer, where it shows one; closed with the engine.
        renderer: A pure rendering for the server's model, where its tokenizer is known: for the
            count of the prompt's tokens.
        upstream_model: The model's name there.
        model: What runs there, as far as it says.
        purity: What the start found out about the server's rendering.
        watch: Looks whether the server still runs that model; closed with the engine.
    """

    def __init__(
        self,
        *,
        flavour: Flavour,
        stream: StreamClient,
        tokenizer: UpstreamTokenizer | None,
        renderer: Renderer | None,
        upstream_model: str,
        model: ModelInfo,
        purity: PurityReport,
        watch: ModelWatch,
    ) -> None:
        self.model = model
        self.context_size = model.context_size
        self.purity = purity
        self._flavour: Flavour = flavour
        self._stream = stream
        self._tokenizer = tokenizer
        self._renderer = renderer
        self._upstream_model = upstream_model
        self._watch = watch

    def expected_prompt_tokens(self, messages: Sequence[Message]) -> int | None:
        """Return how many tokens a pure rendering of ``messages`` has, or None. Blocking."""
        if self._renderer is None:
            return None
        try:
            return len(self._renderer.render(messages))
        except (ContentNotPlainError, EngineError, MessagesNotRenderableError):
            return None

    async def chat(
        self, messages: Sequence[Message], sampling: EffectiveSampling, grammar: str | None
    ) -> AsyncGenerator[Piece, None]:
        """Yield the assistant's turn as it is generated; closing closes the connection."""
        checked_grammar(grammar)
        body = chat_body(self._flavour, self._upstream_model, messages) | openai_sampling(
            self._flavour, sampling, grammar
        )
        events = self._stream.events(
            "/v1/chat/completions", body, limit_bytes=answer_limit(sampling.max_tokens)
        )
        async with aclosing(self._watch.watched(openai_pieces(events))) as pieces:
            async for piece in pieces:
                yield piece

    async def ready(self) -> bool:
        """Tell whether the server says that it can take requests, and is what it was."""
        return await self._stream.ready() and await self._watch.holds()

    def why_away(self) -> str | None:
        """Return the sentence about a server that runs another model now, None before that."""
        return self._watch.changed

    async def close(self) -> None:
        """Close the connections."""
        if self._tokenizer is not None:
            self._tokenizer.close()
        self._watch.close()
        await self._stream.close()


def chat_body(flavour: Flavour, model: str, messages: Sequence[Message]) -> dict[str, object]:
    """Return the part of a chat request that is not sampling."""
    body: dict[str, object] = {"model": model, "messages": msgspec.to_builtins(list(messages))}
    if flavour == "llama":
        # The text is wanted as it was generated, not taken apart into reasoning and calls.
        body |= {"reasoning_format": "none", "parse_tool_calls": False}
    return body
