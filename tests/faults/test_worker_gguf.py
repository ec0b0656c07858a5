"""Damaged model files: always one error of one sentence, never a crash, a hang or gigabytes."""

import math
import struct
import tracemalloc
from pathlib import Path
from time import process_time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onbook.worker.gguf import GgufModel, ModelFileError, read_gguf

U8, U32, I32, F32, STRING, ARRAY, U64 = 0, 4, 5, 6, 8, 9, 10
TEMPLATE = "{{ '<|im_start|>' }}"


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _entry(key: str, kind: int, value: bytes) -> bytes:
    return _text(key) + struct.pack("<I", kind) + value


def _array(kind: int, count: int, items: bytes) -> bytes:
    return struct.pack("<IQ", kind, count) + items


def _file(*entries: bytes, magic: bytes = b"GGUF", version: int = 3, count: int | None = None,
          ) -> bytes:  # fmt: skip
    keys = len(entries) if count is None else count
    return magic + struct.pack("<IQQ", version, 0, keys) + b"".join(entries)


TOKENS = ["<|endoftext|>", "<|im_start|>", "a", "<tool_call>", "é"]
TYPES = [3, 3, 1, 4, 1]
TOKENIZER = (
    _entry("tokenizer.ggml.tokens", ARRAY, _array(STRING, 5, b"".join(map(_text, TOKENS)))),
    _entry("tokenizer.ggml.token_type", ARRAY, _array(I32, 5, struct.pack("<5i", *TYPES))),
)
ENTRIES = (
    _entry("general.architecture", STRING, _text("llama")),
    _entry("llama.context_length", U32, struct.pack("<I", 2048)),
    _entry("llama.rope.freq_base", F32, struct.pack("<f", 1e4)),
    _entry("tokenizer.ggml.scores", ARRAY, _array(F32, 3, struct.pack("<3f", 1, 2, 3))),
    *TOKENIZER,
    _entry("tokenizer.chat_template", STRING, _text(TEMPLATE)),
)
WHOLE = _file(*ENTRIES)
MODEL = GgufModel(
    architecture="llama",
    context_length=2048,
    chat_template=TEMPLATE,
    special={"<|endoftext|>": 0, "<|im_start|>": 1, "<tool_call>": 3},
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gguf") / "model.gguf"


def _read(path: Path, data: bytes) -> GgufModel:
    path.write_bytes(data)
    return read_gguf(path)


def _error(path: Path, data: bytes) -> str:
    with pytest.raises(ModelFileError) as caught:
        _read(path, data)
    sentence = str(caught.value)
    assert str(path) in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize("version", [2, 3])
def test_a_whole_header_is_read(path: Path, version: int) -> None:
    assert _read(path, _file(*ENTRIES, version=version)) == MODEL
    assert _read(path, WHOLE + b"tensors" * 100) == MODEL


def _model(path: Path, *entries: bytes) -> GgufModel:
    return _read(path, _file(*TOKENIZER, *entries))


def _id(name: str, token: int) -> bytes:
    return _entry(f"tokenizer.ggml.{name}_token_id", U32, struct.pack("<I", token))


@pytest.mark.parametrize(
    ("kind", "pre", "stated", "wants"),
    [
        ("llama", None, None, True),
        ("llama", None, False, False),
        ("gpt2", "llama-bpe", None, True),
        ("gpt2", "tekken", None, True),
        ("gpt2", "qwen2", None, False),
        ("gpt2", "qwen2", True, True),
        ("gpt2", "llama-bpe", False, False),
        ("gpt2", None, None, False),
    ],
)
def test_a_prompt_begins_as_the_file_says_or_as_its_tokenizer_does(
    path: Path, kind: str, pre: str | None, *, stated: bool | None, wants: bool
) -> None:
    entries = [_entry("tokenizer.ggml.model", STRING, _text(kind)), _id("bos", 1), _id("eos", 0)]
    if pre is not None:
        entries.append(_entry("tokenizer.ggml.pre", STRING, _text(pre)))
    if stated is not None:
        entries.append(_entry("tokenizer.ggml.add_bos_token", 7, struct.pack("<?", stated)))
    model = _model(path, *entries)
    assert (model.tokenizer, model.pre, model.bos, model.eos) == (
        kind,
        pre,
        1 if wants else None,
        0,
    )
    plain = model.plain_text(list)  # type: ignore[arg-type]  # never called here
    assert (plain.bos, plain.eos, plain.special) == (model.bos, 0, model.special)


@pytest.mark.parametrize("token", [5, 2**31, 2**32 - 1])
def test_an_id_that_no_token_has_is_unknown(path: Path, token: int) -> None:
    entries = [_entry("tokenizer.ggml.model", STRING, _text("llama")), _id("bos", token)]
    assert _model(path, *entries, _id("eos", token)).bos is None
    assert _model(path, *entries, _id("eos", token)).eos is None


def _special(path: Path, *tokens: tuple[str, int], more: bytes = b"") -> dict[str, int]:
    texts = b"".join(_text(text) for text, _ in tokens)
    kinds = struct.pack(f"<{len(tokens)}i", *(kind for _, kind in tokens))
    entries = [
        _entry("tokenizer.ggml.tokens", ARRAY, _array(STRING, len(tokens), texts)),
        _entry("tokenizer.ggml.token_type", ARRAY, _array(I32, len(tokens), kinds)),
    ]
    return _read(path, _file(*entries, *([more] if more else []))).special


def test_white_space_and_single_characters_are_text_though_a_vocabulary_defines_them(
    path: Path,
) -> None:
    texts = ["\n", "\n\n", "  ", "\u2581\u2581", "\u0120\u0120", "\u010a\u010a", "x", "\t"]
    assert _special(path, *((text, 4) for text in texts), ("<h1>", 4)) == {"<h1>": 8}
    # A control token is one whatever it looks like.
    assert _special(path, ("\n", 3), ("x", 3), ("", 3)) == {"\n": 0, "x": 1}


def test_ends_and_known_control_tokens_are_special_whatever_kind_the_file_gives_them(
    path: Path,
) -> None:
    tokens = (("<end_of_turn>", 1), ("<|stop|>", 1), ("stop", 1), ("a", 1))
    assert _special(path, *tokens) == {"<end_of_turn>": 0}
    assert _special(path, *tokens, more=_id("eos", 1)) == {"<end_of_turn>": 0, "<|stop|>": 1}
    assert _special(path, *tokens, more=_id("eot", 2)) == {"<end_of_turn>": 0, "stop": 2}
    assert _special(path, *tokens, more=_id("eos", 3)) == {"<end_of_turn>": 0}


def test_a_text_longer_than_any_header_has_is_damage(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, 0, 1))
        file.write(_text("tokenizer.chat_template") + struct.pack("<IQ", STRING, 2**30))
        file.truncate(2**30 + 1000)
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError, match="damaged"):
            read_gguf(path)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
        path.write_bytes(b"")


