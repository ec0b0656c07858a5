"""Byte-level byte-pair encoding from a model's own vocabulary: plain text to token ids.

Equal to llama.cpp's ids or nothing: where the two could differ, no ids are given at all.
"""

import unicodedata
from heapq import heapify, heappop, heappush
from typing import Final

import regex

from onbook.adapters.tokenizers.gguf_vocabulary import GgufVocabulary

_GPT2: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# Digits are split off first, so that white space in front of one ends as at the end of the text.
_SINGLE_NUMBERS: Final = (
    r"'s|'t|'re|'ve|'m|'ll|'d|\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"
)
_MODERN: Final = (
    r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+"
    r"|\p{N}{1,%d}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# By the name of the pre-tokenizer in the file; the rules are those of the models' own tokenizers.
_SPLITS: Final = {
    "gpt-2": _GPT2,
    "smollm": _SINGLE_NUMBERS,
    "qwen2": _MODERN % 1,
    "llama-bpe": _MODERN % 3,
}
# llama.cpp takes a whole word that is a token as it is for these, without merging up to it.
_WHOLE_WORDS: Final = frozenset({"llama-bpe"})
_PLAIN: Final = 1
_USER_DEFINED: Final = 4
# What a control token may look like, also where a file calls it plain: a worker cuts it apart.
_MARK: Final = regex.compile(r"<.+>|\[.+\]", regex.DOTALL)

_MAX_CHARS: Final = 200_000
_CACHED_WORDS: Final = 20_000
_CACHED_WORD_CHARS: Final = 64
_MISSING: Final = -1
_DEAD: Final = -2


class ByteLevelBpe:
    """Encodes plain text; no text is ever read as a control token.

    Raises:
        ValueError: the vocabulary is of another kind, or not of one piece.
    """

    def __init__(self, vocabulary: GgufVocabulary) -> None:
        if vocabulary.model != "gpt2" or vocabulary.pre not in _SPLITS:
            raise ValueError(vocabulary.pre)
        ids = {text: index for index, text in enumerate(vocabulary.tokens)}
        self._split = regex.compile(_SPLITS[vocabulary.pre])
        self._whole = ids if vocabulary.pre in _WHOLE_WORDS else {}
        symbols = _byte_symbols()
        self._symbols = dict(enumerate(symbols))
        self._bytes = [ids.get(symbol, _MISSING) for symbol in symbols]
        self._merges: dict[tuple[int, int], tuple[int, int]] = {}
        for rank, line in enumerate(vocabulary.merges):
            left, _, right = line.partition(" ")
            if left not in ids or right not in ids or left + right not in ids:
                raise ValueError(line)
            self._merges.setdefault((ids[left], ids[right]), (rank, ids[left + right]))
        # llama.cpp reads these even in plain text, and a worker has to cut them apart.
        self._defined = [
            text
            for text, kind in zip(vocabulary.tokens, vocabulary.types, strict=True)
            if kind == _USER_DEFINED and text
        ]
        self._never_plain = frozenset(
            index
            for index, (text, kind) in enumerate(
                zip(vocabulary.tokens, vocabulary.types, strict=True)
            )
            if kind != _PLAIN or _MARK.fullmatch(text)
        )
        self._words: dict[str, tuple[int, ...]] = {}

    def encode(self, text: str) -> list[int] | None:
        """Return the ids of ``text``, or None where another tokenizer might give others."""
        if len(text) > _MAX_CHARS or not _certain(text):
            return None
        if any(literal in text for literal in self._defined):
            return None
        ids: list[int] = []
        words = self._words
        for word in self._split.findall(text):
            known = words.get(word)
            if known is None:
                known = tuple(self._word(word))
                if len(word) <= _CACHED_WORD_CHARS:
                    if len(words) >= _CACHED_WORDS:
                        words.clear()
                    words[word] = known
            ids += known
        return ids if self._never_plain.isdisjoint(ids) and _MISSING not in ids else None

    def _word(self, word: str) -> list[int]:
        data = word.encode()
        if self._whole:
            whole = self._whole.get("".join(map(self._symbols.__getitem__, data)))
            if whole is not None:
                return [whole]
        return self._merged([self._bytes[byte] for byte in data])

    def _merged(self, ids: list[int]) -> list[int]:
        # The pair of lowest rank first, leftmost among equals. Entries of the heap that a merge
        # has overtaken are known by their pair, and left out when they come up.
        merges, length = self._merges, len(ids)
        after, before = list(range(1, length + 1)), list(range(-1, length - 1))
        heap: list[tuple[int, int, int]] = []

        def offer(at: int) -> None:
            right = after[at]
            if right < length and (found := merges.get((ids[at], ids[right]))) is not None:
                heappush(heap, (found[0], at, found[1]))

        for at in range(length - 1):
            found = merges.get((ids[at], ids[at + 1]))
            if found is not None:
                heap.append((found[0], at, found[1]))
        heapify(heap)
        while heap:
            rank, at, merged = heappop(heap)
            right = after[at]
            if ids[at] == _DEAD or right >= length:
                continue
            if merges.get((ids[at], ids[right])) != (rank, merged):
                continue
            ids[at], ids[right] = merged, _DEAD
            after[at] = following = after[right]
            if following < length:
                before[following] = at
            offer(at)
            if before[at] >= 0:
                offer(before[at])
        return [token for token in ids if token != _DEAD]


def _certain(text: str) -> bool:
    """Tell whether all tokenizers of one vocabulary read ``text`` alike.

    They do not where one of them composes characters first (NFC), or knows a newer Unicode.
    """
    if text.isascii():
        return True
    return unicodedata.is_normalized("NFC", text) and _UNSURE.search(text) is None


# Not assigned, for private use, or half of a pair: tables differ in what such a character is.
_UNSURE: Final = regex.compile(r"[\p{Cn}\p{Co}\p{Cs}]")


def _byte_symbols() -> list[str]:
    """Return the character that stands for each byte in a vocabulary, as GPT-2 chose them."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = iter(range(0x100, 0x200))
    return [chr(byte) if byte in visible else chr(next(hidden)) for byte in range(0x100)]
