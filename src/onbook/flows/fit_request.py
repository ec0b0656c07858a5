"""Whether a template goes with a request: its side of a split, its mode, and how fresh it is."""

from collections.abc import Sequence
from typing import Final, Literal

from onbook.domain.content_mode.decision import ContentMode
from onbook.domain.enhancement import Caller
from onbook.domain.errors import InvalidPayload
from onbook.domain.splits import SplitInfo, arm_of
from onbook.domain.template_history import ActiveSplit
from onbook.domain.templates import Template, TemplateSource, UseCase

LEVELS: Final[dict[TemplateSource, Literal[0, 1, 2]]] = {
    "database": 0,
    "system_cache": 1,
    "hardcoded": 2,
}


def source_warnings(source: TemplateSource, age_seconds: float) -> tuple[str, ...]:
    """Return what a caller should know of a template that the database did not confirm."""
    if source == "system_cache":
        origin = f"from the last good snapshot, {age_seconds:.0f} s old."
        return (f"The database cannot be reached; the template is {origin}",)
    if source == "hardcoded":
        return ("The database cannot be reached; the packaged template was used.",)
    return ()


def on_its_side(
    live: Template, running: ActiveSplit, caller: Caller
) -> tuple[Template, SplitInfo | None]:
    """Return the side of the running split that the caller is on, and what to say of it."""
    if running.candidate.key != live.key:
        # The live row was given another key by hand: the candidate is for other requests.
        return live, None
    percent = running.split.percent
    arm = arm_of(live.key, percent, key_id=caller.key_id, user_id=caller.user_id)
    template = running.candidate if arm == "candidate" else live
    return template, SplitInfo(running.candidate.version, percent, arm)


def check_fits(template: Template, content_mode: ContentMode, use_cases: Sequence[UseCase]) -> None:
    """Let a named template pass that serves this function in this mode.

    Raises:
        InvalidPayload: it is for another content mode or another use case.
    """
    if template.use_case not in use_cases:
        raise InvalidPayload(
            f"The named template is for {template.use_case}, which is another function.",
            details={"fields": ["template_name"]},
        )
    if template.content_mode != content_mode:
        raise InvalidPayload(
            f"The named template is for {template.content_mode} and the request is {content_mode}.",
            details={"fields": ["template_name", "contentType"]},
            suggested_action="Name a template of the request's content mode, or set contentType.",
        )
