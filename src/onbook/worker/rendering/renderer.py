"""What a renderer is, and the simplest one."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from onbook.wire.worker_api import Message
from onbook.worker.rendering.plain_text import PlainText

# A control token by its id, or text to tokenise plainly.
Part = int | str


class Renderer(Protocol):
    """Turns messages into the token ids that the engine is given."""

    @property
    def name(self) -> str:
        """How it renders, as receipts state it."""

    def render(self, messages: Sequence[Message]) -> list[int]:
        """Return the prompt's token ids.

        Raises:
            ContentNotPlainError: a content cannot be written without control tokens.
            MessagesNotRenderableError: the model has no place for a turn.
        """


class Family(Renderer, Protocol):
    """A renderer that knows its model family's format by heart."""

    @property
    def exact(self) -> bool:
        """Whether the model's own template writes the same white space as this renderer."""

    def parts(self, messages: Sequence[Message]) -> list[Part]:
        """Return the prompt as control ids and texts, in order."""


@dataclass(frozen=True, slots=True)
class RawCompletion:
    """Contents joined as they are: for base models and the legacy format.

    Before them comes the one id that the model wants before every text, if it wants one.
    """

    text: PlainText
    name: str = "raw"

    def render(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of the joined contents."""
        content = self.text.ids("".join(message.content for message in messages))
        return content if self.text.bos is None or not content else [self.text.bos, *content]


def encode(text: PlainText, parts: Iterable[Part]) -> list[int]:
    """Return the ids of ``parts``, every text tokenised plainly and by itself.

    Raises:
        ContentNotPlainError: a text cannot be written without control tokens.
    """
    ids: list[int] = []
    for part in parts:
        if isinstance(part, int):
            ids.append(part)
        else:
            ids += text.ids(part)
    return ids
