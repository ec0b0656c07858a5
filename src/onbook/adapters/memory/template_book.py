"""A book in memory, with the rules of the database: what both template ports share."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final
from uuid import uuid4

from onbook.domain.template_history import (
    EventAction,
    SplitOutcome,
    StoredTemplate,
    TemplateEvent,
    TemplateSplit,
    TemplateVersion,
)
from onbook.domain.template_lifecycle import (
    EVER_LIVE,
    WAS_LIVE,
    Slot,
    Standing,
    refuse_taken_slot,
    slot_of,
    version_state,
)
from onbook.domain.templates import Template, checked
from onbook.ports.stores import StoreUnavailable

# Who an edit that nobody explained came from, as on SQLite, which has no users.
RAW_ACTOR: Final = "sql:local"
_EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(slots=True, kw_only=True)
class SeenGateway:
    """What a gateway reported; ``seen_at`` by the monotonic clock."""

    name: str
    epoch: int
    active_sha256: str
    seen_at: float


class MemoryBook:
    """Rows, versions, events and splits. ``available`` False makes every use fail.

    No method waits, so within one event loop each change is whole or not there at all.
    """

    def __init__(self) -> None:
        self.available = True
        self.epoch = 0
        self.rows: dict[str, StoredTemplate] = {}
        self.changed_epochs: dict[str, int] = {}
        self.kept: dict[str, dict[int, TemplateVersion]] = {}
        self.record: list[TemplateEvent] = []
        self.splits: dict[str, TemplateSplit] = {}
        self.gateways: dict[str, SeenGateway] = {}
        self._listeners: list[asyncio.Event] = []

    def check(self) -> None:
        """Refuse to work while the book is switched off.

        Raises:
            StoreUnavailable: it is.
        """
        if not self.available:
            raise StoreUnavailable("The template store is switched off.")

    def listener(self) -> asyncio.Event:
        """Return an event that every later change sets."""
        listener = asyncio.Event()
        self._listeners.append(listener)
        return listener

    def unlisten(self, listener: asyncio.Event) -> None:
        """Set ``listener`` no more."""
        if listener in self._listeners:
            self._listeners.remove(listener)

    def versions(self, template_name: str) -> list[TemplateVersion]:
        """Return the versions of a template, newest first, each with its state of now."""
        kept = self.kept.get(template_name, {})
        return [self._stated(kept[number]) for number in sorted(kept, reverse=True)]

    def version(self, template_name: str, number: int) -> TemplateVersion | None:
        """Return one version, with its state of now."""
        found = self.kept.get(template_name, {}).get(number)
        return None if found is None else self._stated(found)

    def standing(self, template_name: str, number: int | None = None) -> Standing:
        """Return how a template stands, with version ``number`` if it is given."""
        row = self.rows.get(template_name)
        return Standing(
            template_name=template_name,
            live_version=None if row is None else row.version,
            is_active=row is not None and row.is_active,
            slot=None if row is None else row_slot(row),
            version=None if number is None else self.version(template_name, number),
            split=self.running_split(template_name),
        )

    def running_split(self, template_name: str) -> TemplateSplit | None:
        """Return the split that runs, or None."""
        found = (
            split
            for split in self.splits.values()
            if split.template_name == template_name and split.ended_at is None
        )
        return next(found, None)

    def was_live(self, template_name: str, actions: Iterable[EventAction]) -> set[int]:
        """Return the versions that an event with one of ``actions`` names."""
        wanted = frozenset(actions)
        return {
            event.to_version
            for event in self.record
            if event.template_name == template_name
            and event.to_version is not None
            and event.action in wanted
        }

    def check_slot(self, template_name: str, slot: Slot) -> None:
        """Refuse a key that another active template has.

        Raises:
            Conflict: it is taken.
        """
        for name, row in self.rows.items():
            if name != template_name and row.is_active and row_slot(row) == slot:
                refuse_taken_slot(template_name, name)

    def next_version(self, template_name: str) -> int:
        """Return the number of the next version: the highest there is or was, plus one."""
        row = self.rows.get(template_name)
        recorded = (
            event.to_version or 0 for event in self.record if event.template_name == template_name
        )
        there = self.kept.get(template_name, {})
        return max([*there, 0 if row is None else row.version, *recorded]) + 1

    def add_event(
        self,
        template_name: str,
        action: EventAction,
        *,
        actor: str,
        reason: str | None,
        at: datetime,
        from_version: int | None,
        to_version: int | None,
        gate: Mapping[str, object] | None = None,
    ) -> None:
        """Append to the record."""
        self.record.append(
            TemplateEvent(
                event_id=str(uuid4()),
                created_at=at,
                template_name=template_name,
                action=action,
                actor=actor,
                reason=reason,
                from_version=from_version,
                to_version=to_version,
                gate=None if gate is None else dict(gate),
            )
        )

    def add_version(
        self,
        template: Template,
        number: int,
        *,
        author: str,
        reason: str | None,
        at: datetime,
        base_version: int | None,
        origin_version: int | None = None,
    ) -> TemplateVersion:
        """Keep ``template`` as version ``number``; return it with its state of now."""
        kept = replace(template, version=number)
        version = TemplateVersion(
            template_name=template.template_name,
            version=number,
            state="draft",
            author=author,
            reason=reason,
            created_at=at,
            content_sha256=kept.content_sha256,
            base_version=base_version,
            origin_version=origin_version,
            template=kept,
        )
        self.kept.setdefault(template.template_name, {})[number] = version
        return self._stated(version)

    def make_live(
        self,
        template: Template,
        number: int,
        *,
        author: str,
        reason: str | None,
        at: datetime,
        is_active: bool = True,
    ) -> None:
        """Put version ``number`` into the template's row; its key must be free."""
        before = self.rows.get(template.template_name)
        self.rows[template.template_name] = StoredTemplate(
            template_name=template.template_name,
            version=number,
            model_type=template.model_type,
            use_case=template.use_case,
            content_mode=template.content_mode,
            target=template.target,
            is_active=is_active,
            updated_by=author,
            change_reason=reason,
            created_at=at if before is None else before.created_at,
            updated_at=at,
            content_sha256=template.content_sha256,
            template=replace(template, version=number),
        )
        self.bump(template.template_name)

    def take_out(
        self, template_name: str, *, author: str, reason: str | None, at: datetime
    ) -> None:
        """Make the template's row inactive."""
        self.rows[template_name] = replace(
            self.rows[template_name],
            is_active=False,
            updated_by=author,
            change_reason=reason,
            updated_at=at,
        )
        self.bump(template_name)

    def end_split(
        self, split: TemplateSplit, outcome: SplitOutcome, *, at: datetime
    ) -> TemplateSplit:
        """Note that ``split`` has ended."""
        ended = replace(split, ended_at=at, outcome=outcome)
        self.splits[split.split_id] = ended
        self.bump()
        return ended

    def bump(self, template_name: str | None = None) -> None:
        """Count a change of what is served, of a row if it is named, and tell who listens."""
        self.epoch += 1
        if template_name is not None:
            self.changed_epochs[template_name] = self.epoch
        for listener in self._listeners:
            listener.set()

    def put(self, template: Template) -> None:
        """Make ``template`` the active one of its name, as an edit by raw SQL would.

        Raises:
            Conflict: another active template has its key.
        """
        sound = checked(template)
        name = sound.template_name
        before = self.rows.get(name)
        self.check_slot(name, slot_of(sound))
        number = self._raw_number(sound, before)
        if self.kept.get(name, {}).get(number) is None:
            self.add_version(
                sound, number, author=RAW_ACTOR, reason=None, at=_EPOCH, base_version=None
            )
        self.add_event(
            name,
            "created" if before is None else "activated",
            actor=RAW_ACTOR,
            reason=None,
            at=_EPOCH,
            from_version=None if before is None else before.version,
            to_version=number,
        )
        self.make_live(sound, number, author=RAW_ACTOR, reason=None, at=_EPOCH)

    def deactivate(self, template_name: str) -> None:
        """Take a template out of service, as an edit by raw SQL would."""
        row = self.rows.get(template_name)
        if row is not None and row.is_active:
            self.add_event(
                template_name,
                "deactivated",
                actor=RAW_ACTOR,
                reason=None,
                at=_EPOCH,
                from_version=row.version,
                to_version=None,
            )
            self.take_out(template_name, author=RAW_ACTOR, reason=None, at=_EPOCH)

    def spoil(self, template_name: str) -> None:
        """Make the live content break a rule, as an edit by raw SQL can."""
        row = self.rows[template_name]
        number, problem = self.next_version(template_name), "It breaks a rule."
        self.kept[template_name][number] = TemplateVersion(
            template_name=template_name,
            version=number,
            state="draft",
            author=RAW_ACTOR,
            reason=None,
            created_at=_EPOCH,
            content_sha256=None,
            base_version=None,
            origin_version=None,
            template=None,
            problem=problem,
        )
        self.add_event(
            template_name,
            "activated" if row.is_active else "drafted",
            actor=RAW_ACTOR,
            reason=None,
            at=_EPOCH,
            from_version=row.version,
            to_version=number,
        )
        self.rows[template_name] = replace(
            row, version=number, template=None, problem=problem, content_sha256=None
        )
        self.bump(template_name)

    def stand_in(self, row: StoredTemplate) -> Template | None:
        """Return the newest earlier version that was live, is sound and has the row's key."""
        was_live = self.was_live(row.template_name, WAS_LIVE)
        for version in self.versions(row.template_name):
            template = version.template
            if (
                version.version < row.version
                and version.version in was_live
                and template is not None
                and slot_of(template) == row_slot(row)
            ):
                return template
        return None

    def see_gateway(self, gateway_id: str, *, name: str, epoch: int, active_sha256: str) -> None:
        """Note what a gateway serves now."""
        self.gateways[gateway_id] = SeenGateway(
            name=name, epoch=epoch, active_sha256=active_sha256, seen_at=time.monotonic()
        )

    def _raw_number(self, template: Template, before: StoredTemplate | None) -> int:
        """Return the version that the triggers would give to an edit by raw SQL."""
        kept = self.kept.get(template.template_name, {})
        if before is not None and before.template == replace(template, version=before.version):
            return before.version
        there = kept.get(template.version)
        grows = before is None or template.version > before.version
        # The number of a discarded draft is in the record only.
        free = there is None and not any(
            event.template_name == template.template_name and event.to_version == template.version
            for event in self.record
        )
        if grows and (free or (there is not None and there.template == template)):
            return template.version
        return self.next_version(template.template_name)

    def _stated(self, version: TemplateVersion) -> TemplateVersion:
        row = self.rows.get(version.template_name)
        state = version_state(
            version.version,
            live_version=None if row is None else row.version,
            ever_live=version.version in self.was_live(version.template_name, EVER_LIVE),
        )
        return replace(version, state=state)


def row_slot(row: StoredTemplate) -> Slot:
    """Return what at most one active row may have."""
    return row.model_type, row.use_case, row.content_mode, row.target or ""
