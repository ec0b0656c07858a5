"""Words spelled so that a word list misses them, read back as the words they stand for.

Every reading must be a whole word of the vocabulary: a re-spelled text is never searched for
pieces of words. All steps are linear in the text: look-ups of bounded keys, no search.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

from onbook.domain.content_mode.folding import lookalikes_as_latin
from onbook.domain.content_mode.tokens import Token

# Figures and symbols as letters; l becomes i, since the figure 1 and the bar stand for both.
_LEET = str.maketrans("01345789@$!|+€£¡l", "oieastbgasiiteeii")
_L_AS_I = str.maketrans("l", "i")
_CHUNK = re.compile(r"[^\s,;:()\[\]{}<>\"“”„/\\]+")
_PLAIN_CHUNK = re.compile(r"[a-z]+[.!?'*]?\Z")
_JOINER = re.compile(r"[^\w@$!|+€£¡]+|_+")
_EDGE = ".!?'\u2019*_~-+|#`^&=%"
_DOUBLED = re.compile(r"([a-z])\1")
_REPEATS = re.compile(r"([a-z])\1+")
_MASK = re.compile(r"[^a-z0-9@$'\u2019&]")
# Single letters or letter-like symbols with up to three other characters between them. The two
# classes share no character, so there is one way to match and no backtracking.
_LETTER = r"[^\W_]|[@$!]"
_RUN = re.compile(
    rf"(?<![^\W_])(?:{_LETTER})(?![^\W_])(?:[^\w\n@$!]{{1,3}}(?:{_LETTER})(?![^\W_])"
    rf"|_{{1,3}}(?:{_LETTER})(?![^\W_])){{2,}}"
)
_LONGEST_MASKED = 14


def skeleton(word: str) -> str:
    """Return ``word`` with figures and symbols read as letters, i and l as one."""
    return word.translate(_LEET)


def _squeeze(word: str) -> str:
    return _REPEATS.sub(r"\1", word)


def _masks(word: str) -> Iterable[str]:
    """Return ``word`` with one letter, and if it is long enough two, behind a mask."""
    for first in range(len(word)):
        masked = f"{word[:first]}*{word[first + 1 :]}"
        yield masked
        if len(word) >= 5:
            for second in range(first + 1, len(word)):
                yield f"{masked[:second]}*{masked[second + 1 :]}"


class Respellings:
    """All spellings under which the words of a vocabulary are recognised.

    Args:
        vocabulary: The words to recognise: folded, Latin or Cyrillic, without spaces.
        fillers: Words that may stand beside a term in a run of single letters.
        whole_words: Short words that are never a part of a word cut in two.
    """

    def __init__(
        self, vocabulary: frozenset[str], *, fillers: frozenset[str], whole_words: frozenset[str]
    ) -> None:
        words = sorted(word for word in vocabulary if len(word) >= 3)
        self._words = frozenset(words)
        self._whole_words = whole_words
        self._skeletons = {skeleton(word): word for word in reversed(words)}
        self._squeezed = {
            _squeeze(word): word for word in words if len(_squeeze(word)) >= 3 and len(word) >= 4
        }
        self._undoubled = {
            word: word for word in words if len(word) >= 4 and not _DOUBLED.search(word)
        }
        self._masked = {
            masked: word
            for word in reversed(words)
            if len(word) <= _LONGEST_MASKED and word.isascii()
            for masked in _masks(word)
        }
        self._tiles: dict[str, str] = self._skeletons | {skeleton(word): word for word in fillers}
        self._fillers = fillers
        lengths: dict[str, set[int]] = {}
        for tile in self._tiles:
            lengths.setdefault(tile[0], set()).add(len(tile))
        self._tile_lengths = {first: tuple(sorted(each)) for first, each in lengths.items()}

    def resolve(self, text: str, tokens: Sequence[Token]) -> list[Token] | None:
        """Return the tokens with re-spelled words replaced, or None where there is none."""
        found: list[tuple[int, int, str]] = []
        for run in _RUN.finditer(text):
            found.extend(self._read_run(run.group(), run.start()))
        for match in _CHUNK.finditer(text):
            chunk = match.group()
            if _PLAIN_CHUNK.match(chunk):
                word = chunk if chunk[-1].isalpha() else chunk[:-1]
                if word not in self._words:
                    reading = self._skeletons.get(word.translate(_L_AS_I)) or (
                        self._unrepeated(word) if _DOUBLED.search(word) else None
                    )
                    if reading:
                        found.append((match.start(), match.start() + len(word), reading))
            else:
                found.extend(self._read_chunk(chunk, match.start()))
        found.extend(self._read_halves(tokens))
        return _merge(tokens, found) if found else None

    def _unrepeated(self, word: str) -> str | None:
        squeezed = _squeeze(word)
        if re.search(r"([a-z])\1\1", word):
            return self._squeezed.get(squeezed)
        return self._undoubled.get(squeezed)

    def _read_word(self, word: str) -> str | None:
        """Return the vocabulary word that ``word`` (without spaces) spells, or None."""
        if word in self._words:
            return None
        latin = word if word.isascii() else lookalikes_as_latin(word)
        if latin in self._words:
            return latin
        if any(each.isalpha() for each in latin) and not latin.isalpha():
            reading = self._skeletons.get(skeleton(latin))
            if reading:
                return reading
            if len(latin) <= _LONGEST_MASKED and _MASK.search(latin):
                masked = _MASK.sub("*", latin)
                reading = self._masked.get(masked)
                # Three letters say too little for any other mask than the usual one.
                if reading and (len(reading) > 3 or "*" in latin):
                    return reading
        if latin.isalpha() and _DOUBLED.search(latin):
            return self._unrepeated(latin)
        return None

    def _read_chunk(self, chunk: str, start: int) -> list[tuple[int, int, str]]:
        """Return the readings of one chunk: without its joiners, as a whole, or by its pieces."""
        bare = chunk.strip(_EDGE)
        offset = start + chunk.index(bare)
        pieces = [(each.start(), each.end()) for each in _JOINER.finditer(bare)]
        if pieces:
            # Before any mask: a character too many is likelier than one instead of a letter.
            joined = skeleton(lookalikes_as_latin(_JOINER.sub("", bare)))
            if not joined.isdecimal() and joined in self._skeletons:
                return [(offset, offset + len(bare), self._skeletons[joined])]
        for whole in (bare, chunk, chunk.rstrip(_EDGE), chunk.lstrip(_EDGE)):
            reading = self._read_word(whole)
            if reading:
                at = start + chunk.index(whole)
                return [(at, at + len(whole), reading)]
        if not pieces:
            return []
        found: list[tuple[int, int, str]] = []
        before = 0
        for left, right in [*pieces, (len(bare), len(bare))]:
            reading = self._read_word(bare[before:left])
            if reading:
                found.append((offset + before, offset + left, reading))
            before = right
        return found

    def _read_halves(self, tokens: Sequence[Token]) -> list[tuple[int, int, str]]:
        """Return words cut in two by a space: a letter and the rest, or two short halves."""
        found: list[tuple[int, int, str]] = []
        for left, right in pairwise(tokens):
            size = len(left.word), len(right.word)
            apart = not right.touches and right.start - left.end > 1
            if apart or (min(size) > 1 and (max(size) > 3 or sum(size) < 4)):
                continue
            whole = left.word + right.word
            if len(whole) < 4 or whole not in self._words:
                continue
            if left.word not in self._whole_words and right.word not in self._whole_words:
                found.append((left.start, right.end, whole))
        return found

    def _read_run(self, run: str, start: int) -> list[tuple[int, int, str]]:
        """Return the words that tile a run of single letters, at most one letter left over."""
        places = [at for at, each in enumerate(run) if each.isalnum() or each in "@$!"]
        letters = skeleton(lookalikes_as_latin("".join(run[at] for at in places)))
        count = len(letters)
        tiles = [
            (at, at + length)
            for at in range(count)
            for length in self._tile_lengths.get(letters[at], ())
            if at + length <= count and letters[at : at + length] in self._tiles
        ]
        # A comma, a wide gap or the change between figures and letters may be the end of a word.
        edges = {
            index + 1
            for index, (left, right) in enumerate(pairwise(places))
            if (right - left > 2 and " " in (run[left + 1], run[right - 1]))
            or run[left].isdecimal() != run[right].isdecimal()
        }
        from_left = {0, 1} | edges
        for left, right in tiles:
            if left in from_left:
                from_left.add(right)
        from_right = {count, count - 1} | edges
        for left, right in reversed(tiles):
            if right in from_right:
                from_right.add(left)
        return [
            (start + places[left], start + places[right - 1] + 1, self._tiles[letters[left:right]])
            for left, right in tiles
            if self._tiles[letters[left:right]] not in self._fillers
            and (right - left >= 6 or (left in from_left and right in from_right))
        ]


def _merge(tokens: Sequence[Token], found: list[tuple[int, int, str]]) -> list[Token]:
    """Return the tokens in order, those that a reading covers replaced by it."""
    merged: list[Token] = []
    position = 0
    covered = 0
    for start, end, word in sorted(found, key=lambda each: (each[0], -each[1])):
        if start < covered:
            continue
        while position < len(tokens) and tokens[position].end <= start:
            merged.append(tokens[position])
            position += 1
        touches = position < len(tokens) and tokens[position].touches
        while position < len(tokens) and tokens[position].start < end:
            position += 1
        merged.append(Token(word, start, end, touches))
        covered = end
    merged.extend(tokens[position:])
    return merged
