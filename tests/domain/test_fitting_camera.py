import pytest

from onbook.domain.fitting.fit import fit
from onbook.domain.must_keep import protect
from onbook.domain.token_counting import CharacterCounter


@pytest.mark.parametrize(
    ("prompt", "raw", "expected"),
    [
        (
            "a boat on a lake, pan left",
            "a boat on a lake, pan left, drifting slowly. The camera zooms in. Soft light.",
            "A boat on a lake, pan left, drifting slowly. Soft light.",
        ),
        (
            "the camera orbits a boat",
            "the camera orbits a boat. A slow dolly moves in, near eye level. Soft light.",
            "The camera orbits a boat. Soft light.",
        ),
        (
            "a boat on a lake",
            "a boat on a lake, drifting slowly. The camera zooms in. Soft light.",
            "A boat on a lake, drifting slowly. The camera zooms in. Soft light.",
        ),
        (
            "a boat, tracking shot",
            "a boat, tracking shot. The view tilts up.",
            "A boat, tracking shot.",
        ),
    ],
)
def test_a_shot_gets_one_camera_move(prompt: str, raw: str, expected: str) -> None:
    fitted = fit(raw, protect(prompt), limit=500, counter=CharacterCounter(), style="sentences")
    assert fitted.text == expected
    cut = [step.detail for step in fitted.steps if step.name == "second_camera"]
    assert bool(cut) == ("pan" in prompt or "orbits" in prompt or "tracking" in prompt)
    assert set(cut) <= set(fitted.cuts)
