"""The four families whose chat formats are known: ChatML, Llama 3, Gemma and Mistral.

Contents are written as they are. Where a family's own template or library trims them, merges two
turns of one role, or makes up a turn, this does not: such turns are refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from onbook.wire.worker_api import Message
from onbook.worker.rendering.errors import MessagesNotRenderableError
from onbook.worker.rendering.plain_text import PlainText
from onbook.worker.rendering.renderer import Part, encode

_PARAGRAPH = "\n\n"


@dataclass(frozen=True, slots=True)
class ChatMl:
    """ChatML: Qwen2.5, Qwen3, SmolLM2 and relatives.

    Each turn is ``start`` role newline content ``end`` newline; then ``start`` assistant newline.
    """

    text: PlainText
    start: int
    end: int
    name: str = "chatml"
    exact: bool = True

    def parts(self, messages: Sequence[Message]) -> list[Part]:
        """Return the turns as control ids and texts."""
        parts: list[Part] = [] if self.text.bos is None else [self.text.bos]
        for message in messages:
            parts += [self.start, f"{message.role}\n{message.content}", self.end, "\n"]
        return [*parts, self.start, "assistant\n"]

    def render(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of the conversation, ready for the assistant's turn."""
        return encode(self.text, self.parts(messages))


@dataclass(frozen=True, slots=True)
class Llama3:
    """Llama 3 to 3.3: a header with the role, an empty line, the content, the end of the turn.

    The empty line and the content are one text to the tokenizer, as in the family's chat template.
    """

    text: PlainText
    begin: int
    header: int
    header_end: int
    end: int
    name: str = "llama3"
    exact: bool = True

    def parts(self, messages: Sequence[Message]) -> list[Part]:
        """Return the turns as control ids and texts."""
        parts: list[Part] = [self.begin]
        for message in messages:
            parts += [self.header, message.role, self.header_end]
            parts += [_PARAGRAPH + message.content, self.end]
        return [*parts, self.header, "assistant", self.header_end, _PARAGRAPH]

    def render(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of the conversation, ready for the assistant's turn."""
        return encode(self.text, self.parts(messages))


@dataclass(frozen=True, slots=True)
class Gemma:
    """Gemma 1 to 3. There is no system turn: its text stands before the first user content.

    Both are joined by an empty line, as the family's own template does it.
    """

    text: PlainText
    begin: int
    start: int
    end: int
    name: str = "gemma"
    exact: bool = True

    def parts(self, messages: Sequence[Message]) -> list[Part]:
        """Return the turns as control ids and texts.

        Raises:
            MessagesNotRenderableError: a system turn anywhere but before the first user turn, or
                turns that do not alternate.
        """
        system, turns = _system_first(messages, "Gemma")
        parts: list[Part] = [self.begin]
        for place, message in enumerate(turns):
            role = "model" if message.role == "assistant" else "user"
            before = system + _PARAGRAPH if place == 0 and system is not None else ""
            parts += [self.start, f"{role}\n{before}{message.content}", self.end, "\n"]
        return [*parts, self.start, "model\n"]

    def render(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of the conversation, ready for the model's turn."""
        return encode(self.text, self.parts(messages))


@dataclass(frozen=True, slots=True)
class Mistral:
    """Mistral with control tokens around the user's turns: its tokenizers v2, v3 and v7.

    v2 and v3 (one format for messages without tools, named ``mistral-v3``) have no system turn:
    its text stands before the *last* user content, joined by an empty line. v7 gives it control
    tokens of its own. An assistant's turn is its content and the end of the text.
    """

    text: PlainText
    begin: int
    end: int
    user: int
    user_end: int
    system: int | None = None
    system_end: int | None = None
    # Its templates write the space that SentencePiece adds by itself.
    exact: bool = False

    @property
    def name(self) -> str:
        """``mistral-v3`` or ``mistral-v7``."""
        return "mistral-v3" if self.system is None else "mistral-v7"

    def parts(self, messages: Sequence[Message]) -> list[Part]:
        """Return the turns as control ids and texts.

        Raises:
            MessagesNotRenderableError: turns that do not alternate, that do not end with the
                user's, or a system turn that is not the first.
        """
        system, turns = _system_first(messages, "Mistral")
        if turns[-1].role != "user":
            raise MessagesNotRenderableError("Mistral's last turn must be the user's.")
        parts: list[Part] = [self.begin]
        before = ""
        if self.system is not None and self.system_end is not None and system is not None:
            parts += [self.system, system, self.system_end]
        elif system is not None:
            before = system + _PARAGRAPH
        for place, message in enumerate(turns):
            last = place == len(turns) - 1
            if message.role == "user":
                content = before + message.content if last else message.content
                parts += [self.user, content, self.user_end]
            else:
                parts += [message.content, self.end]
        return parts

    def render(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of the conversation, ready for the assistant's turn."""
        return encode(self.text, self.parts(messages))


def _system_first(messages: Sequence[Message], family: str) -> tuple[str | None, list[Message]]:
    """Return the text of the leading system turn, if any, and the turns after it."""
    turns = list(messages)
    system = turns.pop(0).content if turns and turns[0].role == "system" else None
    if not turns:
        raise MessagesNotRenderableError(f"{family} needs a user turn after the system turn.")
    for place, message in enumerate(turns):
        if message.role == "system":
            raise MessagesNotRenderableError(
                f"{family} takes one system turn, and only as the first."
            )
        if message.role != ("user", "assistant")[place % 2]:
            raise MessagesNotRenderableError(
                f"{family}'s turns must alternate between user and assistant, the user's first."
            )
    return system, turns
