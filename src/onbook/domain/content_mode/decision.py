"""The values of a content-mode decision, and the interface of a detector."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

ContentMode = Literal["sfw", "nsfw"]
Verdict = Literal["sfw", "nsfw", "refused"]
DecisionSource = Literal["caller", "detected", "ceiling"]


@dataclass(frozen=True, slots=True)
class DetectorIdentity:
    """Which detector spoke: a decision can be repeated only with the same three values."""

    name: str
    version: str
    ruleset_sha256: str


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of the *original* text that a rule matched: code-point offsets, end exclusive."""

    start: int
    end: int
    category: str


@dataclass(frozen=True, slots=True)
class Detection:
    """What the text is, before anyone's wish or any policy is looked at.

    ``score`` is 0..1; ``categories`` maps a category to its score 0..1.
    """

    mode: Verdict
    score: float
    categories: Mapping[str, float]
    matched: tuple[Span, ...]
    reason: str


class ContentModeDetector(Protocol):
    """Decides the mode of a text. Never raises, never changes the text."""

    @property
    def identity(self) -> DetectorIdentity:
        """The detector's name, version and ruleset digest."""

    def detect(self, text: str) -> Detection:
        """Return what ``text`` is, in time linear in its length."""


@dataclass(frozen=True, slots=True)
class ContentDecision:
    """The decision for one request: what the text is, and which mode it is served in."""

    mode: Verdict
    effective_mode: ContentMode
    score: float
    categories: Mapping[str, float]
    matched: tuple[Span, ...] = field(repr=False)
    source: DecisionSource
    reason: str
    detector: DetectorIdentity
