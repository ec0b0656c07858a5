"""Tiny real GGUF models: random weights, a vocabulary of a few hundred tokens, and a chat template.

llama.cpp loads them in milliseconds, with the tokenizers of the real families.
"""

import random
import struct
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from onbook.worker.engines.llama_cpp import LlamaCppEngine, start_llama_cpp

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
_U32, _I32, _F32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
_WIDTH, _HIDDEN, _ALIGNMENT = 32, 32, 32
_WORDS: Final = ("user", "system", "assistant", "model", "the", "sentinel", "</s", "INST")

Value = str | int | float | bool | list[str] | list[int] | list[float]


@dataclass(frozen=True, slots=True)
class TinyModel:
    """How to make one: its special tokens, the kind of its tokenizer, and its template.

    ``bos`` and ``eos`` are texts among ``special``. ``scores`` True makes a SentencePiece
    vocabulary, else a byte-level one; ``space`` puts SentencePiece's space before texts.
    """

    special: dict[str, int]
    template: str | None
    pre: str = "qwen2"
    scores: bool = False
    space: bool = False
    bos: str | None = None
    add_bos: bool | None = None
    eos: str | None = None


def write_tiny_gguf(path: Path, model: TinyModel) -> Path:
    """Write the model to ``path`` and return it."""
    tokens, kinds, scores, merges = _sentencepiece(model) if model.scores else _byte_level(model)
    entries: dict[str, Value] = {
        "general.architecture": "llama",
        "general.name": path.stem,
        "llama.block_count": 1,
        "llama.context_length": 4096,
        "llama.embedding_length": _WIDTH,
        "llama.feed_forward_length": _HIDDEN,
        "llama.attention.head_count": 2,
        "llama.attention.head_count_kv": 2,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": _WIDTH // 2,
        "llama.vocab_size": len(tokens),
        "tokenizer.ggml.model": "llama" if model.scores else "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
    }
    if model.scores:
        entries["tokenizer.ggml.scores"] = scores
        entries["tokenizer.ggml.add_space_prefix"] = model.space
    else:
        entries["tokenizer.ggml.merges"] = merges
        entries["tokenizer.ggml.pre"] = model.pre
    if model.bos is not None:
        entries["tokenizer.ggml.bos_token_id"] = tokens.index(model.bos)
    if model.eos is not None:
        entries["tokenizer.ggml.eos_token_id"] = tokens.index(model.eos)
    if model.add_bos is not None:
        entries["tokenizer.ggml.add_bos_token"] = model.add_bos
    if model.template is not None:
        entries["tokenizer.chat_template"] = model.template
    path.write_bytes(_file(entries, _tensors(len(tokens))))
    return path


@contextmanager
def tiny_engine(path: Path, model: TinyModel) -> Iterator[LlamaCppEngine]:
    """Load the model into llama.cpp. The caller closes the engine by leaving the block."""
    engine = start_llama_cpp(
        write_tiny_gguf(path, model),
        context_size=2048,
        slots=1,
        threads=1,
        prompt_cache_mib=0,
        expected_sha256=None,
    )
    try:
        yield engine
    finally:
        _run(engine)


def _run(engine: LlamaCppEngine) -> None:
    import asyncio  # noqa: PLC0415 - only to close what is closed with a coroutine

    asyncio.run(engine.close())


def _byte_level(model: TinyModel) -> tuple[list[str], list[int], list[float], list[str]]:
    alphabet = _byte_alphabet()
    tokens = [alphabet[byte] for byte in range(256)]
    merges: list[str] = []
    for word in _WORDS:
        for size in range(1, len(word)):
            pair = f"{word[:size]} {word[size]}"
            if pair not in merges:
                merges.append(pair)
                tokens.append(word[: size + 1])
    kinds = [NORMAL] * len(tokens)
    return [*tokens, *model.special], [*kinds, *model.special.values()], [], merges


