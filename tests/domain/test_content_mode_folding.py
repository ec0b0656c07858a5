import sys
import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onbook.domain.content_mode.folding import fold, lookalikes_as_latin

ANY_TEXT = st.text(st.characters(codec=None, categories=None), max_size=60)


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("Garden PARTY", "garden party"),
        ("\uff47\uff41\uff52\uff44\uff45\uff4e", "garden"),
        ("\U0001d4f0\U0001d4ea\U0001d4fb\U0001d4ed\U0001d4ee\U0001d4f7", "garden"),
        ("g\u200ba\u200dr\u2060d\u00ade\ufeffn", "garden"),
        ("g\u0336a\u0301r\u0336d\u0336e\u0308n\u0336", "garden"),
        ("\u202egarden\u202c", "garden"),
        ("\u0262\u1d00\u0280\u1d05\u1d07\u0274", "garden"),
        ("\U0001f1ec\U0001f170\U0001f161", "gar"),
        ("g\u0430rd\u0435n", "garden"),
        ("g\u03b1rden", "garden"),
        ("Niño Käse", "nino kase"),
        ("\u200d" * 8000, ""),
        ("", ""),
    ],
)
def test_the_copy_reads_like_the_plain_word(text: str, folded: str) -> None:
    assert fold(text).text == folded


def test_words_of_another_script_keep_it() -> None:
    assert fold("рука и garden").text == "рука и garden"
    assert lookalikes_as_latin("\u0440") == "p"


def test_offsets_lead_back_to_the_original() -> None:
    text = "\u200bA \ufb01ne g\u0301\u0301arden"
    folded = fold(text)
    start = folded.text.index("garden")
    original = folded.original(start, start + len("garden"))
    assert text[slice(*original)] == "g\u0301\u0301arden"
    ligature = folded.original(folded.text.index("fi"), folded.text.index("fi") + 2)
    assert text[slice(*ligature)] == "\ufb01"


def test_a_ligature_of_a_whole_sentence_stays_short() -> None:
    assert len(unicodedata.normalize("NFKD", "\ufdfa")) > 10
    assert len(fold("\ufdfa").text) <= 4


@given(ANY_TEXT)
def test_every_piece_has_its_place_in_the_original(text: str) -> None:
    folded = fold(text)
    places = [folded.original(at, at + 1) for at in range(len(folded.text))]
    assert places == sorted(places)
    assert all(0 <= start < end <= len(text) for start, end in places)
    assert not any(unicodedata.category(each) in ("Mn", "Cf") for each in folded.text) or (
        text.isascii()
    )


def test_every_single_code_point_folds() -> None:
    for code in range(0, sys.maxunicode + 1, 7):
        folded = fold(chr(code))
        assert len(folded.text) <= 8
        assert folded.origins is None or set(folded.origins) <= {0}


@pytest.mark.parametrize("text", ["a" * 40_000 + "\u00e9", "\ufb01" * 40_000])
def test_one_long_word_takes_linear_time(text: str) -> None:
    # A linear pass takes hundredths of a second of processor time, a quadratic one tens of seconds.
    before = time.process_time()
    folded = fold(text)
    assert time.process_time() - before < 2
    assert folded.text.isascii()
