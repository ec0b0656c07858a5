"""What an engine is to the worker: token ids and sampling in, text out."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from onbook.wire.receipt import EffectiveSampling
from onbook.wire.worker_api import FinishReason, ModelInfo
from onbook.worker.rendering import PlainText


class EngineError(Exception):
    """The engine could not run a request; the message holds no prompt text."""


class GrammarError(EngineError):
    """The engine does not accept the request's grammar: the caller's mistake."""


class EngineStartError(Exception):
    """The engine cannot start; the message is one sentence that says why and what to do."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of generated text. The last one carries ``finish_reason`` and the total."""

    text: str
    finish_reason: FinishReason | None = None
    tokens_generated: int = 0


class Engine(Protocol):
    """Runs one model. ``context_size`` is in tokens, per request."""

    @property
    def model(self) -> ModelInfo:
        """What runs here."""

    @property
    def text(self) -> PlainText:
        """The model's own tokenizer, for plain text only. Blocking."""

    @property
    def chat_template(self) -> str | None:
        """The model's own chat template, which is never used, only looked at."""

    @property
    def context_size(self) -> int:
        """Tokens that prompt and output of one request may take together."""

    def generate(
        self, token_ids: Sequence[int], sampling: EffectiveSampling, grammar: str | None
    ) -> AsyncGenerator[Piece, None]:
        """Generate from ``token_ids``. Closing the iterator stops the generation.

        Raises:
            GrammarError: the grammar is not valid.
            EngineError: the engine failed.
        """

    async def close(self) -> None:
        """Stop the engine and free its memory."""