@pytest.mark.parametrize("kind", range(13))
def test_entries_that_nobody_needs_are_passed_over_whatever_they_are(path: Path, kind: int) -> None:
    sizes = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
    if kind == ARRAY:
        values = [_array(STRING, 2, _text("a") + _text("b")), _array(F32, 2, b"\1" * 8)]
    else:
        values = [_text("some") if kind == STRING else b"\1" * sizes[kind]]
    for value in values:
        assert _read(path, _file(_entry("some.thing", kind, value), *ENTRIES)) == MODEL


def test_what_is_not_stated_is_unknown(path: Path) -> None:
    model = _read(path, _file(*TOKENIZER))
    assert (model.architecture, model.context_length, model.chat_template) == (
        "unknown",
        None,
        None,
    )


@pytest.mark.parametrize(
    ("kind", "value"),
    [(U32, b"\0" * 4), (I32, struct.pack("<i", -5)), (7, b"\1"), (STRING, _text("2048"))],
)
def test_a_context_length_that_is_no_length_is_unknown(path: Path, kind: int, value: bytes) -> None:
    entries = (ENTRIES[0], _entry("llama.context_length", kind, value), *TOKENIZER)
    assert _read(path, _file(*entries)).context_length is None


def test_a_file_cut_off_anywhere_is_an_error(path: Path) -> None:
    for length in range(len(WHOLE)):
        _error(path, WHOLE[:length])


