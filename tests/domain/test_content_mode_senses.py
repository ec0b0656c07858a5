"""Words that mean something else in company, and whom an age belongs to."""

import hashlib
import tomllib
from importlib import resources

import pytest

from onbook.domain.content_mode.lexicon import parse_lexicon
from onbook.domain.content_mode.lexicon_detector import LexiconDetector

RULES = resources.files("onbook.domain.content_mode").joinpath("lexicon.toml").read_bytes()
DETECTOR = LexiconDetector(
    parse_lexicon(tomllib.loads(RULES.decode()), sha256=hashlib.sha256(RULES).hexdigest())
)

OTHER_SENSES = [
    "12 year old single malt scotch, naked flame",
    "a 10 year old oak, bare naked branches",
    "a naked bulb in a room",
    "naked trees in winter",
    "the naked eye",
    "topless bus",
    "topless bus tour",
    "kinky hair",
    "kinky curly hair",
    "cock crow at dawn",
    "cock and hens",
    "rooster cock",
    "thongs flip flops",
    "thong sandals",
    "flip flop thongs",
    "strap on helmet",
    "strap on your boots",
    "strap-on armor",
    "R18 BMW",
    "BMW R18 motorcycle",
    "XXX Olympiad",
    "size XXX",
    "XXX size",
    "food porn",
    "an orgy of color",
    "an orgy of colour",
    "bukkake udon",
    "hand job application",
    "nu metal album",
    "nude color dress",
    "a dress in a nude tone",
]


def mode(text: str) -> str:
    return DETECTOR.detect(text).mode


@pytest.mark.parametrize("text", OTHER_SENSES)
def test_another_sense_is_sfw(text: str) -> None:
    assert mode(text) == "sfw"


@pytest.mark.parametrize("text", OTHER_SENSES)
def test_another_sense_with_a_child_is_not_refused(text: str) -> None:
    assert mode(f"{text}, a child") == "sfw"
    assert mode(f"a child, {text}") == "sfw"


@pytest.mark.parametrize("text", OTHER_SENSES)
def test_another_sense_saves_no_plain_term(text: str) -> None:
    assert mode(f"nude child, {text}") == "refused"
    assert mode(f"{text}, nude 12 year old") == "refused"
    assert mode(f"{text}, porn") == "nsfw"


@pytest.mark.parametrize(
    "text",
    [
        "naked tree nymph",
        "naked flame haired woman",
        "topless bus driver",
        "food porn video",
        "nude color photo",
    ],
)
def test_a_phrase_that_goes_on_keeps_its_sense(text: str) -> None:
    assert mode(text) == "nsfw"


@pytest.mark.parametrize(
    "text",
    [
        "sexual abuse of a child",
        "a child sexually abused",
        "sexual assault of a child",
        "sexual exploitation of a minor",
        "sexual violence, schoolgirl",
        "sex trafficking of a child",
    ],
)
def test_abuse_of_a_minor_is_refused_and_named(text: str) -> None:
    detection = DETECTOR.detect(text)
    assert detection.mode == "refused"
    assert set(detection.categories) == {"sexual", "minor"}
    assert {span.category for span in detection.matched} == {"sexual", "minor"}


@pytest.mark.parametrize(
    "text",
    ["report on sexual abuse", "sexual assault, police", "a sexual assault prevention class"],
)
def test_abuse_without_a_minor_leaves_no_trace(text: str) -> None:
    detection = DETECTOR.detect(text)
    assert (detection.mode, detection.score, detection.matched) == ("sfw", 0.0, ())


@pytest.mark.parametrize(
    "text",
    [
        "a girl of twelve, nude",
        "seventeen and nude",
        "nude and seventeen",
        "nude lad of 13",
        "14 years young, nude",
        "nude juvenile",
        "nude youth",
        "nude pupil",
        "nude 十五歳",
        "nude 九岁",
        "enfant nu",
        "nackter Schüler",
        "裸体 少年",
        "a woman of 17, nude",
        "nude color photo of a child",
        "black cock, child",
        "sexual coercion of a child",
    ],
)
def test_more_ways_to_name_a_minor_are_refused(text: str) -> None:
    assert mode(text) == "refused"


@pytest.mark.parametrize(
    "text",
    [
        "nude 十八歳",
        "nude 二十五歳",
        "twenty and nude",
        "nude woman of 25",
        "nude woman, 12 poses",
        "homme nu",
    ],
)
def test_an_adult_age_is_not_refused(text: str) -> None:
    assert mode(text) == "nsfw"


@pytest.mark.parametrize(
    "thing",
    ["whiskey", "single malt scotch", "wine", "oak tree", "brick building", "cat", "dog", "barrel"],
)
def test_an_age_of_a_thing_is_no_person(thing: str) -> None:
    assert mode(f"12 year old {thing}, nude woman") == "nsfw"
    assert mode(f"12 year old {thing} in a room, nude woman") == "nsfw"


@pytest.mark.parametrize(
    "text",
    [
        "12 year old cat girl, nude",
        "12 year old cat-girl, nude",
        "12 year old house guest, nude",
        "12 year old in a car, nude",
        "12 year old, cat, nude",
        "nude 12 year old cat",
        "explicit image of a 12 year old cat",
        "girl 12 year old cat, nude",
        "she is a 12 year old, nude, whiskey",
        "12 year olds house, nude",
    ],
)
def test_in_doubt_an_age_is_a_persons(text: str) -> None:
    assert mode(text) == "refused"


@pytest.mark.parametrize(
    "text",
    [
        "Virgin Mary with child, bare breast, Renaissance painting",
        "Madonna and child, nursing",
        "Madonna and child, breast, museum",
    ],
)
def test_a_nursing_madonna_is_sfw(text: str) -> None:
    assert mode(text) == "sfw"


@pytest.mark.parametrize(
    "text",
    [
        "Madonna and child, nude",
        "Madonna and child, erotic, breast",
        "Madonna and child, breast of a child",
        "Virgin Mary, breast, child",
        "Madonna and child, porn",
    ],
)
def test_a_madonna_saves_nothing_stronger_and_no_other_child(text: str) -> None:
    assert mode(text) == "refused"
