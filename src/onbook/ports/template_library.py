"""The book as its editors see it: every version, every event, and who serves what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from onbook.domain.template_history import (
    SplitOutcome,
    StoredTemplate,
    TemplateEvent,
    TemplateSplit,
    TemplateVersion,
)
from onbook.domain.templates import Template


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateFilter:
    """Which templates to list; None means any. ``target`` "" means universal ones."""

    model_type: str | None = None
    use_case: str | None = None
    content_mode: str | None = None
    target: str | None = None
    is_active: bool | None = None
    name_contains: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySeen:
    """A gateway process and what it serves. ``seen_s_ago`` by the database's own clock."""

    gateway_id: str
    name: str
    epoch: int
    active_sha256: str
    seen_s_ago: float


class TemplateLibrary(Protocol):
    """Reads and changes the book. Each change is one transaction with its event.

    Every method raises ``StoreUnavailable`` if the database cannot be used; the changing ones
    raise ``domain.errors.Conflict`` if somebody was faster or the state does not allow it, and
    ``domain.errors.TemplateNotFound`` if the template or version does not exist; nothing is
    changed then. Times are given by the caller; ``author`` and ``reason`` are recorded as they are.
    """

    async def list(
        self, wanted: TemplateFilter, *, after: str | None = None, limit: int = 200
    ) -> Sequence[StoredTemplate]:
        """Return templates by name, active or not, at most ``limit`` whose name is > ``after``."""

    async def find(self, template_name: str) -> StoredTemplate | None:
        """Return the row of a template, or None if there is none (a draft has no row)."""

    async def versions(
        self, template_name: str, *, before: int | None = None, limit: int = 100
    ) -> Sequence[TemplateVersion]:
        """Return versions, newest first, at most ``limit`` that are < ``before``."""

    async def version(self, template_name: str, version: int) -> TemplateVersion | None:
        """Return one version, or None."""

    async def events(
        self, template_name: str | None, *, before: str | None = None, limit: int = 100
    ) -> Sequence[TemplateEvent]:
        """Return events, newest first; of all templates for None; older than event ``before``."""

    async def draft(
        self,
        template: Template,
        *,
        base_version: int | None,
        author: str,
        reason: str,
        at: datetime,
    ) -> TemplateVersion:
        """Add ``template`` as the next version, not served.

        ``base_version``, where given, is the live version that the author started from: Conflict
        if another one is live now (0: Conflict if the template has a row). The version number of
        ``template`` is ignored; the new one is the highest of the template's, plus one.
        """

    async def discard(
        self, template_name: str, version: int, *, author: str, reason: str, at: datetime
    ) -> None:
        """Delete a draft. Conflict if it was ever live; its event stays."""

    async def activate(
        self,
        template_name: str,
        version: int,
        *,
        expected_version: int | None,
        author: str,
        reason: str,
        at: datetime,
        gate: Mapping[str, object] | None,
    ) -> int:
        """Make a draft live, or an inactive row active again; return the epoch of the change.

        Conflict if the live version is not ``expected_version`` (None: there is no row), if the
        draft was made from another version than the live one, if the version is live already or
        was before, if a split runs, or if another active template has the same key.
        """

    async def roll_back(
        self,
        template_name: str,
        to_version: int,
        *,
        expected_version: int,
        author: str,
        reason: str,
        at: datetime,
    ) -> TemplateVersion:
        """Make the content of ``to_version``, which was live, live again as a new version.

        Conflict as for ``activate``, and if ``to_version`` was never live or is live. A running
        split is aborted with it.
        """

    async def deactivate(
        self, template_name: str, *, author: str, reason: str, at: datetime
    ) -> int:
        """Take a template out of service; return the epoch. Conflict if it is not active.

        A running split is aborted with it.
        """

    async def start_split(
        self,
        template_name: str,
        candidate_version: int,
        *,
        percent: int,
        expected_version: int,
        author: str,
        reason: str,
        at: datetime,
        gate: Mapping[str, object] | None,
    ) -> TemplateSplit:
        """Serve a draft to ``percent`` (1..99) of the callers of an active template.

        Conflict as for ``activate``, if a split runs already, or if the candidate's key differs
        from the live version's.
        """

    async def end_split(
        self, template_name: str, outcome: SplitOutcome, *, author: str, reason: str, at: datetime
    ) -> TemplateSplit:
        """End the running split: the candidate becomes the live version, or is retired."""

    async def splits(self, template_name: str | None = None) -> Sequence[TemplateSplit]:
        """Return splits, running ones first, then newest first."""

    async def gateways(self) -> Sequence[GatewaySeen]:
        """Return the gateways that have reported, most recently seen first."""
