"""When a template may change: which versions may go live, come back, be split or be deleted.

The stores read how a template stands under a lock and ask here; each refusal says what is so and
what to do next.
"""

from dataclasses import dataclass
from typing import Final, NoReturn

from onbook.domain.errors import Conflict, InvalidPayload, TemplateNotFound
from onbook.domain.template_history import (
    EventAction,
    SplitOutcome,
    TemplateSplit,
    TemplateVersion,
    VersionState,
)
from onbook.domain.templates import Template

# Model type, use case, content mode, and the target or "" for a universal template: what at most
# one active template may have.
Slot = tuple[str, str, str, str]

# An event with one of these actions shows that its ``to_version`` was served; never deleted again.
EVER_LIVE: Final[tuple[EventAction, ...]] = (
    "created",
    "activated",
    "rolled_back",
    "split_started",
    "split_promoted",
)
# What may stand in for a live version that breaks a rule; the candidate of a split that was
# aborted may not.
WAS_LIVE: Final[tuple[EventAction, ...]] = (
    "created",
    "activated",
    "rolled_back",
    "split_promoted",
)


# What to do next, for whoever edits the book by HTTP and for whoever does on the command line.
LIST_TEMPLATES: Final = (
    "GET /v1/templates, or 'onbook templates list', shows the names that there are."
)
LIST_VERSIONS: Final = (
    "GET /v1/templates/NAME/versions, or 'onbook templates history NAME', shows the versions of a "
    "template; GET /v1/templates, or 'onbook templates list', shows the templates."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a template stands: its row, the version asked for, and its running split.

    ``live_version`` and ``slot`` are None where the template has no row.
    """

    template_name: str
    live_version: int | None
    is_active: bool
    slot: Slot | None
    version: TemplateVersion | None
    split: TemplateSplit | None


def slot_of(template: Template) -> Slot:
    """Return what at most one active template may have."""
    return (
        template.model_type,
        template.use_case,
        template.content_mode,
        template.target or "",
    )


def version_state(version: int, *, live_version: int | None, ever_live: bool) -> VersionState:
    """Return where ``version`` stands."""
    if version == live_version:
        return "live"
    return "retired" if ever_live else "draft"


def check_draft(template_name: str, *, live_version: int | None, base_version: int | None) -> None:
    """Refuse a draft whose author started from another version than the live one.

    Raises:
        Conflict: somebody was faster.
    """
    if base_version is None or base_version == (live_version or 0):
        return
    if live_version is None:
        raise Conflict(
            f"{_shown(template_name)} has no version {base_version} that is live; it is not in "
            "the book.",
            suggested_action="Draft it as a new template.",
            details=_details(template_name, live_version=None),
        )
    started = (
        f"{_shown(template_name)} is in the book already"
        if base_version == 0
        else f"The draft of {_shown(template_name)} was made from version {base_version}"
    )
    raise Conflict(
        f"{started}, and version {live_version} is live now.",
        suggested_action=f"Draft it again from version {live_version}.",
        details=_details(template_name, live_version=live_version),
    )


def check_discard(standing: Standing, number: int) -> None:
    """Refuse to delete what was ever live.

    Raises:
        TemplateNotFound: there is no such version.
        Conflict: it is not a draft.
    """
    version = _existing(standing, number)
    if version.state != "draft":
        raise Conflict(
            f"Version {number} of {_shown(standing.template_name)} was live, and a version that "
            "was live is never deleted.",
            suggested_action="Leave it in the history; deactivate the template to stop serving it.",
            details=_details(standing.template_name, version=number),
        )


def check_activate(standing: Standing, number: int, expected_version: int | None) -> Template:
    """Return the template that goes live, unless it may not.

    Raises:
        TemplateNotFound: there is no such version.
        Conflict: it is live, or was; the live version is not the expected one or not the one it
            was drafted from; a split runs; or it breaks a rule.
    """
    version = _existing(standing, number)
    name, live = _shown(standing.template_name), standing.live_version
    _check_expected(standing, expected_version)
    if number == live:
        if standing.is_active:
            raise Conflict(
                f"Version {number} of {name} is live already.",
                suggested_action="Nothing is left to do; to change the template, draft a version.",
                details=_details(standing.template_name, live_version=live),
            )
    else:
        _check_candidate(standing, version)
    _check_no_split(standing)
    return _sound(version)


def check_roll_back(standing: Standing, number: int, expected_version: int) -> Template:
    """Return the template whose content comes back, unless it may not.

    Raises:
        TemplateNotFound: there is no such template or version.
        Conflict: the version is live or never was, the live version is not the expected one, or
            it breaks a rule.
    """
    _live(standing)
    version = _existing(standing, number)
    name = _shown(standing.template_name)
    _check_expected(standing, expected_version)
    if version.state == "live":
        raise Conflict(
            f"Version {number} of {name} is the live version; there is nothing to go back to.",
            suggested_action="Name an earlier version that was live."
            if standing.is_active
            else f"Activate version {number} to serve it again.",
            details=_details(standing.template_name, live_version=number),
        )
    if version.state == "draft":
        raise Conflict(
            f"Version {number} of {name} was never live, so there is nothing to go back to.",
            suggested_action=f"Activate version {number} instead.",
            details=_details(standing.template_name, version=number),
        )
    return _sound(version)


def check_deactivate(standing: Standing) -> int:
    """Return the version that goes out of service.

    Raises:
        TemplateNotFound: there is no such template.
        Conflict: it is not active.
    """
    live = _live(standing)
    if not standing.is_active:
        raise Conflict(
            f"{_shown(standing.template_name)} is not active.",
            suggested_action="Nothing is left to do; activate a version to serve it again.",
            details=_details(standing.template_name, live_version=live),
        )
    return live


def check_start_split(
    standing: Standing, number: int, *, percent: int, expected_version: int
) -> Template:
    """Return the candidate's template, unless it may not be served to a share of the callers.

    Raises:
        InvalidPayload: the percentage is not from 1 to 99.
        TemplateNotFound: there is no such template or version.
        Conflict: as for ``check_activate``; or the template is not active, or the candidate
            would answer to another key.
    """
    if not 1 <= percent <= 99:
        raise InvalidPayload(
            "The percentage of a split is from 1 to 99.", details={"fields": ["percent"]}
        )
    live = _live(standing)
    version = _existing(standing, number)
    _check_expected(standing, expected_version)
    name = _shown(standing.template_name)
    if not standing.is_active:
        raise Conflict(
            f"{name} is not active, so there are no callers to share.",
            suggested_action=f"Activate version {live} first, or activate the draft itself.",
            details=_details(standing.template_name, live_version=live),
        )
    if number == live:
        raise Conflict(
            f"Version {number} of {name} is live already.",
            suggested_action="Name a draft as the candidate.",
            details=_details(standing.template_name, live_version=live),
        )
    _check_no_split(standing)
    _check_candidate(standing, version)
    template = _sound(version)
    if slot_of(template) != standing.slot:
        raise Conflict(
            f"Version {number} of {name} is for another model type, use case, content mode or "
            f"target than version {live}.",
            suggested_action="Activate it instead, or draft a candidate for the same ones.",
            details=_details(standing.template_name, version=number),
        )
    return template


def check_end_split(
    standing: Standing, outcome: SplitOutcome
) -> tuple[TemplateSplit, Template | None]:
    """Return the split that ends, and the template that goes live if it is promoted.

    ``standing.version`` is the candidate.

    Raises:
        TemplateNotFound: there is no such template.
        Conflict: no split runs, or the candidate cannot become the live version any more.
    """
    live = _live(standing)
    split, name = standing.split, _shown(standing.template_name)
    if split is None:
        raise Conflict(
            f"No split of {name} is running.",
            suggested_action="Start a split, or activate a version for all callers.",
            details=_details(standing.template_name, live_version=live),
        )
    if outcome == "aborted":
        return split, None
    version = _existing(standing, split.candidate_version)
    if version.base_version != live:
        raise Conflict(
            f"The candidate, version {version.version} of {name}, was drafted from version "
            f"{version.base_version}, and version {live} is live now.",
            suggested_action=f"Abort the split and draft again from version {live}.",
            details=_details(standing.template_name, live_version=live),
        )
    template = _sound(version)
    if not standing.is_active or slot_of(template) != standing.slot:
        raise Conflict(
            f"{name} is not served any more as it was when the split started.",
            suggested_action="Abort the split.",
            details=_details(standing.template_name, live_version=live),
        )
    return split, template


def refuse_taken_slot(template_name: str, holder: str | None) -> NoReturn:
    """Refuse a second active template for one key; ``holder`` is the one that has it, if known.

    Raises:
        Conflict: always.
    """
    other = "another template" if holder is None else _shown(holder)
    raise Conflict(
        f"{_shown(template_name)} cannot be active: {other} is active for the same model type, "
        "use case, content mode and target.",
        suggested_action=f"Deactivate {other} first, or draft a version with another key.",
        details={**_details(template_name), "holder": holder},
    )


def refuse_lost_race(template_name: str) -> NoReturn:
    """Refuse a change that another one overtook in the database itself.

    Raises:
        Conflict: always.
    """
    raise Conflict(
        f"{_shown(template_name)} was changed by somebody else at the same moment.",
        suggested_action="Look at its versions and try again from there.",
        details=_details(template_name),
    )


def _live(standing: Standing) -> int:
    if standing.live_version is None:
        raise TemplateNotFound(
            f"There is no template {_shown(standing.template_name)} in the book.",
            suggested_action=f"{LIST_TEMPLATES} A draft must be activated first.",
            details=_details(standing.template_name),
        )
    return standing.live_version


def _existing(standing: Standing, number: int) -> TemplateVersion:
    if standing.version is None:
        raise TemplateNotFound(
            f"There is no version {number} of {_shown(standing.template_name)}.",
            suggested_action=LIST_VERSIONS,
            details=_details(standing.template_name, version=number),
        )
    return standing.version


def _check_expected(standing: Standing, expected_version: int | None) -> None:
    live = standing.live_version
    if live == expected_version:
        return
    name = _shown(standing.template_name)
    is_live = f"Version {live} of {name} is live" if live else f"{name} has no live version"
    raise Conflict(
        f"{is_live}, not {'none' if expected_version is None else f'version {expected_version}'}.",
        suggested_action="Compare the draft with what is live now, and try again from there.",
        details=_details(standing.template_name, live_version=live),
    )


def _check_candidate(standing: Standing, version: TemplateVersion) -> None:
    name, live = _shown(standing.template_name), standing.live_version
    if standing.split is not None and standing.split.candidate_version == version.version:
        _check_no_split(standing)
    if version.state == "retired":
        raise Conflict(
            f"Version {version.version} of {name} was live before.",
            suggested_action=f"Roll back to version {version.version} instead.",
            details=_details(standing.template_name, version=version.version),
        )
    if version.base_version != live:
        base = version.base_version
        made = "when the template had no live version" if base is None else f"from version {base}"
        raise Conflict(
            f"Version {version.version} of {name} was drafted {made}, and version {live} is live "
            "now.",
            suggested_action=f"Draft it again from version {live}.",
            details=_details(standing.template_name, live_version=live),
        )


def _check_no_split(standing: Standing) -> None:
    if standing.split is not None:
        raise Conflict(
            f"A split of {_shown(standing.template_name)} is running, with version "
            f"{standing.split.candidate_version} as its candidate.",
            suggested_action="Promote or abort the split first.",
            details=_details(standing.template_name, version=standing.split.candidate_version),
        )


def _sound(version: TemplateVersion) -> Template:
    if version.template is None:
        raise Conflict(
            f"Version {version.version} of {_shown(version.template_name)} breaks a rule: "
            f"{version.problem}",
            suggested_action="Draft a corrected version and activate that.",
            details=_details(version.template_name, version=version.version),
        )
    return version.template


def _details(template_name: str, **facts: int | None) -> dict[str, object]:
    return {"template_name": template_name[:200], **facts}


def _shown(template_name: str) -> str:
    return template_name.encode("utf-8", "replace").decode()[:200]