def _sentencepiece(model: TinyModel) -> tuple[list[str], list[int], list[float], list[str]]:
    tokens = ["<unk>", *model.special, *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [UNKNOWN, *model.special.values(), *[BYTE] * 256]
    pieces = ["\u2581", *map(chr, range(33, 127))]
    for word in _WORDS:
        pieces += [word[:size] for size in range(2, len(word) + 1)]
    pieces += [f"\u2581{word}" for word in ("user", "the")]
    pieces = [piece for piece in dict.fromkeys(pieces) if piece not in tokens]
    scores = [0.0] * len(tokens) + [-float(at) for at in range(len(pieces))]
    return [*tokens, *pieces], [*kinds, *[NORMAL] * len(pieces)], scores, []


def _byte_alphabet() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]


def _tensors(vocabulary: int) -> dict[str, tuple[int, ...]]:
    square = (_WIDTH, _WIDTH)
    block = {
        "attn_norm": (_WIDTH,), "attn_q": square, "attn_k": square, "attn_v": square,
        "attn_output": square, "ffn_norm": (_WIDTH,), "ffn_gate": (_WIDTH, _HIDDEN),
        "ffn_up": (_WIDTH, _HIDDEN), "ffn_down": (_HIDDEN, _WIDTH),
    }  # fmt: skip
    return {
        "token_embd.weight": (_WIDTH, vocabulary),
        "output_norm.weight": (_WIDTH,),
        "output.weight": (_WIDTH, vocabulary),
        **{f"blk.0.{name}.weight": shape for name, shape in block.items()},
    }


def _file(entries: dict[str, Value], tensors: dict[str, tuple[int, ...]]) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(entries))
    head += b"".join(_text(key) + _value(value) for key, value in entries.items())
    draw = random.Random(7)  # noqa: S311 - weights, not secrets
    body = b""
    for name, shape in tensors.items():
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        head += _text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        head += struct.pack("<IQ", 0, len(body))
        weights = array("f", [draw.gauss(0, 0.2) for _ in range(count)])
        body += weights.tobytes() + b"\0" * (-4 * count % _ALIGNMENT)
    return head + b"\0" * (-len(head) % _ALIGNMENT) + body


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Value) -> bytes:
    if isinstance(value, list):
        return struct.pack("<I", _ARRAY) + _items(value)
    kind, data = _scalar(value)
    return struct.pack("<I", kind) + data


def _items(values: Sequence[str | int | float]) -> bytes:
    kind = _scalar(values[0])[0]
    # The specification has token types as signed numbers.
    kind = _I32 if kind == _U32 else kind
    return struct.pack("<IQ", kind, len(values)) + b"".join(_scalar(one)[1] for one in values)


def _scalar(value: str | float | bool) -> tuple[int, bytes]:  # noqa: FBT001 - a value of a file
    match value:
        case bool():
            return _BOOL, struct.pack("<?", value)
        case int():
            return _U32, struct.pack("<I", value)
        case float():
            return _F32, struct.pack("<f", value)
        case _:
            return _STRING, _text(value)


CHATML_TOKENS: Final = {"<|endoftext|>": CONTROL, "<|im_start|>": CONTROL, "<|im_end|>": CONTROL,
                        "<tool_call>": USER_DEFINED, "</tool_call>": USER_DEFINED,
                        "<think>": USER_DEFINED, "</think>": USER_DEFINED}  # fmt: skip
