"""Several texts of one request are judged as gravely as the gravest, alone and together."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onbook.domain.content_mode.decision import Detection, DetectorIdentity, Span, Verdict
from onbook.domain.content_mode.together import detect_request, detect_together

SEVERITY = {"sfw": 0, "nsfw": 1, "refused": 2}


class WordDetector:
    """Finds ``adult`` nsfw unless ``museum`` is there, and ``adult`` with ``minor`` refused."""

    identity = DetectorIdentity("words", "1", "0")

    def detect(self, text: str) -> Detection:
        mode: Verdict = "sfw"
        if "adult" in text and "minor" in text:
            mode = "refused"
        elif "adult" in text and "museum" not in text:
            mode = "nsfw"
        at = text.find("adult")
        spans = (Span(at, at + 5, "sexual"),) if at >= 0 else ()
        return Detection(mode, float(SEVERITY[mode]) / 2, {}, spans, mode)


DETECTOR = WordDetector()
TEXTS = st.lists(st.sampled_from(["cat", "adult", "minor", "museum", "adult minor"]), min_size=1)


@given(TEXTS)
def test_the_gravest_verdict_counts_alone_or_together(texts: list[str]) -> None:
    found = detect_together(texts, DETECTOR).mode
    alone = max((DETECTOR.detect(text).mode for text in texts), key=lambda mode: SEVERITY[mode])
    assert SEVERITY[found] >= SEVERITY[alone]
    assert SEVERITY[found] >= SEVERITY[DETECTOR.detect("\n".join(texts)).mode]
    if not any("adult" in text for text in texts):
        assert found == "sfw"


def test_two_harmless_pieces_are_refused_together() -> None:
    assert detect_together(["minor", "cat"], DETECTOR).mode == "sfw"
    assert detect_together(["minor", "cat", "adult"], DETECTOR).mode == "refused"


def test_no_piece_explains_another_away() -> None:
    assert detect_together(["adult", "museum"], DETECTOR).mode == "nsfw"
    assert detect_together(["museum", "adult"], DETECTOR).mode == "nsfw"


def test_matched_spans_are_those_of_the_first_text() -> None:
    inside = detect_together(["an adult", "minor"], DETECTOR)
    assert [(span.start, span.end) for span in inside.matched] == [(3, 8)]
    assert detect_together(["a cat", "an adult"], DETECTOR).matched == ()


class CountingDetector(WordDetector):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def detect(self, text: str) -> Detection:
        self.texts.append(text)
        return super().detect(text)


def test_a_request_without_variables_is_read_once() -> None:
    detector = CountingDetector()
    detect_request("a cat", {}, detector, nsfw=False)
    detect_request("a cat", {"flag": True}, detector, nsfw=False)
    assert detector.texts == ["a cat", "a cat"]


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"age": 12}, "age 12"),
        ({"age": "12"}, "age 12"),
        ({"age": 12.5}, "age 12"),
        ({"subject_age": 12}, "subject age 12"),
        ({"subjectAge": 12}, "subject Age 12"),
        ({"age": float("inf")}, "age inf"),
    ],
)
def test_a_value_is_judged_beside_its_name(variables: dict[str, object], said: str) -> None:
    detector = CountingDetector()
    detect_request("a cat", variables, detector, nsfw=False)
    assert f"a cat\n{said}" in detector.texts


def test_a_name_can_make_a_value_grave_and_never_harmless() -> None:
    assert detect_request("adult", {"minor": 1}, DETECTOR, nsfw=False).mode == "refused"
    assert detect_request("a cat", {"museum": "adult"}, DETECTOR, nsfw=False).mode == "nsfw"


def test_who_asks_for_nsfw_makes_the_request_a_sexual_one() -> None:
    class Signs(WordDetector):
        def detect(self, text: str) -> Detection:
            return super().detect(text.replace("nude", "adult"))

    for prompt, variables in (("a minor", {}), ("a cat", {"who": "a minor"}), ("x", {"minor": 3})):
        assert detect_request(prompt, variables, Signs(), nsfw=False).mode == "sfw"
        assert detect_request(prompt, variables, Signs(), nsfw=True).mode == "refused"
    assert detect_request("a cat", {}, Signs(), nsfw=True).mode == "sfw"
