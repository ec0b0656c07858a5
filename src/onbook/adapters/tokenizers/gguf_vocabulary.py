"""The vocabulary inside a GGUF model file, read for checking what a worker says of its prompts.

A worker has code of its own for the same file: that the two agree is what the check is worth.
Every count in the file is held against the file's size before anything is built from it.
"""

import mmap
import struct
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

# Value types of the GGUF specification: 8 is a string, 9 an array, the others have fixed sizes.
_SIZES: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_UINT32: Final = 4
_INT32: Final = 5
_BOOL: Final = 7
_STRING: Final = 8
_ARRAY: Final = 9

_MAX_KEYS: Final = 10_000
_MAX_ITEMS: Final = 2_000_000
_MAX_KEPT_BYTES: Final = 4 * 1024 * 1024

_MODEL: Final = "tokenizer.ggml.model"
_PRE: Final = "tokenizer.ggml.pre"
_TOKENS: Final = "tokenizer.ggml.tokens"
_TYPES: Final = "tokenizer.ggml.token_type"
_MERGES: Final = "tokenizer.ggml.merges"
_BOS: Final = "tokenizer.ggml.bos_token_id"
_ADD_BOS: Final = "tokenizer.ggml.add_bos_token"
_TEMPLATE: Final = "tokenizer.chat_template"
_WANTED: Final = frozenset({_MODEL, _PRE, _TOKENS, _TYPES, _MERGES, _BOS, _ADD_BOS, _TEMPLATE})


class VocabularyUnreadable(Exception):
    """The file is no whole GGUF model; the message is one sentence with its path."""


@dataclass(frozen=True, slots=True)
class GgufVocabulary:
    """What a model file says about its tokenizer, as it says it.

    ``types`` are llama.cpp's: 1 is plain text, 3 a control token, 4 one that a user has defined.
    ``model`` and ``pre`` name the kind of tokenizer and how it splits texts; ``add_bos`` is None
    where the file leaves it open.
    """

    model: str
    pre: str
    tokens: list[str]
    types: "array[int]"
    merges: list[str]
    bos_id: int | None
    add_bos: bool | None
    chat_template: str | None


def read_vocabulary(path: Path) -> GgufVocabulary:
    """Read the vocabulary of the model file ``path``. Blocking: up to half a second.

    Raises:
        VocabularyUnreadable: the file is missing, no GGUF file, damaged, or without a vocabulary.
    """
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            found = _Reader(data).wanted()
    except FileNotFoundError:
        raise VocabularyUnreadable(f"There is no model file at {path}.") from None
    except (OSError, ValueError, struct.error):
        raise VocabularyUnreadable(f"{path} is no whole GGUF model file.") from None
    tokens, types, merges = found.get(_TOKENS), found.get(_TYPES), found.get(_MERGES, [])
    if (
        not isinstance(tokens, list)
        or not isinstance(types, array)
        or not isinstance(merges, list)
        or len(tokens) != len(types)
    ):
        raise VocabularyUnreadable(f"The model file {path} holds no vocabulary.")
    bos, add_bos, template = found.get(_BOS), found.get(_ADD_BOS), found.get(_TEMPLATE)
    return GgufVocabulary(
        model=str(found.get(_MODEL, "")),
        pre=str(found.get(_PRE, "")),
        tokens=tokens,
        types=types,
        merges=merges,
        bos_id=bos if type(bos) is int and bos < len(tokens) else None,
        add_bos=add_bos if isinstance(add_bos, bool) else None,
        chat_template=template if isinstance(template, str) else None,
    )


_Value: TypeAlias = "str | int | bool | list[str] | array[int] | None"


class _Reader:
    """A place in the file's bytes. Reading past their end raises ValueError."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._size, self._at = data, len(data), 0

    def wanted(self) -> dict[str, _Value]:
        """Return the header's entries that a tokenizer is made of."""
        if self._bytes(4) != b"GGUF" or self._number(4) not in (2, 3):
            raise ValueError
        self._bytes(8)
        keys = self._number(8)
        if keys > _MAX_KEYS:
            raise ValueError
        found: dict[str, _Value] = {}
        for _ in range(keys):
            key = self._bytes(self._number(8)).decode("utf-8", "replace")
            kind = self._number(4)
            if key in _WANTED:
                found[key] = self._value(kind)
            else:
                self._pass_over(kind)
        return found

    def _value(self, kind: int) -> _Value:
        if kind == _STRING:
            return self._text(self._number(8))
        if kind == _ARRAY:
            return self._array(self._number(4), self._number(8))
        data = self._bytes(self._size_of(kind))
        if kind == _BOOL:
            return data != b"\0"
        return int.from_bytes(data, "little") if kind in (_UINT32, _INT32) else None

    def _array(self, kind: int, count: int) -> _Value:
        if count > _MAX_ITEMS:
            raise ValueError
        if kind == _STRING:
            return [self._text(self._number(8)) for _ in range(count)]
        data = self._bytes(self._size_of(kind) * count)
        return array("i", data) if kind == _INT32 else None

    def _pass_over(self, kind: int) -> None:
        if kind == _STRING:
            self._move(self._number(8))
        elif kind == _ARRAY:
            item, count = self._number(4), self._number(8)
            if item == _STRING:
                if count > _MAX_ITEMS:
                    raise ValueError
                for _ in range(count):
                    self._move(self._number(8))
            else:
                self._move(self._size_of(item) * count)
        else:
            self._move(self._size_of(kind))

    def _size_of(self, kind: int) -> int:
        if kind not in _SIZES:
            raise ValueError
        return _SIZES[kind]

    def _text(self, size: int) -> str:
        if size > _MAX_KEPT_BYTES:
            raise ValueError
        return self._bytes(size).decode("utf-8", "replace")

    def _number(self, size: int) -> int:
        return int.from_bytes(self._bytes(size), "little")

    def _bytes(self, size: int) -> bytes:
        begin = self._at
        self._move(size)
        return self._data[begin : self._at]

    def _move(self, size: int) -> None:
        self._at += size
        if self._at > self._size:
            raise ValueError