_TURNS = "{% for message in messages %}"
CHATML: Final = TinyModel(
    CHATML_TOKENS,
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a default.<|im_end|>\n"
    "{% endif %}" + _TURNS + "{{ '<|im_start|>' + message.role + '\n' + message.content + "
    "'<|im_end|>\n' }}{% endfor %}{{ '<|im_start|>assistant\n' }}",
    bos="<|endoftext|>",
    eos="<|im_end|>",
    add_bos=False,
)
LLAMA3: Final = TinyModel(
    dict.fromkeys(
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
         "<|eom_id|>", "<|eot_id|>", "<|python_tag|>"), CONTROL),
    "{{ bos_token }}{% set day = strftime_now('%d') %}" + _TURNS
    + "{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' }}"
    "{% if loop.first %}{{ 'The day is ' + day + '.\n\n' }}{% endif %}"
    "{{ message.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}",
    pre="llama-bpe",
    bos="<|begin_of_text|>",
    eos="<|eot_id|>",
)  # fmt: skip
GEMMA: Final = TinyModel(
    {"<eos>": CONTROL, "<bos>": CONTROL, "<start_of_turn>": CONTROL, "<end_of_turn>": NORMAL,
     "\n": USER_DEFINED, "\n\n": USER_DEFINED, "\u2581\u2581": USER_DEFINED,
     "<table>": USER_DEFINED, "<unused0>": CONTROL},
    "{{ bos_token }}{% if messages[0].role == 'system' %}"
    "{% set before = messages[0].content + '\n\n' %}{% set turns = messages[1:] %}{% else %}"
    "{% set before = '' %}{% set turns = messages %}{% endif %}{% for message in turns %}"
    "{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('turns must alternate') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if message.role == 'assistant' else 'user') + '\n' }}"
    "{{ (before if loop.first else '') + message.content | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{{ '<start_of_turn>model\n' }}",
    scores=True,
    bos="<bos>",
    eos="<eos>",
    add_bos=True,
)  # fmt: skip
_MISTRAL_TOKENS: Final = dict.fromkeys(
    ("<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]",
     "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]"), CONTROL)  # fmt: skip
MISTRAL_V3: Final = TinyModel(
    _MISTRAL_TOKENS,
    "{{ bos_token }}{% if messages[0].role == 'system' %}"
    "{% set before = messages[0].content + '\n\n' %}{% set turns = messages[1:] %}{% else %}"
    "{% set before = '' %}{% set turns = messages %}{% endif %}{% for message in turns %}"
    "{% if message.role == 'user' %}"
    "{{ '[INST] ' + (before if loop.last else '') + message.content + '[/INST]' }}"
    "{% else %}{{ ' ' + message.content + eos_token }}{% endif %}{% endfor %}",
    scores=True,
    space=True,
    bos="<s>",
    eos="</s>",
)
MISTRAL_V7: Final = TinyModel(
    {"<unk>": CONTROL, **_MISTRAL_TOKENS, "[SYSTEM_PROMPT]": CONTROL,
     "[/SYSTEM_PROMPT]": CONTROL},
    "{{ bos_token }}{% set today = strftime_now('%Y') %}"
    "{% if messages[0].role != 'system' %}[SYSTEM_PROMPT]It is {{ today }}.[/SYSTEM_PROMPT]"
    "{% endif %}" + _TURNS + "{% if message.role == 'system' %}"
    "{{ '[SYSTEM_PROMPT]' + message.content + '[/SYSTEM_PROMPT]' }}"
    "{% elif message.role == 'user' %}{{ '[INST]' + message.content + '[/INST]' }}"
    "{% else %}{{ message.content + eos_token }}{% endif %}{% endfor %}",
    pre="tekken",
    bos="<s>",
    eos="</s>",
)  # fmt: skip
# A format of no known family, whose template adds nothing.
OTHER: Final = TinyModel(
    dict.fromkeys(("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"), CONTROL)
    | {"<tool_call>": USER_DEFINED},
    _TURNS + "{{ '<|start_of_role|>' + message.role + '<|end_of_role|>' + message.content }}"
    "{{ eos_token + '\n' }}{% endfor %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}",
    bos="<|end_of_text|>",
    eos="<|end_of_text|>",
    add_bos=False,
)
FAMILIES: Final = {
    "chatml": CHATML,
    "llama3": LLAMA3,
    "gemma": GEMMA,
    "mistral-v3": MISTRAL_V3,
    "mistral-v7": MISTRAL_V7,
    "template": OTHER,
}
