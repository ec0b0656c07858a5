"""Reading a GGUF file's metadata: what the model is, and which token ids are not text.

Only the key-value header is read (GGUF versions 2 and 3, little endian); tensors stay untouched.
"""

import mmap
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# Scalar value types of the GGUF specification: type id -> struct format.
_SCALARS: Final = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_STRING: Final = 8
_ARRAY: Final = 9
_INT32: Final = 5
# tokenizer.ggml.token_type: 3 is CONTROL, 4 is USER_DEFINED (llama.cpp, llama_token_type).
_CONTROL: Final = 3
_USER_DEFINED: Final = 4
_MAX_KEYS: Final = 100_000
_LENGTH_BYTES: Final = 8


class ModelFileError(Exception):
    """The file is not a whole GGUF model; the message is one sentence with the path."""


@dataclass(frozen=True, slots=True)
class GgufModel:
    """What the header says. ``special`` maps token text to id, for ids that are not plain text."""

    architecture: str
    context_length: int | None
    chat_template: str | None
    special: dict[str, int]


def read_gguf(path: Path) -> GgufModel:
    """Read the header of ``path``.

    Raises:
        ModelFileError: the file is missing, no GGUF file, or cut off.
    """
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            return _model(dict(_entries(_Cursor(data), path)), path)
    except FileNotFoundError:
        raise ModelFileError(f"There is no model file at {path}.") from None
    except (OSError, struct.error, LookupError, ValueError, MemoryError):
        raise ModelFileError(f"The model file {path} is damaged or cut off.") from None


class _Cursor:
    """A read position in the file; every read past the end raises."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.at = 0

    def expect(self, size: int) -> None:
        if self.at + size > len(self.data):
            raise IndexError(size)

    def skip(self, size: int) -> None:
        self.expect(size)
        self.at += size

    def take(self, size: int) -> bytes:
        self.skip(size)
        return self.data[self.at - size : self.at]

    def unpack(self, layout: str) -> int:
        (value,) = struct.unpack(layout, self.take(struct.calcsize(layout)))
        return int(value)

    def string(self) -> str:
        return self.take(self.unpack("<Q")).decode("utf-8", "replace")


def _entries(cursor: _Cursor, path: Path) -> Iterator[tuple[str, object]]:
    if cursor.take(4) != b"GGUF":
        raise ModelFileError(f"{path} is not a GGUF model file.")
    if cursor.unpack("<I") not in (2, 3):
        raise ModelFileError(f"{path} has a GGUF version that is not supported (2 and 3 are).")
    cursor.take(8)
    count = cursor.unpack("<Q")
    if count > _MAX_KEYS:
        raise IndexError(count)
    for _ in range(count):
        key = cursor.string()
        yield key, _value(cursor, cursor.unpack("<I"))


def _value(cursor: _Cursor, kind: int) -> object:
    if kind == _STRING:
        return cursor.string()
    if kind == _ARRAY:
        item_kind, length = cursor.unpack("<I"), cursor.unpack("<Q")
        if item_kind == _STRING:
            # Each text takes eight bytes at least: no count beyond that is worth starting on.
            cursor.expect(_LENGTH_BYTES * length)
            return [cursor.string() for _ in range(length)]
        size = struct.calcsize(_SCALARS[item_kind]) * length
        if item_kind == _INT32:
            return array("i", cursor.take(size))
        cursor.skip(size)
        return None
    if kind not in _SCALARS:
        raise ValueError(kind)
    layout = _SCALARS[kind]
    return struct.unpack(layout, cursor.take(struct.calcsize(layout)))[0]


def _model(entries: dict[str, object], path: Path) -> GgufModel:
    architecture = str(entries.get("general.architecture", "unknown"))
    tokens = entries.get("tokenizer.ggml.tokens")
    types = entries.get("tokenizer.ggml.token_type")
    if not isinstance(tokens, list) or not isinstance(types, array) or len(tokens) != len(types):
        raise ModelFileError(f"The model file {path} carries no tokenizer.")
    template = entries.get("tokenizer.chat_template")
    return GgufModel(
        architecture=architecture,
        context_length=_positive(entries.get(f"{architecture}.context_length")),
        chat_template=template if isinstance(template, str) else None,
        special={
            str(text): index
            for index, (text, kind) in enumerate(zip(tokens, types, strict=True))
            if kind in (_CONTROL, _USER_DEFINED)
        },
    )


def _positive(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None
