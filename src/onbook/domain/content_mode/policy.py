"""From what a text is, and what the caller wishes, to the mode a request is served in.

Nothing is ever changed silently: a request is served in the mode its decision states, or it is
answered with an error that says why.
"""

from onbook.domain.content_mode.decision import (
    ContentDecision,
    ContentMode,
    DecisionSource,
    Detection,
    DetectorIdentity,
    Verdict,
)
from onbook.domain.errors import ContentModeNotAllowed, ContentRefused

_REASON_CALLER = "The caller chose the mode."
_REASON_CEILING = "The deployment or the key does not allow nsfw."


def ceiling_of(deployment: ContentMode, *, key_allows_nsfw: bool) -> ContentMode:
    """Return the most that may be served: nsfw only where deployment and key both allow it."""
    return "nsfw" if deployment == "nsfw" and key_allows_nsfw else "sfw"


def is_above(mode: Verdict, highest: ContentMode) -> bool:
    """Tell whether a text of ``mode`` is above ``highest``; the refused class always is."""
    return mode == "refused" or (mode == "nsfw" and highest == "sfw")


def decide(
    detection: Detection,
    *,
    identity: DetectorIdentity,
    requested: ContentMode | None,
    ceiling: ContentMode,
) -> ContentDecision:
    """Return the decision; it changes nothing and raises nothing, see `enforce`.

    Args:
        detection: What the text is.
        identity: The detector that said so.
        requested: The mode the caller asks for, or None to follow the detection.
        ceiling: The most that may be served, from `ceiling_of`.

    Returns:
        A decision whose ``mode`` is always what was detected. ``source`` is ``ceiling`` where the
        text or the wish is nsfw and the ceiling is sfw; refused text stays refused whatever is
        requested.
    """
    effective: ContentMode
    source: DecisionSource
    if detection.mode == "refused":
        effective, source, reason = "sfw", "detected", detection.reason
    elif ceiling == "sfw" and "nsfw" in (detection.mode, requested):
        effective, source, reason = "sfw", "ceiling", _REASON_CEILING
    elif requested is not None:
        effective, source, reason = requested, "caller", _REASON_CALLER
    else:
        effective, source, reason = detection.mode, "detected", detection.reason
    return ContentDecision(
        mode=detection.mode,
        effective_mode=effective,
        score=detection.score,
        categories=detection.categories,
        matched=detection.matched,
        source=source,
        reason=reason,
        detector=identity,
    )


def enforce(decision: ContentDecision, *, ceiling: ContentMode) -> None:
    """Let a decision pass that may be served, and stop every other one.

    Raises:
        ContentRefused: The text is of the refused class; whatever the ceiling.
        ContentModeNotAllowed: The ceiling is sfw, and the text is nsfw or nsfw was asked for.
    """
    details = {"categories": sorted(decision.categories)}
    if decision.mode == "refused":
        raise ContentRefused(
            "The text is of the class that is refused for everyone.", details=details
        )
    if ceiling == "nsfw":
        return
    if decision.mode == "nsfw" or decision.effective_mode == "nsfw":
        raise ContentModeNotAllowed(
            "The text is nsfw, and this deployment or key serves sfw only.", details=details
        )
    if decision.source == "ceiling":
        raise ContentModeNotAllowed(
            "nsfw was asked for, and this deployment or key serves sfw only.", details=details
        )
