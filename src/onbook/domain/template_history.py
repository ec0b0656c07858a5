"""The history of a template: its versions, the events of their lives, and traffic splits."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from onbook.domain.templates import Template

EventAction = Literal[
    "created",
    "drafted",
    "activated",
    "rolled_back",
    "deactivated",
    "discarded",
    "split_started",
    "split_promoted",
    "split_aborted",
]

# draft: never served. live: what the row holds, served while the row is active. retired: was live.
VersionState = Literal["draft", "live", "retired"]
SplitOutcome = Literal["promoted", "aborted"]
SplitArm = Literal["candidate", "current"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateVersion:
    """One immutable version, with who made it and why.

    ``base_version`` is what was live when it was made; ``origin_version`` the version whose
    content a rollback brought back. ``template`` is None where the stored content breaks a rule
    (an edit by raw SQL); ``problem`` then says which.
    """

    template_name: str
    version: int
    state: VersionState
    author: str
    reason: str | None
    created_at: datetime
    content_sha256: str | None
    base_version: int | None
    origin_version: int | None
    template: Template | None
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateEvent:
    """One entry of the append-only record: who did what, when, why, from which version to which.

    ``gate`` is the gate's result, or the recorded override, as plain JSON data.
    """

    event_id: str
    created_at: datetime
    template_name: str
    action: EventAction
    actor: str
    reason: str | None
    from_version: int | None
    to_version: int | None
    gate: Mapping[str, object] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTemplate:
    """The one row of a template, active or not. ``template`` and ``problem`` as in a version."""

    template_name: str
    version: int
    model_type: str
    use_case: str
    content_mode: str
    target: str | None
    is_active: bool
    updated_by: str | None
    change_reason: str | None
    created_at: datetime
    updated_at: datetime
    content_sha256: str | None
    template: Template | None
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateSplit:
    """A share of callers, from 1 to 99 percent, who get the candidate version."""

    split_id: str
    template_name: str
    candidate_version: int
    percent: int
    started_by: str
    reason: str
    started_at: datetime
    ended_at: datetime | None = None
    outcome: SplitOutcome | None = None


@dataclass(frozen=True, slots=True)
class ActiveSplit:
    """A running split with the candidate's content, as a gateway serves it."""

    split: TemplateSplit
    candidate: Template
