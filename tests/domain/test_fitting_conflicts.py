import pytest

from onbook.domain.fitting.clauses import Style
from onbook.domain.fitting.conflicts import contradicts, is_motion, moves_already
from onbook.domain.fitting.fit import fit
from onbook.domain.must_keep import protect
from onbook.domain.token_counting import CharacterCounter


@pytest.mark.parametrize(
    ("idea", "addition"),
    [
        ("a ship in a storm, lightning", "sunlit surroundings"),
        ("a neon sign in the rain", "low evening sun"),
        ("a neon sign", "bright midday sun"),
        ("a city at night", "golden hour, low afternoon sun"),
        ("a castle at midnight", "silvery dawn mist"),
        ("a beach at sunrise", "moonlit highlights"),
        ("top-down photo of lemons", "low angle view"),
        ("an aerial view of a river", "eye level framing"),
        ("extreme close-up of a bee", "wide establishing shot"),
        ("black and white portrait of a sailor", "soft pastel palette"),
        ("a monochrome street", "deep saturated color"),
        ("a flat vector logo of a fox", "brushed texture"),
        ("a castle, oil painting", "telephoto compression"),
        ("a shoe on a white background", "lush surroundings"),
    ],
)
def test_what_the_idea_rules_out_contradicts_it(idea: str, addition: str) -> None:
    assert contradicts(idea, addition)


@pytest.mark.parametrize(
    ("idea", "addition"),
    [
        ("a cat in a garden", "low evening sun"),
        ("a city at night", "moonlit highlights"),
        ("a city at night", "neon reflections"),
        ("a beach at sunset", "low evening sun"),
        ("a ship in a storm", "storm light"),
        ("a bee", "macro close-up"),
        ("a castle, oil painting", "rich jewel tones"),
        ("a portrait of a sailor", "soft window light"),
        ("a red sun hat", "soft light"),
    ],
)
def test_what_merely_adds_to_the_idea_stays(idea: str, addition: str) -> None:
    assert not contradicts(idea, addition)


@pytest.mark.parametrize(
    ("idea", "moves"),
    [
        ("three foxes running over a field", True),
        ("a parked taxi, no movement", True),
        ("a still life with lemons", True),
        ("two women playing chess", True),
        ("a lighthouse", False),
        ("a building in the morning, spring", False),
        ("an oil painting of a king", False),
    ],
)
def test_motion_is_seen_in_the_idea(idea: str, *, moves: bool) -> None:
    assert moves_already(idea) is moves


def test_motion_is_seen_in_an_addition() -> None:
    assert is_motion("gliding slowly to the left")
    assert not is_motion("as light beams drift past")
    assert not is_motion("")


@pytest.mark.parametrize(
    ("prompt", "raw", "style", "expected"),
    [
        (
            "a city at night",
            "a city at night, sunlit surroundings, neon reflections",
            "tags",
            "a city at night, neon reflections",
        ),
        (
            "three foxes running",
            "three foxes running, creeping slowly forward, as mist drifts past. The camera pans.",
            "sentences",
            "Three foxes running, as mist drifts past. The camera pans.",
        ),
        (
            "a lighthouse in a storm",
            "a lighthouse in a storm, moving slowly left. Hazy midday sun, muted tones.",
            "sentences",
            "A lighthouse in a storm, moving slowly left. Muted tones.",
        ),
        (
            "a parked taxi, no movement",
            "a parked taxi, no movement, moving slowly left",
            "sentences",
            "A parked taxi, no movement.",
        ),
    ],
)
def test_what_contradicts_the_idea_is_cut_and_told(
    prompt: str, raw: str, style: Style, expected: str
) -> None:
    fitted = fit(raw, protect(prompt), limit=500, counter=CharacterCounter(), style=style)
    assert fitted.text == expected
    names = {step.name for step in fitted.steps}
    assert names & {"contradicts", "second_motion"}
    assert fitted.cuts
