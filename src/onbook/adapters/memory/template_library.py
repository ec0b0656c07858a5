"""The book in memory as its editors see it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from uuid import uuid4

from onbook.adapters.memory.template_book import MemoryBook
from onbook.domain.template_history import (
    SplitOutcome,
    StoredTemplate,
    TemplateEvent,
    TemplateSplit,
    TemplateVersion,
)
from onbook.domain.template_lifecycle import (
    check_activate,
    check_deactivate,
    check_discard,
    check_draft,
    check_end_split,
    check_roll_back,
    check_start_split,
    slot_of,
)
from onbook.domain.templates import Template, checked
from onbook.ports.template_library import GatewaySeen, TemplateFilter


class MemoryTemplateLibrary:
    """``ports.TemplateLibrary`` in memory; the book's ``available`` False makes calls fail."""

    def __init__(self, book: MemoryBook) -> None:
        self.book = book

    async def list(
        self, wanted: TemplateFilter, *, after: str | None = None, limit: int = 200
    ) -> Sequence[StoredTemplate]:
        """Return templates by name, active or not, at most ``limit`` whose name is > ``after``."""
        self.book.check()
        found = [
            row
            for name, row in sorted(self.book.rows.items())
            if (after is None or name > after) and _fits(row, wanted)
        ]
        return found[:limit]

    async def find(self, template_name: str) -> StoredTemplate | None:
        """Return the row of a template, or None if there is none (a draft has no row)."""
        self.book.check()
        return self.book.rows.get(template_name)

    async def versions(
        self, template_name: str, *, before: int | None = None, limit: int = 100
    ) -> Sequence[TemplateVersion]:
        """Return versions, newest first, at most ``limit`` that are < ``before``."""
        self.book.check()
        found = [
            version
            for version in self.book.versions(template_name)
            if before is None or version.version < before
        ]
        return found[:limit]

    async def version(self, template_name: str, version: int) -> TemplateVersion | None:
        """Return one version, or None."""
        self.book.check()
        return self.book.version(template_name, version)

    async def events(
        self, template_name: str | None, *, before: str | None = None, limit: int = 100
    ) -> Sequence[TemplateEvent]:
        """Return events, newest first; of all templates for None; older than event ``before``."""
        self.book.check()
        record = self.book.record
        if before is not None:
            ids = [event.event_id for event in record]
            record = record[: ids.index(before)] if before in ids else []
        found = [
            event
            for event in reversed(record)
            if template_name is None or event.template_name == template_name
        ]
        return found[:limit]

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

        Raises:
            TemplateInvalid: it breaks a rule.
        """
        name, sound = template.template_name, checked(template)
        self.book.check()
        live = self.book.standing(name).live_version
        check_draft(name, live_version=live, base_version=base_version)
        number = self.book.next_version(name)
        self.book.add_event(
            name,
            "drafted",
            actor=author,
            reason=reason,
            at=at,
            from_version=live,
            to_version=number,
        )
        return self.book.add_version(
            sound, number, author=author, reason=reason, at=at, base_version=live
        )

    async def discard(
        self, template_name: str, version: int, *, author: str, reason: str, at: datetime
    ) -> None:
        """Delete a draft. Conflict if it was ever live; its event stays."""
        self.book.check()
        check_discard(self.book.standing(template_name, version), version)
        self.book.add_event(
            template_name,
            "discarded",
            actor=author,
            reason=reason,
            at=at,
            from_version=version,
            to_version=None,
        )
        del self.book.kept[template_name][version]

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
        """Make a draft live, or an inactive row active again; return the epoch of the change."""
        self.book.check()
        standing = self.book.standing(template_name, version)
        template = check_activate(standing, version, expected_version)
        self.book.check_slot(template_name, slot_of(template))
        self.book.add_event(
            template_name,
            "activated",
            actor=author,
            reason=reason,
            at=at,
            from_version=standing.live_version,
            to_version=version,
            gate=gate,
        )
        self.book.make_live(template, version, author=author, reason=reason, at=at)
        return self.book.epoch

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
        """Make the content of ``to_version``, which was live, live again as a new version."""
        self.book.check()
        standing = self.book.standing(template_name, to_version)
        template = check_roll_back(standing, to_version, expected_version)
        self.book.check_slot(template_name, slot_of(template))
        number = self.book.next_version(template_name)
        if standing.split is not None:
            self._abort(standing.split, expected_version, author, reason, at)
        self.book.add_event(
            template_name,
            "rolled_back",
            actor=author,
            reason=reason,
            at=at,
            from_version=expected_version,
            to_version=number,
        )
        version = self.book.add_version(
            template,
            number,
            author=author,
            reason=reason,
            at=at,
            base_version=expected_version,
            origin_version=to_version,
        )
        self.book.make_live(template, number, author=author, reason=reason, at=at)
        return replace(version, state="live")

    async def deactivate(
        self, template_name: str, *, author: str, reason: str, at: datetime
    ) -> int:
        """Take a template out of service; return the epoch. Conflict if it is not active."""
        self.book.check()
        standing = self.book.standing(template_name)
        live = check_deactivate(standing)
        if standing.split is not None:
            self._abort(standing.split, live, author, reason, at)
        self.book.add_event(
            template_name,
            "deactivated",
            actor=author,
            reason=reason,
            at=at,
            from_version=live,
            to_version=None,
        )
        self.book.take_out(template_name, author=author, reason=reason, at=at)
        return self.book.epoch

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

        Raises:
            InvalidPayload: the percentage is another one.
        """
        self.book.check()
        check_start_split(
            self.book.standing(template_name, candidate_version),
            candidate_version,
            percent=percent,
            expected_version=expected_version,
        )
        self.book.add_event(
            template_name,
            "split_started",
            actor=author,
            reason=reason,
            at=at,
            from_version=expected_version,
            to_version=candidate_version,
            gate=gate,
        )
        split = TemplateSplit(
            split_id=str(uuid4()),
            template_name=template_name,
            candidate_version=candidate_version,
            percent=percent,
            started_by=author,
            reason=reason,
            started_at=at,
        )
        self.book.splits[split.split_id] = split
        self.book.bump()
        return split

    async def end_split(
        self, template_name: str, outcome: SplitOutcome, *, author: str, reason: str, at: datetime
    ) -> TemplateSplit:
        """End the running split: the candidate becomes the live version, or is retired."""
        self.book.check()
        running = self.book.running_split(template_name)
        candidate = None if running is None else running.candidate_version
        standing = self.book.standing(template_name, candidate)
        live = standing.live_version
        split, template = check_end_split(standing, outcome)
        if template is None:
            return self._abort(split, live, author, reason, at)
        self.book.add_event(
            template_name,
            "split_promoted",
            actor=author,
            reason=reason,
            at=at,
            from_version=live,
            to_version=split.candidate_version,
        )
        ended = self.book.end_split(split, outcome, at=at)
        self.book.make_live(template, split.candidate_version, author=author, reason=reason, at=at)
        return ended

    async def splits(self, template_name: str | None = None) -> Sequence[TemplateSplit]:
        """Return splits, running ones first, then newest first."""
        self.book.check()
        found = [
            split
            for split in self.book.splits.values()
            if template_name is None or split.template_name == template_name
        ]
        newest = sorted(found, key=lambda split: split.started_at, reverse=True)
        return sorted(newest, key=lambda split: split.ended_at is not None)

    async def gateways(self) -> Sequence[GatewaySeen]:
        """Return the gateways that have reported, most recently seen first."""
        self.book.check()
        now = time.monotonic()
        found = [
            GatewaySeen(
                gateway_id=gateway_id,
                name=seen.name,
                epoch=seen.epoch,
                active_sha256=seen.active_sha256,
                seen_s_ago=now - seen.seen_at,
            )
            for gateway_id, seen in self.book.gateways.items()
        ]
        return sorted(found, key=lambda gateway: gateway.seen_s_ago)

    def _abort(
        self,
        split: TemplateSplit,
        live_version: int | None,
        author: str,
        reason: str,
        at: datetime,
    ) -> TemplateSplit:
        self.book.add_event(
            split.template_name,
            "split_aborted",
            actor=author,
            reason=reason,
            at=at,
            from_version=split.candidate_version,
            to_version=live_version,
        )
        return self.book.end_split(split, "aborted", at=at)


def _fits(row: StoredTemplate, wanted: TemplateFilter) -> bool:
    return (
        wanted.model_type in (None, row.model_type)
        and wanted.use_case in (None, row.use_case)
        and wanted.content_mode in (None, row.content_mode)
        and wanted.target in (None, row.target or "")
        and wanted.is_active in (None, row.is_active)
        and (wanted.name_contains or "").lower() in row.template_name.lower()
    )
