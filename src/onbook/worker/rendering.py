"""Messages to token ids. Contents are tokenised as plain text; control tokens are added by id.

So ``<|im_end|>`` inside a message stays five ordinary tokens, and a caller cannot close his own
turn. Nothing else is added: no default system text, no date, no reminder.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from onbook.wire.worker_api import Message

Tokenize = Callable[[str], list[int]]

CHATML_START: Final = "<|im_start|>"
CHATML_END: Final = "<|im_end|>"


class UnsupportedModelError(Exception):
    """The model cannot be run purely; the message says why in one sentence."""


class ContentNotPlainError(Exception):
    """A content could not be tokenised without producing control tokens."""


class Renderer(Protocol):
    """Turns messages into the token ids that the engine is given."""

    @property
    def name(self) -> str:
        """How it renders, as receipts state it."""

    def render(self, messages: Sequence[Message]) -> list[int]:
        """Return the prompt's token ids.

        Raises:
            ContentNotPlainError: a content cannot be written without control tokens.
        """


@dataclass(frozen=True, slots=True)
class PlainText:
    """Tokenises contents so that no id outside plain text can come out.

    ``special`` maps the text of each control or user-defined token to its id.
    """

    tokenize: Tokenize
    special: Mapping[str, int]

    def ids(self, text: str) -> list[int]:
        """Return the ids of ``text``, all of them plain.

        Raises:
            ContentNotPlainError: not even split literals come out plain.
        """
        if not text:
            return []
        forbidden = set(self.special.values())
        ids = self.tokenize(text)
        if forbidden.isdisjoint(ids):
            return ids
        # Some tokenizers match user-defined tokens (Qwen's <tool_call>) even without special
        # parsing. Cut inside each literal, its text cannot be matched and stays the same text.
        pieces = [text]
        for literal in sorted(self.special, key=len, reverse=True):
            pieces = [part for piece in pieces for part in _cut_inside(piece, literal)]
        ids = [token for piece in pieces for token in self.tokenize(piece)]
        if not forbidden.isdisjoint(ids):
            raise ContentNotPlainError
        return ids


@dataclass(frozen=True, slots=True)
class ChatMl:
    """ChatML: Qwen2.5, Qwen3, SmolLM2 and relatives.

    Each turn is ``start`` role newline content ``end`` newline; then ``start`` assistant newline.
    """

    text: PlainText
    start: int
    end: int
    name: str = "chatml"

    def render(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of the conversation, ready for the assistant's turn."""
        ids: list[int] = []
        for message in messages:
            ids.append(self.start)
            ids += self.text.ids(f"{message.role}\n{message.content}")
            ids.append(self.end)
            ids += self.text.ids("\n")
        ids.append(self.start)
        ids += self.text.ids("assistant\n")
        return ids


@dataclass(frozen=True, slots=True)
class RawCompletion:
    """Contents joined as they are: for base models and the legacy format."""

    text: PlainText
    name: str = "raw"

    def render(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of the joined contents."""
        return self.text.ids("".join(message.content for message in messages))


def chat_renderer(text: PlainText, chat_template: str | None) -> ChatMl:
    """Choose the renderer for a model from its own chat template and control tokens.

    Raises:
        UnsupportedModelError: the model's family has no encoder that adds control tokens only.
    """
    if chat_template is not None and CHATML_START not in chat_template:
        raise UnsupportedModelError(
            "The model's chat template is not ChatML, so it cannot be run without text of its own."
        )
    try:
        return ChatMl(text, start=text.special[CHATML_START], end=text.special[CHATML_END])
    except KeyError:
        raise UnsupportedModelError(
            "The model has no ChatML control tokens, so it cannot take chat messages."
        ) from None


def _cut_inside(text: str, literal: str) -> list[str]:
    if len(literal) < 2 or literal not in text:
        return [text]
    parts = text.split(literal)
    pieces = [parts[0] + literal[0]]
    pieces += [literal[1:] + part + literal[0] for part in parts[1:-1]]
    pieces.append(literal[1:] + parts[-1])
    return pieces