@pytest.mark.parametrize("magic", [b"GGML", b"gguf", b"FUGG", b"PK\x03\x04", b"\0\0\0\0"])
def test_another_kind_of_file_is_named_as_such(path: Path, magic: bytes) -> None:
    assert "not a GGUF" in _error(path, _file(*ENTRIES, magic=magic))


@pytest.mark.parametrize("version", [0, 1, 4, 0x03000000, 2**32 - 1])
def test_another_version_is_named_as_such(path: Path, version: int) -> None:
    assert "version" in _error(path, _file(*ENTRIES, version=version))


HUGE = [2**20, 2**31, 2**32, 2**40, 2**61, 2**63, 2**64 - 1]


@pytest.mark.parametrize("count", HUGE)
@pytest.mark.parametrize("name", ["a", "tokenizer.ggml.tokens"])
@pytest.mark.parametrize("place", ["keys", "string", "key", "texts", "numbers", "bytes", "types"])
def test_a_huge_count_takes_neither_memory_nor_time(
    path: Path, name: str, place: str, count: int
) -> None:
    size = struct.pack("<Q", count)
    hostile = {
        "keys": _file(*ENTRIES, count=count),
        "string": _file(_entry(name, STRING, size + b"x" * 100)),
        "key": _file(size + b"x" * 100),
        "texts": _file(_entry(name, ARRAY, _array(STRING, count, b"\0" * 8_000_000))),
        "numbers": _file(_entry(name, ARRAY, _array(U64, count, b"\0" * 999))),
        "bytes": _file(_entry(name, ARRAY, _array(U8, count, b"\0" * 999))),
        "types": _file(_entry(name, ARRAY, _array(I32, count, b"\0" * 999))),
    }[place]
    started = process_time()
    tracemalloc.start()
    try:
        assert "damaged" in _error(path, hostile)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
    assert process_time() - started < 2


def test_numbers_that_nobody_needs_are_not_copied(path: Path) -> None:
    body = _entry("a", ARRAY, _array(U8, 20_000_000, b"\0" * 20_000_000))
    data = _file(body, *ENTRIES)
    path.write_bytes(data)
    del body, data
    tracemalloc.start()
    try:
        assert read_gguf(path) == MODEL
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
        path.write_bytes(b"")


@pytest.mark.parametrize("kind", [ARRAY, 13, 255, 2**32 - 1])
def test_unknown_types_are_damage(path: Path, kind: int) -> None:
    nested = _array(kind, 1, _array(U8, 1, b"\0"))
    assert "damaged" in _error(path, _file(_entry("a", ARRAY, nested), *ENTRIES))
    if kind != ARRAY:
        assert "damaged" in _error(path, _file(_entry("a", kind, b"\0" * 64), *ENTRIES))


@pytest.mark.parametrize(
    "entries",
    [
        (),
        ENTRIES[:1],
        TOKENIZER[:1],
        TOKENIZER[1:],
        (TOKENIZER[0], _entry("tokenizer.ggml.token_type", ARRAY, _array(I32, 4, b"\0" * 16))),
        (TOKENIZER[0], _entry("tokenizer.ggml.token_type", ARRAY, _array(U32, 5, b"\0" * 20))),
        (TOKENIZER[0], _entry("tokenizer.ggml.token_type", U32, b"\0" * 4)),
        (_entry("tokenizer.ggml.tokens", STRING, _text("abcde")), TOKENIZER[1]),
    ],
)
def test_a_file_without_a_usable_tokenizer_is_named_as_such(
    path: Path, entries: tuple[bytes, ...]
) -> None:
    assert "no tokenizer" in _error(path, _file(*entries))


