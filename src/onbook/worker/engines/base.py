"""What an engine is to the worker: token ids and sampling in, text out."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from onbook.wire.receipt import EffectiveSampling
from onbook.wire.worker_api import FinishReason, Message, ModelInfo
from onbook.worker.rendering import PlainText


class EngineError(Exception):
    """The engine could not run a request; the message holds no prompt text."""


class GrammarError(EngineError):
    """The engine does not accept the request's grammar: the caller's mistake."""


class UnsupportedSamplingError(EngineError):
    """The upstream has no such sampler, so the request cannot be executed exactly.

    ``fields`` names what was asked for and is not there.
    """

    def __init__(self, fields: list[str]) -> None:
        super().__init__(f"the engine does not support {', '.join(fields)}")
        self.fields = fields


class UpstreamUnavailableError(EngineError):
    """The server behind the worker cannot be reached or is busy: worth another try later."""


class UpstreamChangedError(UpstreamUnavailableError):
    """The server behind the worker runs another model than at the start: only a restart helps.

    The message is one sentence that names the server and what has changed.
    """


class EngineStartError(Exception):
    """The engine cannot start; the message is one sentence that says why and what to do."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of generated text. The last one carries ``finish_reason`` and the totals.

    ``prompt_tokens`` is what the engine says that it read, where it says so.
    """

    text: str
    finish_reason: FinishReason | None = None
    tokens_generated: int = 0
    prompt_tokens: int | None = None


class Engine(Protocol):
    """Runs one model on token ids. ``context_size`` is in tokens, per request."""

    @property
    def model(self) -> ModelInfo:
        """What runs here."""

    @property
    def text(self) -> PlainText:
        """The model's own tokenizer, for plain text only. Blocking."""

    @property
    def chat_template(self) -> str | None:
        """The model's own chat template: looked at to tell the family."""

    @property
    def context_size(self) -> int:
        """Tokens that prompt and output of one request may take together."""

    def generate(
        self, token_ids: Sequence[int], sampling: EffectiveSampling, grammar: str | None
    ) -> AsyncGenerator[Piece, None]:
        """Generate from ``token_ids``. Closing the iterator stops the generation.

        Raises:
            GrammarError: the grammar is not valid.
            UnsupportedSamplingError: the engine cannot draw tokens in the way that was asked.
            UpstreamUnavailableError: the server behind it is away or busy.
            EngineError: the engine failed.
        """

    async def ready(self) -> bool:
        """Tell whether the engine can take requests now."""

    async def close(self) -> None:
        """Stop the engine and free its memory."""


class ChatEngine(Protocol):
    """A server that takes messages only and renders them itself: the lesser mode.

    What its model really saw cannot be told, so its receipts say ``request_only``.
    ``context_size`` is in tokens, None where it is not known.
    """

    @property
    def model(self) -> ModelInfo:
        """What runs there, as far as it says."""

    @property
    def context_size(self) -> int | None:
        """Tokens that prompt and output of one request may take together."""

    def expected_prompt_tokens(self, messages: Sequence[Message]) -> int | None:
        """Return how many tokens a pure rendering of ``messages`` has, where that is known."""

    def chat(
        self, messages: Sequence[Message], sampling: EffectiveSampling, grammar: str | None
    ) -> AsyncGenerator[Piece, None]:
        """Generate the assistant's turn. Raises as ``Engine.generate`` does."""

    async def ready(self) -> bool:
        """Tell whether the server can take requests now."""

    async def close(self) -> None:
        """Let go of the server."""
