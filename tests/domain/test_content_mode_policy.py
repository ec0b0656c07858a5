import json
from itertools import product

import pytest

from onbook.domain.content_mode.decision import (
    ContentDecision,
    ContentMode,
    Detection,
    DetectorIdentity,
    Span,
    Verdict,
)
from onbook.domain.content_mode.policy import ceiling_of, decide, enforce
from onbook.domain.errors import ContentModeNotAllowed, ContentRefused

IDENTITY = DetectorIdentity(name="lexicon", version="1", ruleset_sha256="0" * 64)
SPANS = (Span(3, 7, "sexual"),)
MODES: tuple[ContentMode, ...] = ("sfw", "nsfw")
WISHES: tuple[ContentMode | None, ...] = (None, "sfw", "nsfw")


def decision(
    found: Verdict, requested: ContentMode | None, ceiling: ContentMode
) -> ContentDecision:
    detection = Detection(found, 0.7, {"sexual": 0.7, "minor": 1.0}, SPANS, "A fixed sentence.")
    return decide(detection, identity=IDENTITY, requested=requested, ceiling=ceiling)


@pytest.mark.parametrize(
    ("deployment", "key", "ceiling"),
    [
        ("sfw", False, "sfw"),
        ("sfw", True, "sfw"),
        ("nsfw", False, "sfw"),
        ("nsfw", True, "nsfw"),
    ],
)
def test_the_ceiling_is_the_lower_of_the_two(
    deployment: ContentMode, *, key: bool, ceiling: ContentMode
) -> None:
    assert ceiling_of(deployment, key_allows_nsfw=key) == ceiling


@pytest.mark.parametrize(
    ("found", "requested", "ceiling", "effective", "source", "error"),
    [
        ("sfw", None, "sfw", "sfw", "detected", None),
        ("sfw", "sfw", "sfw", "sfw", "caller", None),
        ("sfw", "nsfw", "sfw", "sfw", "ceiling", ContentModeNotAllowed),
        ("nsfw", None, "sfw", "sfw", "ceiling", ContentModeNotAllowed),
        ("nsfw", "sfw", "sfw", "sfw", "ceiling", ContentModeNotAllowed),
        ("nsfw", "nsfw", "sfw", "sfw", "ceiling", ContentModeNotAllowed),
        ("sfw", None, "nsfw", "sfw", "detected", None),
        ("sfw", "sfw", "nsfw", "sfw", "caller", None),
        ("sfw", "nsfw", "nsfw", "nsfw", "caller", None),
        ("nsfw", None, "nsfw", "nsfw", "detected", None),
        ("nsfw", "sfw", "nsfw", "sfw", "caller", None),
        ("nsfw", "nsfw", "nsfw", "nsfw", "caller", None),
    ],
)
def test_the_mode_that_is_served(
    found: Verdict,
    requested: ContentMode | None,
    ceiling: ContentMode,
    effective: ContentMode,
    source: str,
    error: type[Exception] | None,
) -> None:
    made = decision(found, requested, ceiling)
    assert (made.mode, made.effective_mode, made.source) == (found, effective, source)
    if error is None:
        enforce(made, ceiling=ceiling)
    else:
        with pytest.raises(error):
            enforce(made, ceiling=ceiling)


@pytest.mark.parametrize(("requested", "ceiling"), list(product(WISHES, MODES)))
def test_refused_stays_refused(requested: ContentMode | None, ceiling: ContentMode) -> None:
    made = decision("refused", requested, ceiling)
    assert (made.mode, made.effective_mode, made.source) == ("refused", "sfw", "detected")
    with pytest.raises(ContentRefused) as raised:
        enforce(made, ceiling=ceiling)
    assert raised.value.status == 422


def test_a_decision_keeps_what_the_detector_said() -> None:
    made = decision("nsfw", "sfw", "nsfw")
    assert (made.score, made.matched, made.detector) == (0.7, SPANS, IDENTITY)
    assert made.categories == {"sexual": 0.7, "minor": 1.0}


def test_the_error_names_categories_and_nothing_of_the_text() -> None:
    for found, error in (("refused", ContentRefused), ("nsfw", ContentModeNotAllowed)):
        verdict: Verdict = "refused" if found == "refused" else "nsfw"
        with pytest.raises(error) as raised:
            enforce(decision(verdict, None, "sfw"), ceiling="sfw")
        assert json.loads(json.dumps(raised.value.details)) == {"categories": ["minor", "sexual"]}


def test_a_decision_made_under_a_higher_ceiling_does_not_pass_a_lower_one() -> None:
    with pytest.raises(ContentModeNotAllowed):
        enforce(decision("sfw", "nsfw", "nsfw"), ceiling="sfw")
