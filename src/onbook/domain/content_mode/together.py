"""Judging a request whose text comes in several pieces: a prompt, and values for variables."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import isfinite
from typing import Final

from onbook.domain.content_mode.decision import ContentModeDetector, Detection, Verdict

# Who asks for nsfw makes the request a sexual one, whatever words it is in.
SEXUAL_SIGN: Final = "nude"
_SEVERITY: Final[dict[Verdict, int]] = {"sfw": 0, "nsfw": 1, "refused": 2}
_JOINT: Final = re.compile(r"_+|(?<=[a-z])(?=[A-Z])")


def detect_request(
    prompt: str, variables: Mapping[str, object], detector: ContentModeDetector, *, nsfw: bool
) -> Detection:
    """Return what the prompt and the values of the variables are, as gravely as they can be read.

    Args:
        prompt: What the user wrote.
        variables: The values by name. A value is judged beside its name too: 12 says nothing,
            "age 12" does.
        detector: Who judges.
        nsfw: Whether nsfw is asked for. A minor in the text is then refused as in an nsfw text.
    """
    detection = detect_together((prompt, *_alone(variables)), detector, beside=named(variables))
    if nsfw and detection.mode != "refused":
        asked = detector.detect("\n".join((prompt, *named(variables), SEXUAL_SIGN)))
        return asked if asked.mode == "refused" else detection
    return detection


def detect_together(
    texts: Sequence[str], detector: ContentModeDetector, *, beside: Sequence[str] | None = None
) -> Detection:
    """Return the gravest of what the texts are, each alone and all of them together.

    Together, as what is harmless in each of two pieces may not be in one text; alone, as what
    one piece says must not be explained away by another. ``beside`` is what stands behind the
    first text when they are read together; None for the other texts. Matched spans are those of
    the first text.
    """
    first = detector.detect(texts[0])
    behind = texts[1:] if beside is None else beside
    if len(texts) == 1 and not behind:
        return first
    together = detector.detect("\n".join((texts[0], *behind)))
    others = [detector.detect(text) for text in texts[1:]]
    within = tuple(span for span in together.matched if span.end <= len(texts[0]))
    candidates = [
        first,
        replace(together, matched=within),
        *(replace(other, matched=()) for other in others),
    ]
    return max(candidates, key=lambda found: (_SEVERITY[found.mode], found.score))


def named(variables: Mapping[str, object]) -> tuple[str, ...]:
    """Return each value behind its variable's name, in words; true and false say nothing."""
    return tuple(f"{_JOINT.sub(' ', name)} {value}" for name, value in _said(variables))


def said(value: object) -> str:
    """Return ``value`` as it is judged: of a number the whole part.

    The detector reads whole numbers, and of 30.0 years it would read the last digit as the age.
    """
    if isinstance(value, float) and isfinite(value):
        return str(int(value))
    return str(value)


def _alone(variables: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(value for value in variables.values() if isinstance(value, str))


def _said(variables: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for name, value in variables.items():
        if not isinstance(value, bool):
            yield name, said(value)
