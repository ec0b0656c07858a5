"""OpenAI CLIP's tokenizer, exact and counted in the spelling on which its readers agree.

Two conventions are in use. OpenAI's own code and open_clip repair the text first (mojibake with
ftfy, HTML entities twice); Hugging Face's fast tokenizer only normalises to NFC. So the text is
sent in its repaired spelling, where both read the same, and the count is the larger of the two.
Weights, brackets and LoRA tags are counted as written: the upper bound for every dialect.
"""

import html
import re
from functools import cached_property

import regex

from onbook.adapters.tokenizers.byte_pairs import END_OF_TEXT, START_OF_TEXT, BytePairs
from onbook.adapters.tokenizers.unicode_text import sort_long_mark_runs, well_formed

_WORD = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
_OPENAI_WORD = regex.compile(_WORD, regex.IGNORECASE)
_HUGGING_FACE_WORD = regex.compile(_WORD)
_ASCII_WORD = re.compile(r"'(?:s|t|re|ve|m|ll|d)|[a-z]+|[0-9]|[^\sa-z0-9]+", re.ASCII)
_CONTROL_TOKEN = re.compile(f"{re.escape(START_OF_TEXT)}|{re.escape(END_OF_TEXT)}")

# Without any of these there is nothing to repair: no entity, no control character, and no mojibake,
# for the dashes and the ellipsis beside ASCII never form UTF-8 in any legacy encoding.
_NEEDS_REPAIR = re.compile(r"[^\t\n\r -%'-~\u2013\u2014\u2026]")
_SPACES = regex.compile(r"\s+")

# int() refuses more than 4,300 digits; ten significant ones are already past the last code point.
_LONG_DECIMAL = re.compile(r"&#0*([0-9]{10})[0-9]*")
_ZERO_PADDED = re.compile(r"&#0{10,}(?=[0-9])")

_CAPITAL_SIGMA, _SMALL_SIGMA = "\u03a3", "\u03c3"

# All that the conventions can read differently: a control token is cut out before words are, a
# capital sigma does not look at its place, and two characters have a letter only as other case
# (the long s an s, the iota subscript an iota), so they match otherwise when case is ignored.
_READ_DIFFERENTLY = re.compile("<\\||\u03a3|\u017f|\u0345")

_MAX_REPAIRS = 8
_CACHED_WORDS = 65_536
_CACHED_WORD_LENGTH = 48


class ClipCounter:
    """Counts CLIP tokens, without start and end tokens; nothing is ever truncated.

    Safe to share between threads. The vocabulary loads on first use, or with ``warm``.
    """

    name = "clip"

    def warm(self) -> None:
        """Load the vocabulary now.

        Raises:
            TokenizerDataError: The packaged vocabulary is missing or damaged.
        """
        self.count("warm")

    def canonical(self, text: str) -> str:
        """Return the repaired spelling: ftfy, entities resolved, one space between words.

        Repeats until nothing changes. Entities nested deeper than 16 are left apart
        (``& amp;``): such a text is no prompt, and each level would cost a pass.
        """
        if _NEEDS_REPAIR.search(text) is None:
            return " ".join(text.split())
        text = sort_long_mark_runs(well_formed(text))
        for _ in range(_MAX_REPAIRS):
            repaired = _repair(text)
            if repaired == text:
                return text
            text = repaired
        return _repair(text.replace("&", "& "))

    def count(self, text: str) -> int:
        """Return the tokens of ``text``: the larger count of the two conventions."""
        text = self.canonical(text)
        differs = _READ_DIFFERENTLY.search(text) is not None
        if text.isascii() and not differs:
            return self._total(_ASCII_WORD.findall(text.lower()))
        total = self._total(_OPENAI_WORD.findall(text.lower()))
        if differs:
            pieces = _CONTROL_TOKEN.split(text.replace(_CAPITAL_SIGMA, _SMALL_SIGMA).lower())
            words = [word for piece in pieces for word in _HUGGING_FACE_WORD.findall(piece)]
            total = max(total, self._total(words) + len(pieces) - 1)
        return total

    def encode(self, text: str) -> list[int]:
        """Return CLIP's own ids for ``text`` in OpenAI's convention, without start and end."""
        words = _OPENAI_WORD.findall(self.canonical(text).lower())
        return [token_id for word in words for token_id in self._byte_pairs.encode(word)]

    def _total(self, words: list[str]) -> int:
        return sum(map(self._word_counts.__getitem__, words))

    @cached_property
    def _byte_pairs(self) -> BytePairs:
        return BytePairs()

    @cached_property
    def _word_counts(self) -> "_WordCounts":
        return _WordCounts(self._byte_pairs)


class _WordCounts(dict[str, int]):
    """Tokens per word, remembered for short words and emptied when full.

    Two threads may compute the same word; both store the same number.
    """

    def __init__(self, byte_pairs: BytePairs) -> None:
        super().__init__()
        self._byte_pairs = byte_pairs

    def __missing__(self, word: str) -> int:
        known = word in self._byte_pairs.whole_words
        tokens = 1 if known else len(self._byte_pairs.encode(word))
        if len(word) <= _CACHED_WORD_LENGTH:
            if len(self) >= _CACHED_WORDS:
                self.clear()
            self[word] = tokens
        return tokens


def _repair(text: str) -> str:
    import ftfy  # noqa: PLC0415 - slow to import, and an ASCII prompt never needs it
    from ftfy.fixes import unescape_html  # noqa: PLC0415 - the same

    # One level per pass, where fix_text would loop once per nested entity over the whole text.
    if "<" not in text:
        text = unescape_html(text)
    text = ftfy.fix_text(text, unescape_html=False)
    text = _unescape(_unescape(text))
    spaced: str = _SPACES.sub(" ", text)
    return spaced.strip()


def _unescape(text: str) -> str:
    if "&" not in text:
        return text
    return html.unescape(_LONG_DECIMAL.sub(r"&#\1", _ZERO_PADDED.sub("&#", text)))
