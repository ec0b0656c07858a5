"""Byte-pair encoding with CLIP's vocabulary: one word of UTF-8 text to CLIP's token ids."""

import gzip
import hashlib
from heapq import heapify, heappop, heappush
from importlib.resources import files
from itertools import pairwise

MERGES_SHA256 = "616f0306ad91e158828badf1b01f639688dbf6c0ac8ade78bf8273cd8cbdf44e"

START_OF_TEXT = "<|startoftext|>"
END_OF_TEXT = "<|endoftext|>"

_WORD_END = "</w>"
_FIRST_MERGE_ID = 512  # 256 bytes, then the same 256 bytes at the end of a word
_SHIFT = 16  # two ids, each below 2**16, make one integer key
_DEAD = -1


class TokenizerDataError(RuntimeError):
    """The packaged vocabulary is not the one that was released; reinstall the package."""


class BytePairs:
    """CLIP's merges, ready to apply. Immutable after construction, so safe to share.

    Raises:
        TokenizerDataError: The packaged merges are missing or not the released ones.
    """

    def __init__(self) -> None:
        symbols = _byte_symbols()
        self._byte_ids = bytes_to_ids = [0] * 256
        for token_id, byte in enumerate(_byte_order()):
            bytes_to_ids[byte] = token_id
        ids = {symbols[byte]: token_id for token_id, byte in enumerate(_byte_order())}
        ids |= {symbol + _WORD_END: 256 + token_id for symbol, token_id in ids.items()}
        self._merges: dict[int, int] = {}
        for merged_id, line in enumerate(packaged_merges(), start=_FIRST_MERGE_ID):
            left, _, right = line.partition(" ")
            self._merges[ids[left] << _SHIFT | ids[right]] = merged_id
            ids[left + right] = merged_id
        self._special = {START_OF_TEXT: len(ids), END_OF_TEXT: len(ids) + 1}
        end = len(_WORD_END)
        # ASCII only: there a symbol's spelling is the word itself.
        self.whole_words = frozenset(
            symbol[:-end] for symbol in ids if symbol.endswith(_WORD_END) and symbol.isascii()
        ) | frozenset(self._special)

    def encode(self, word: str) -> list[int]:
        """Return the ids of ``word`` (lower case, no surrogates), in O(n log n) of its bytes.

        A control token's spelling is that one token, as in OpenAI's own encoder.
        """
        if not word:
            return []
        if (special := self._special.get(word)) is not None:
            return [special]
        ids = [self._byte_ids[byte] for byte in word.encode()]
        ids[-1] += 256
        return self._merge(ids)

    def _merge(self, ids: list[int]) -> list[int]:
        # The pair of lowest rank first, leftmost first among equals: the published rule. A merge's
        # id grows with its rank, so the id is the priority; dead and stale entries are skipped.
        merges, length = self._merges, len(ids)
        after, before = list(range(1, length + 1)), list(range(-1, length - 1))
        heap = [
            (merged, at)
            for at, (left, right) in enumerate(pairwise(ids))
            if (merged := merges.get(left << _SHIFT | right)) is not None
        ]
        heapify(heap)
        while heap:
            merged, at = heappop(heap)
            right = after[at]
            if ids[at] == _DEAD or right == length:
                continue
            if merges.get(ids[at] << _SHIFT | ids[right]) != merged:
                continue
            ids[at], ids[right] = merged, _DEAD
            after[at] = following = after[right]
            if following < length:
                before[following] = at
                pair = merges.get(merged << _SHIFT | ids[following])
                if pair is not None:
                    heappush(heap, (pair, at))
            previous = before[at]
            if previous >= 0:
                pair = merges.get(ids[previous] << _SHIFT | merged)
                if pair is not None:
                    heappush(heap, (pair, previous))
        return [token_id for token_id in ids if token_id != _DEAD]


def packaged_merges() -> list[str]:
    """Return the 48,894 merges in rank order, each as ``left right``.

    Raises:
        TokenizerDataError: The file is missing or its SHA-256 is not ``MERGES_SHA256``.
    """
    path = files("onbook.adapters.tokenizers") / "data" / "clip_merges.txt.gz"
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise TokenizerDataError(
            "The CLIP merges are missing from the installed package; reinstall it."
        ) from error
    return unpack_merges(packed)


def unpack_merges(packed: bytes) -> list[str]:
    """Return the merges in the gzip file ``packed``, after checking its SHA-256.

    Raises:
        TokenizerDataError: The digest is not ``MERGES_SHA256``.
    """
    if hashlib.sha256(packed).hexdigest() != MERGES_SHA256:
        raise TokenizerDataError(
            "The packaged CLIP merges do not have their released SHA-256; reinstall the package."
        )
    return gzip.decompress(packed).decode().splitlines()


def _byte_order() -> list[int]:
    """Return the 256 bytes in the order of CLIP's ids: the visible Latin-1 ones first."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return visible + sorted(set(range(256)) - set(visible))


def _byte_symbols() -> dict[int, str]:
    """Return the character that stands for each byte in the merges file."""
    order = _byte_order()
    visible = 256 - 68
    return {
        byte: chr(byte if at < visible else 256 + at - visible) for at, byte in enumerate(order)
    }
