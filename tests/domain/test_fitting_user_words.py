"""The user's own words are neither judged, changed nor taken for the model's."""

import html
import time
import unicodedata

import pytest

from onbook.domain.fitting.additions import without_echo
from onbook.domain.fitting.clauses import Style
from onbook.domain.fitting.fit import FittedPrompt, fit
from onbook.domain.fitting.refusals import is_refusal
from onbook.domain.must_keep import protect
from onbook.domain.token_counting import CharacterCounter

ADDED = ("golden hour light", "35mm lens", "fine grain")
REFUSAL = "I'm sorry, but I can't help with that."


class UnescapingCounter(CharacterCounter):
    """Its canonical spelling has no entities and single spaces, as CLIP's has."""

    def canonical(self, text: str) -> str:
        return " ".join(html.unescape(text).split())


def run(raw: str, prompt: str, style: Style = "tags", limit: int = 400) -> FittedPrompt:
    return fit(raw, protect(prompt), limit=limit, counter=UnescapingCounter(), style=style)


@pytest.mark.parametrize(
    "prompt",
    [
        "I can't breathe, tattoo on an arm",
        "Note: this is a red car",
        "a red car. Enjoy! diner sign",
        "let me know, neon sign",
        "a cat </s> dog",
        '"I\'m sorry, but" neon sign',
        "Sure! a cat",
        "Prompt: a cat",
        "a *red* cat, a *red* cat",
    ],
)
@pytest.mark.parametrize("wrap", ["{}", '"{}"', "**{}**"])
def test_the_echo_of_the_idea_is_not_cleaned_as_model_speech(prompt: str, wrap: str) -> None:
    raw = wrap.format(f"{prompt}, {', '.join(ADDED)}")
    fitted = run(raw, prompt)
    assert fitted.text == f"{prompt}, {', '.join(ADDED)}"
    assert fitted.added == ADDED
    assert fitted.warnings == ()
    assert not is_refusal(without_echo(raw, protect(prompt))) or wrap != "{}"


@pytest.mark.parametrize(
    ("prompt", "raw"),
    [
        ("I", "I can't help with that."),
        ("I'm sorry", REFUSAL),
        ("Sorry", "Sorry, I can't do this."),
        ("a cat", f"a cat\n\n{REFUSAL}"),
        ("I can't breathe, tattoo", REFUSAL),
        ("I can't breathe, tattoo", f"I can't breathe, tattoo\n\n{REFUSAL}"),
    ],
)
def test_a_refusal_after_or_like_the_idea_is_still_one(prompt: str, raw: str) -> None:
    fitted = run(raw, prompt)
    assert fitted.text == prompt
    assert fitted.warnings == ("model_refused",)
    assert is_refusal(without_echo(raw, protect(prompt)))


def test_a_note_after_the_echo_still_goes() -> None:
    fitted = run("Note: a red car, fog.\n\nNote: I added fog.", "Note: a red car")
    assert fitted.text == "Note: a red car, fog"


def test_without_echo_gives_the_rest_or_the_whole() -> None:
    assert without_echo("a cat, fog", protect("a cat")) == ", fog"
    assert without_echo("A CAT", protect("a cat")) == ""
    assert without_echo("a cathedral", protect("a cat")) == "a cathedral"
    # A crab is no year: in Thai the vowel is a mark.
    assert without_echo("ปี, fog", protect("ปู")) == "ปี, fog"
    said = without_echo("a shirt that says I can't even", protect("a shirt that says"))
    assert said.endswith(" I can't even")
    assert not is_refusal(said)


@pytest.mark.parametrize(
    ("prompt", "raw", "added"),
    [
        ("दुनिया", "दुनिया with soft light", "with soft light"),
        ("สวัสดี", "สวัสดี, soft light", "soft light"),
        (unicodedata.normalize("NFD", "café"), "café, soft light", "soft light"),
        ("café", unicodedata.normalize("NFD", "café, soft light"), "soft light"),
        (unicodedata.normalize("NFD", "한국"), "한국, soft light", "soft light"),
        ("İstanbul", "istanbul, soft light", "soft light"),
    ],
)
def test_the_echo_is_found_whatever_its_marks(prompt: str, raw: str, added: str) -> None:
    fitted = run(raw, prompt)
    assert fitted.added[0] == added
    assert fitted.text.startswith(prompt)


def test_a_run_of_marks_costs_linear_time() -> None:
    marks = "a" + "\u0301\u0316" * 20_000
    began = time.thread_time()
    without_echo(marks, protect(marks))
    assert time.thread_time() - began < 2.0


def test_a_flag_with_a_trailing_comma_does_not_end_the_protection() -> None:
    prompt = 'a sign "A  B  &amp; C", cat --no people,'
    fitted = run(f"{prompt} fog", prompt)
    assert '"A  B  &amp; C"' in fitted.text
    assert fitted.text.endswith("--no people")


@pytest.mark.parametrize(
    ("prompt", "raw", "style", "expected"),
    [
        ("iPhone on a desk", "iPhone on a desk. It glows.", "sentences",
         "iPhone on a desk. It glows."),
        ("a desk", "a desk. eBay parcels lie there.", "sentences",
         "A desk. eBay parcels lie there."),
        ("flag of the U.S.A.", "flag of the U.S.A., fog", "tags", "flag of the U.S.A., fog"),
        ("flag of the U.S.A.", "flag of the U.S.A., in the wind.", "sentences",
         "Flag of the U.S.A., in the wind."),
        ("flag of the U.S.A.", "flag of the U.S.A. It waves.", "sentences",
         "Flag of the U.S.A. It waves."),
        ("cats, dogs, etc.", "fog", "tags", "cats, dogs, etc., fog"),
        ("a cat.", "a cat., fog", "tags", "a cat, fog"),
    ],
)  # fmt: skip
def test_names_and_abbreviations_keep_their_spelling(
    prompt: str, raw: str, style: Style, expected: str
) -> None:
    assert run(raw, prompt, style).text == expected


def test_two_figures_stay_two_and_boilerplate_goes_first() -> None:
    man = "a tall man in a red coat on the"
    prompt = f"two chairs, {man} left, {man} right, masterpiece, best quality"
    fitted = run("", prompt, limit=90)
    assert fitted.text == f"two chairs, {man} left, {man} right"
    assert set(fitted.dropped) == {"masterpiece", "best quality"}


def test_added_clauses_that_differ_in_one_word_both_stay() -> None:
    pair = ("a tall thin old man with a long red hat", "a tall thin old man with a long blue hat")
    fitted = run(f"a street, {pair[0]}, {pair[1]}, {pair[0]}", "a street with people")
    assert fitted.added == pair
