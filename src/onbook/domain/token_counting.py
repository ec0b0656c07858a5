"""How many tokens a text costs its reader, and in which spelling that count is exact."""

from typing import Protocol


class TokenCounter(Protocol):
    """Counts a text exactly as its reader (the generator's text encoder) will.

    ``name`` goes out as ``tokenizer`` in the answer: ``clip``, ``qwen``, ``chars``.
    """

    @property
    def name(self) -> str:
        """The tokenizer's name, as reported to the caller."""

    def canonical(self, text: str) -> str:
        """Return the spelling to send, on which all implementations of the tokenizer agree."""

    def count(self, text: str) -> int:
        """Return the tokens of ``text``, without start and end tokens."""


class CharacterCounter:
    """Counts Unicode code points: for readers whose limit is one of length."""

    name = "chars"

    def canonical(self, text: str) -> str:
        """Return ``text`` unchanged: characters have one spelling."""
        return text

    def count(self, text: str) -> int:
        """Return the number of code points."""
        return len(text)