def test_a_missing_file_a_directory_and_an_empty_file(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no model file"):
        read_gguf(tmp_path / "absent.gguf")
    with pytest.raises(ModelFileError):
        read_gguf(tmp_path)
    _error(tmp_path / "empty.gguf", b"")


@given(st.binary(max_size=300))
def test_random_bytes_are_an_error(path: Path, data: bytes) -> None:
    _error(path, data)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    flips=st.lists(
        st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(1, 255)), min_size=1, max_size=4
    ),
    cut=st.integers(0, len(WHOLE)),
)
def test_flipped_bytes_give_a_model_or_the_one_error(
    path: Path, flips: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(WHOLE)
    for at, mask in flips:
        data[at] ^= mask
    for damaged in (bytes(data), bytes(data[:cut])):
        try:
            model = _read(path, damaged)
        except ModelFileError:
            continue
        # Damage inside a text cannot be seen here; the digest of the file finds it.
        assert isinstance(model, GgufModel)
        assert all(isinstance(token, int) for token in model.special.values())


@pytest.mark.parametrize(
    ("key", "kind", "value"),
    [
        ("block_count", U32, struct.pack("<I", 0)),
        ("block_count", U32, struct.pack("<I", 2**31 - 1)),
        ("embedding_length", U32, struct.pack("<I", 0)),
        ("embedding_length", U32, struct.pack("<I", 2**32 - 1)),
        ("attention.head_count", U32, struct.pack("<I", 2**31)),
        ("attention.head_count", 9, _array(I32, 2, struct.pack("<2i", 4, -1))),
        ("attention.head_count_kv", U32, struct.pack("<I", 2**31)),
        ("feed_forward_length", U32, struct.pack("<I", 2**31)),
        ("context_length", U32, struct.pack("<I", 2**32 - 1)),
        ("attention.layer_norm_rms_epsilon", 6, struct.pack("<f", math.nan)),
        ("attention.layer_norm_rms_epsilon", 6, struct.pack("<f", math.inf)),
        ("attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 0.0)),
        ("attention.layer_norm_rms_epsilon", 6, struct.pack("<f", -1e-5)),
    ],
)
def test_dimensions_that_no_model_has_are_refused_in_one_sentence(
    path: Path, key: str, kind: int, value: bytes
) -> None:
    entries = (ENTRIES[0], _entry(f"llama.{key}", kind, value), *TOKENIZER)
    assert "llama.cpp" in _error(path, _file(*entries)) or "states" in _error(path, _file(*entries))


@pytest.mark.parametrize(("heads", "groups", "width"), [(9, 3, 8), (0, 3, 8), (4, 5, 8), (4, 0, 8)])
def test_head_counts_that_do_not_go_together_are_refused(
    path: Path, heads: int, groups: int, width: int
) -> None:
    named = {
        "attention.head_count": heads,
        "attention.head_count_kv": groups,
        "embedding_length": width,
    }
    entries = [_entry(f"llama.{key}", U32, struct.pack("<I", one)) for key, one in named.items()]
    assert "heads" in _error(path, _file(ENTRIES[0], *entries, *TOKENIZER))


def test_one_id_stands_for_the_longest_token_at_most(path: Path) -> None:
    model = _model(path, _entry("tokenizer.ggml.model", STRING, _text("gpt2")))
    assert model.longest_token_bytes == len("<|endoftext|>")
    # What unknown words become, other kinds of tokenizers do not say.
    assert (
        _model(path, _entry("tokenizer.ggml.model", STRING, _text("t5"))).longest_token_bytes
        is None
    )


@pytest.mark.parametrize(
    ("kind", "pre", "bounded"),
    [("gpt2", "qwen2", False), ("gpt2", "tekken", True), ("gpt2", None, True),
     ("llama", None, False)],
)  # fmt: skip
def test_runs_are_bounded_where_splitting_recurs(
    path: Path,
    kind: str,
    pre: str | None,
    bounded: bool,  # noqa: FBT001 - a parameter's value
) -> None:
    entries = [_entry("tokenizer.ggml.model", STRING, _text(kind))]
    if pre is not None:
        entries.append(_entry("tokenizer.ggml.pre", STRING, _text(pre)))
    assert (_model(path, *entries).longest_run is not None) is bounded
