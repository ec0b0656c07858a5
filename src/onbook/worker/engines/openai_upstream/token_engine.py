"""The engine over an upstream that takes token ids: what it reads is what was rendered here.

The same seed gives the same text as far as the server computes alike: llama-server computes a
prompt that it holds already by other sums than a new one, so its first text may differ from later
ones, and requests that run beside each other change the sums too.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Literal

from onbook.wire.gbnf import GrammarInvalid, check_grammar
from onbook.wire.receipt import EffectiveSampling
from onbook.wire.worker_api import ModelInfo
from onbook.worker.engines.base import GrammarError, Piece
from onbook.worker.engines.openai_upstream.answers import (
    LLAMA_FIELDS,
    answer_limit,
    llama_pieces,
    openai_pieces,
)
from onbook.worker.engines.openai_upstream.sampling import (
    Flavour,
    llama_sampling,
    openai_sampling,
)
from onbook.worker.engines.openai_upstream.streams import StreamClient
from onbook.worker.engines.openai_upstream.tokenizer import UpstreamTokenizer
from onbook.worker.engines.openai_upstream.watch import ModelWatch
from onbook.worker.rendering import PlainText

TokenApi = Literal["llama_server", "completions"]


class TokenUpstream:
    """Sends token ids to llama-server's ``/completion`` or to ``/v1/completions``.

    Args:
        api: Which of the two.
        flavour: Whose extra fields ``/v1/completions`` knows.
        stream: Requests to the server.
        tokenizer: The server's tokenizer; closed with the engine.
        upstream_model: The model's name there.
        model: What runs there.
        text: The tokenizer for plain text.
        chat_template: The model's own, where the server tells it.
        notes: What was found at the start, for the purity report.
        watch: Looks whether the server still runs that model; closed with the engine.
    """

    def __init__(
        self,
        *,
        api: TokenApi,
        flavour: Flavour,
        stream: StreamClient,
        tokenizer: UpstreamTokenizer,
        upstream_model: str,
        model: ModelInfo,
        text: PlainText,
        chat_template: str | None,
        notes: Sequence[str],
        watch: ModelWatch,
    ) -> None:
        self.api = api
        self.model = model
        self.text = text
        self.chat_template = chat_template
        self.context_size = model.context_size or 0
        self.notes = tuple(notes)
        self._flavour: Flavour = flavour
        self._stream = stream
        self._tokenizer = tokenizer
        self._upstream_model = upstream_model
        self._watch = watch

    async def generate(
        self, token_ids: Sequence[int], sampling: EffectiveSampling, grammar: str | None
    ) -> AsyncGenerator[Piece, None]:
        """Yield text as it is generated; closing the iterator closes the connection."""
        checked_grammar(grammar)
        limit = answer_limit(sampling.max_tokens)
        if self.api == "llama_server":
            asked = llama_sampling(sampling, grammar)
            body = {"prompt": list(token_ids), "response_fields": LLAMA_FIELDS, **asked}
            pieces = llama_pieces(
                self._stream.events("/completion", body, limit_bytes=limit), asked
            )
        else:
            asked = openai_sampling(self._flavour, sampling, grammar)
            body = {"model": self._upstream_model, "prompt": list(token_ids), **asked}
            pieces = openai_pieces(self._stream.events("/v1/completions", body, limit_bytes=limit))
        pieces = self._watch.watched(pieces)
        async with aclosing(pieces) as checked:
            async for piece in checked:
                yield piece

    async def ready(self) -> bool:
        """Tell whether the server says that it can take requests, and is what it was."""
        return await self._stream.ready() and await self._watch.holds()

    def why_away(self) -> str | None:
        """Return the sentence about a server that runs another model now, None before that."""
        return self._watch.changed

    async def close(self) -> None:
        """Close the connections."""
        self._tokenizer.close()
        self._watch.close()
        await self._stream.close()


def checked_grammar(grammar: str | None) -> None:
    """Check a grammar before a server may see it, as the in-process engine does.

    Raises:
        GrammarError: it is not valid.
    """
    if grammar is not None:
        try:
            check_grammar(grammar)
        except GrammarInvalid as error:
            raise GrammarError(str(error)) from None
