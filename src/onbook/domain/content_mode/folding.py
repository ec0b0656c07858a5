"""A copy of a text to look for terms in, with the way back to the original offsets.

The copy is never shown, sent or stored. It is lower case, compatibility-decomposed (NFKD), without
combining marks, format characters and variation selectors; Cyrillic, Greek and Armenian look-alikes
are read as Latin in words that mix them with Latin letters.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

# By the Latin letter: the Cyrillic, Greek and Armenian letters that are used for it.
_LOOKALIKES = {
    "a": "\u0430\u03b1",
    "b": "\u0432\u044c\u03b2",
    "c": "\u0441\u03f2",
    "d": "\u0434\u0501",
    "e": "\u04d9\u0435\u0437\u03b5",
    "g": "\u0581",
    "h": "\u043d\u04bb\u0570",
    "i": "\u0456\u0457\u04cf\u03b9",
    "j": "\u0458\u03f3",
    "k": "\u043a\u03ba",
    "m": "\u043c",
    "n": "\u043f\u03b7\u0578",
    "o": "\u043e\u03bf\u03c3\u0585",
    "p": "\u0440\u03c1",
    "q": "\u051b",
    "r": "\u0433\u044f",
    "s": "\u0455",
    "t": "\u0442\u03c4",
    "u": "\u0438\u0446\u03c5\u057d",
    "v": "\u0475\u03bd",
    "w": "\u0461\u051d\u03c9",
    "x": "\u0445\u03c7",
    "y": "\u0443\u03b3",
}
_TABLE = str.maketrans({other: latin for latin, all_ in _LOOKALIKES.items() for other in all_})
# Small capitals, in the order of the letters below, and Latin letters that NFKD leaves alone.
_SMALL_CAPITALS = "\u1d00\u0299\u1d04\u1d05\u1d07\ua730\u0262\u029c\u026a\u1d0a\u1d0b\u029f"
_SMALL_CAPITALS += "\u1d0d\u0274\u1d0f\u1d18\u0280\ua731\u1d1b\u1d1c\u1d20\u1d21\u028f\u1d22"
_OTHER_LATIN = "\u0131\u00f8\u0142\u0111\u0251\u0261\u0269\u0127\u0167\u0192\u025b\u0254"
_SINGLE = dict(
    zip(_SMALL_CAPITALS + _OTHER_LATIN, "abcdefghijklmnoprstuvwyz" + "ioldagihtfeo", strict=True)
)
# First code points of 26-letter runs that NFKD leaves alone: enclosed and regional letters.
_ENCLOSED = (0x1F150, 0x1F170, 0x1F1E6)
_DROPPED = frozenset(("Mn", "Me", "Cf"))

_WORD = re.compile(r"[^\W_]+")
_LATIN = re.compile(r"[a-z]")


@dataclass(frozen=True, slots=True)
class Folded:
    """The detection copy; ``origins[i]`` is the original offset of ``text[i]``, None: the same."""

    text: str
    origins: Sequence[int] | None

    def original(self, start: int, end: int) -> tuple[int, int]:
        """Return the original offsets (end exclusive) of the non-empty piece start..end."""
        if self.origins is None:
            return start, end
        return self.origins[start], self.origins[end - 1] + 1


@lru_cache(maxsize=8192)
def _fold_character(character: str) -> str:
    code = ord(character)
    for first in _ENCLOSED:
        if first <= code < first + 26:
            return chr(code - first + 97)
    # Lower case comes after the decomposition: bold and circled capitals become plain ones first.
    kept = (
        each
        for each in unicodedata.normalize("NFKD", character)
        if unicodedata.category(each) not in _DROPPED
    )
    # A few ligatures hold whole sentences; four letters of one character are enough.
    lowered = "".join(kept)[:4].lower()
    # Lower case of some capitals brings a combining mark back.
    return "".join(_SINGLE.get(each, each) for each in lowered if not unicodedata.combining(each))


def lookalikes_as_latin(word: str) -> str:
    """Return the folded ``word`` with each look-alike replaced, one letter for one."""
    return word.translate(_TABLE)


def _mixed_as_latin(match: re.Match[str]) -> str:
    word = match.group()
    if word.isascii() or not _LATIN.search(word):
        return word
    return word.translate(_TABLE)


def fold(text: str) -> Folded:
    """Return the detection copy of ``text``, in time linear in its length; never raises."""
    if text.isascii():
        return Folded(text=text.lower(), origins=None)
    pieces: list[str] = []
    origins: list[int] = []
    for offset, character in enumerate(text):
        piece = character.lower() if character < "\x80" else _fold_character(character)
        pieces.append(piece)
        if len(piece) == 1:
            origins.append(offset)
        else:
            origins.extend([offset] * len(piece))
    folded = _WORD.sub(_mixed_as_latin, "".join(pieces))
    return Folded(text=folded, origins=origins)
