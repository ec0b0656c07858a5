"""Reading a GGUF file's metadata: what the model is, and which token ids are not text.

Only the key-value header is read (GGUF versions 2 and 3, little endian); tensors stay untouched.
"""

import math
import mmap
import struct
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from onbook.worker.rendering.literals import FAMILY_LITERALS
from onbook.worker.rendering.plain_text import PlainText, Tokenize, is_control

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
_GGML: Final = "tokenizer.ggml"
_INT32: Final = 5
# tokenizer.ggml.token_type: 3 is CONTROL, 4 is USER_DEFINED (llama.cpp, llama_token_type).
_CONTROL: Final = 3
_USER_DEFINED: Final = 4
_MAX_KEYS: Final = 100_000
# No text of a header is near this long; a chat template has some ten thousand bytes.
_MAX_TEXT_BYTES: Final = 16 * 1024 * 1024
_MAX_TOKENS: Final = 4_000_000
_MAX_VOCABULARY_BYTES: Final = 256 * 1024 * 1024
_LENGTH_BYTES: Final = 8
_CONTEXT: Final = ".context_length"
_RMS_EPSILON: Final = ".attention.layer_norm_rms_epsilon"
# What llama.cpp computes sizes from: with figures outside of these it ends the whole process, or
# asks for all memory there is. The largest models known have a tenth of each limit at most.
_SANE: Final = {
    ".block_count": (1, 1024),
    ".embedding_length": (1, 1 << 20),
    ".feed_forward_length": (0, 1 << 22),
    ".attention.head_count": (0, 1 << 14),
    ".attention.head_count_kv": (0, 1 << 14),
}
_MAX_CONTEXT: Final = 1 << 28
_CHECKED: Final = (*_SANE, _CONTEXT, _RMS_EPSILON)
_READ: Final = frozenset(
    {
        "general.architecture",
        "tokenizer.chat_template",
        *(
            f"{_GGML}.{name}"
            for name in (
                "model", "pre", "tokens", "token_type", "add_bos_token",
                "bos_token_id", "eos_token_id", "eot_token_id", "eom_token_id",
            )
        ),
    }
)  # fmt: skip
# Byte-level vocabularies whose llama.cpp pre-tokenizer puts the first token before every text
# where the file does not say (llama-vocab.cpp, load of the pre-tokenizer type).
_PRE_WITH_BOS: Final = frozenset(
    {"llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "tekken", "chameleon"}
)
# Pre-tokenizers that llama.cpp runs without recursion: a million characters of one kind, of each
# of 19 kinds, went through each of them. All others match with the C++ library's recursive regular
# expressions, where some 20,000 characters in one run overflow the stack and end the process.
_PRE_WITHOUT_RECURSION: Final = frozenset(
    {
        "qwen2", "deepseek-r1-qwen", "stablelm2", "hunyuan", "megrez", "kimi-k2",
        "llama-bpe", "falcon3", "pixtral", "dbrx", "smaug-bpe", "glm4", "chatglm-bpe", "lfm2",
        "starcoder", "smollm", "refact", "command-r", "codeshell", "exaone", "minerva-7b",
        "gpt-2", "mpt", "phi-2", "olmo", "jais", "trillion", "exaone4", "granite-docling",
        "gigachat", "mellum", "modern-bert", "roberta-bpe", "jina-v2-es", "jina-v2-de",
        "chameleon", "grok-2", "llama3", "falcon-h1", "qwen35", "kormo", "midm-2.0", "solar-open",
        "jina-v2-code", "jina-es", "a.x-4.0",
    }
)  # fmt: skip
_LONGEST_RUN: Final = 1024
# Kinds of tokenizers whose ids each stand for the bytes of one token at most.
_BYTE_EXACT: Final = frozenset({"gpt2", "llama"})


class ModelFileError(Exception):
    """The file is not a whole GGUF model; the message is one sentence with the path."""


@dataclass(frozen=True, slots=True)
class GgufModel:
    """What the header says.

    ``special`` maps token text to id, for the ids that must not come from a content: control
    tokens, user-defined ones that are not mere white space, and whatever ends a text or has the
    name of a known control token. ``bos`` is the id that the model wants before every prompt,
    None where it wants none; ``eos`` ends its texts. ``tokenizer`` and ``pre`` name the kind of
    tokenizer and how it splits texts.
    """

    architecture: str
    context_length: int | None
    chat_template: str | None
    special: dict[str, int]
    tokenizer: str = "unknown"
    pre: str | None = None
    bos: int | None = None
    eos: int | None = None
    longest_token_bytes: int | None = None

    @property
    def longest_run(self) -> int | None:
        """How many characters of one kind in a row it survives, None where there is no limit."""
        safe = self.tokenizer != "gpt2" or self.pre in _PRE_WITHOUT_RECURSION
        return None if safe else _LONGEST_RUN

    def plain_text(self, tokenize: Tokenize) -> PlainText:
        """Return the tokenizer of contents, over the engine's ``tokenize``."""
        return PlainText(
            tokenize,
            self.special,
            self.bos,
            self.eos,
            self.longest_token_bytes,
            self.longest_run,
        )


def read_gguf(path: Path) -> GgufModel:
    """Read the header of ``path``.

    Raises:
        ModelFileError: the file is missing, no GGUF file, cut off, or of impossible dimensions.
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

    def within(self, last: int) -> bool:
        if self.at > last:
            raise IndexError(last)
        return True

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
        size = self.unpack("<Q")
        if size > _MAX_TEXT_BYTES:
            raise IndexError(size)
        return self.take(size).decode("utf-8", "replace")


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
        kind = cursor.unpack("<I")
        if key in _READ or key.endswith(_CHECKED):
            yield key, _value(cursor, kind)
        else:
            _pass_over(cursor, kind)


def _pass_over(cursor: _Cursor, kind: int) -> None:
    if kind == _STRING:
        cursor.skip(cursor.unpack("<Q"))
    elif kind == _ARRAY:
        item_kind, length = cursor.unpack("<I"), cursor.unpack("<Q")
        if item_kind == _STRING:
            cursor.expect(_LENGTH_BYTES * length)
            for _ in range(length):
                cursor.skip(cursor.unpack("<Q"))
        else:
            cursor.skip(struct.calcsize(_SCALARS[item_kind]) * length)
    else:
        cursor.skip(struct.calcsize(_SCALARS[kind]))


def _value(cursor: _Cursor, kind: int) -> object:
    if kind == _STRING:
        return cursor.string()
    if kind == _ARRAY:
        item_kind, length = cursor.unpack("<I"), cursor.unpack("<Q")
        if item_kind == _STRING:
            # Each text takes eight bytes at least: no count beyond that is worth starting on.
            cursor.expect(_LENGTH_BYTES * length)
            if length > _MAX_TOKENS:
                raise IndexError(length)
            last = cursor.at + _MAX_VOCABULARY_BYTES
            return [cursor.string() for _ in range(length) if cursor.within(last)]
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
    tokens = entries.get(f"{_GGML}.tokens")
    types = entries.get(f"{_GGML}.token_type")
    if not isinstance(tokens, list) or not isinstance(types, array) or len(tokens) != len(types):
        raise ModelFileError(f"The model file {path} carries no tokenizer.")
    tokens = cast(list[str], tokens)
    _check_sane(entries, architecture, path)
    template = entries.get("tokenizer.chat_template")
    kind, pre = entries.get(f"{_GGML}.model"), entries.get(f"{_GGML}.pre")
    ids = {
        name: _index(entries.get(f"{_GGML}.{name}_token_id"), len(tokens))
        for name in ("bos", "eos", "eot", "eom")
    }
    tokenizer = kind if isinstance(kind, str) else "unknown"
    return GgufModel(
        architecture=architecture,
        context_length=_positive(entries.get(architecture + _CONTEXT)),
        chat_template=template if isinstance(template, str) else None,
        special=_special(tokens, types, ids.values()),
        tokenizer=tokenizer,
        pre=pre if isinstance(pre, str) else None,
        bos=ids["bos"] if _wants_bos(entries, tokenizer, pre) else None,
        eos=ids["eos"],
        longest_token_bytes=_longest(tokens, tokenizer),
    )


def _check_sane(entries: dict[str, object], architecture: str, path: Path) -> None:
    """Check the dimensions that the file states; per-layer figures are each checked alike."""
    for name, (least, most) in _SANE.items():
        stated = entries.get(architecture + name)
        figures = stated if isinstance(stated, array) else [stated]
        if any(type(one) is int and not least <= one <= most for one in figures):
            raise ModelFileError(
                f"The model file {path} states an impossible {architecture}{name}: llama.cpp takes "
                f"{least} to {most}."
            )
    if (_positive(entries.get(architecture + _CONTEXT)) or 0) > _MAX_CONTEXT:
        raise ModelFileError(f"The model file {path} states an impossible context length.")
    heads, width = (
        entries.get(architecture + name) for name in (".attention.head_count", ".embedding_length")
    )
    if type(heads) is int and type(width) is int and heads > width:
        raise ModelFileError(f"The model file {path} states more attention heads than dimensions.")
    groups = entries.get(architecture + ".attention.head_count_kv")
    if (
        type(heads) is int
        and type(groups) is int
        and (heads % groups or heads < groups if groups else heads)
    ):
        raise ModelFileError(f"The model file {path} states an impossible number of key heads.")
    epsilon = entries.get(architecture + _RMS_EPSILON)
    if isinstance(epsilon, float) and not (math.isfinite(epsilon) and epsilon > 0):
        raise ModelFileError(f"The model file {path} states a norm epsilon that is not above 0.")


def _longest(tokens: list[str], tokenizer: str) -> int | None:
    if tokenizer not in _BYTE_EXACT:
        return None
    # No less than what it stands for: of a byte-level token each character is one byte.
    return max((len(token.encode("utf-8", "replace")) for token in tokens), default=None)


def _special(tokens: list[str], types: "array[int]", ends: Iterable[int | None]) -> dict[str, int]:
    special = {
        text: index
        for index, (text, kind) in enumerate(zip(tokens, types, strict=True))
        if (kind in (_CONTROL, _USER_DEFINED) or text in FAMILY_LITERALS)
        and is_control(text, user_defined=kind == _USER_DEFINED)
    }
    # Some files give the ends of a turn the kind of ordinary text.
    marked = {tokens[index]: index for index in ends if index is not None}
    return special | {text: index for text, index in marked.items() if len(text) > 1}


def _wants_bos(entries: dict[str, object], tokenizer: str, pre: object) -> bool:
    stated = entries.get(f"{_GGML}.add_bos_token")
    if isinstance(stated, bool):
        return stated
    return tokenizer == "llama" or (tokenizer == "gpt2" and pre in _PRE_WITH_BOS)


def _index(value: object, count: int) -> int | None:
    return value if type(value) is int and 0 <= value < count else None


def _positive(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None
