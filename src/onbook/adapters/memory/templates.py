"""The book in memory as gateways read it, and its snapshots."""

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from datetime import datetime

from onbook.adapters.memory.template_book import MemoryBook, row_slot
from onbook.domain.template_history import ActiveSplit
from onbook.domain.template_lifecycle import EVER_LIVE, slot_of
from onbook.domain.templates import Template, checked
from onbook.ports.stores import PinnedTemplate, TemplateChanges


class MemoryTemplateStore:
    """``ports.TemplateStore`` in memory.

    ``available`` False makes every call fail, as an outage would.

    Args:
        templates: What is in the book from the beginning, active.
        book: The book to read, shared with others; a new one by default.
    """

    def __init__(
        self, templates: Iterable[Template] = (), *, book: MemoryBook | None = None
    ) -> None:
        self.book = MemoryBook() if book is None else book
        self._changed = self.book.listener()
        for template in templates:
            self.book.put(template)

    @property
    def available(self) -> bool:
        """Whether the book can be used."""
        return self.book.available

    @available.setter
    def available(self, available: bool) -> None:
        self.book.available = available

    async def epoch(self) -> int:
        """Return a number that grows with every change to what is served."""
        self.book.check()
        return self.book.epoch

    async def changes(self, since: int | None) -> TemplateChanges:
        """Return what changed after epoch ``since``; everything for None or a newer one."""
        book = self.book
        book.check()
        full = since is None or since > book.epoch
        after = -1 if since is None or full else since
        active: list[Template] = []
        gone: list[str] = []
        stale: dict[str, int] = {}
        for name, row in sorted(book.rows.items()):
            if book.changed_epochs[name] <= after or (full and not row.is_active):
                continue
            serves = row.template
            if row.is_active and serves is None:
                stale[name] = row.version
                serves = book.stand_in(row)
            if row.is_active and serves is not None:
                active.append(serves)
            else:
                gone.append(name)
        return TemplateChanges(
            epoch=book.epoch,
            full=full,
            active=active,
            gone=gone,
            splits=self._splits(),
            stale=stale,
        )

    async def changed(self, timeout_s: float) -> None:
        """Return once something has changed, or after ``timeout_s`` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        self._changed.clear()

    async def pinned(self, template_name: str, version: int) -> PinnedTemplate | None:
        """Return one version, or None if there is none or it breaks a rule."""
        self.book.check()
        found = self.book.version(template_name, version)
        if found is None or found.template is None:
            return None
        return PinnedTemplate(
            found.template, ever_live=version in self.book.was_live(template_name, EVER_LIVE)
        )

    async def seed(self, templates: Sequence[Template], *, at: datetime) -> int:
        """Insert those templates whose name is not there yet; return how many were new.

        One whose key is taken by another active template is kept, but not active.
        """
        book = self.book
        book.check()
        added = 0
        for template in templates:
            name = template.template_name
            if name in book.rows:
                continue
            sound, slot = checked(template), slot_of(template)
            # Above the numbers of its drafts, if it has or had some.
            following = book.next_version(name)
            number = template.version if following == 1 else following
            taken = any(row.is_active and row_slot(row) == slot for row in book.rows.values())
            reason = "packaged template"
            book.add_event(
                name,
                "created",
                actor="seed",
                reason=reason,
                at=at,
                from_version=None,
                to_version=number,
            )
            book.add_version(sound, number, author="seed", reason=reason, at=at, base_version=None)
            book.make_live(sound, number, author="seed", reason=reason, at=at, is_active=not taken)
            added += 1
        return added

    async def acknowledge(
        self, gateway_id: str, *, name: str, epoch: int, active_sha256: str
    ) -> None:
        """Note that a gateway lives and serves the book at ``epoch``."""
        self.book.check()
        self.book.see_gateway(gateway_id, name=name, epoch=epoch, active_sha256=active_sha256)

    async def forget(self, gateway_id: str) -> None:
        """Remove a gateway that stops."""
        self.book.check()
        self.book.gateways.pop(gateway_id, None)

    async def close(self) -> None:
        """Listen to the book no more."""
        self.book.unlisten(self._changed)

    def put(self, template: Template) -> None:
        """Make ``template`` the active one of its name, as an edit by raw SQL would."""
        self.book.put(template)

    def deactivate(self, template_name: str) -> None:
        """Take a template out of service, as an edit by raw SQL would."""
        self.book.deactivate(template_name)

    def spoil(self, template_name: str) -> None:
        """Make the live content break a rule, as an edit by raw SQL can."""
        self.book.spoil(template_name)

    def _splits(self) -> list[ActiveSplit]:
        """Return the splits that are served: a candidate's key must be that of its live row."""
        found = []
        for split in sorted(self.book.splits.values(), key=lambda split: split.template_name):
            row = self.book.rows.get(split.template_name)
            version = self.book.version(split.template_name, split.candidate_version)
            candidate = None if version is None else version.template
            if (
                split.ended_at is None
                and candidate is not None
                and row is not None
                and row.is_active
                and row_slot(row) == slot_of(candidate)
            ):
                found.append(ActiveSplit(split, candidate))
        return found


class MemorySnapshots:
    """``ports.TemplateSnapshots`` in memory."""

    def __init__(self) -> None:
        self._saved: tuple[Sequence[Template], datetime] | None = None

    def save(self, templates: Sequence[Template], *, at: datetime) -> None:
        """Keep ``templates``."""
        self._saved = (tuple(templates), at)

    def load(self) -> tuple[Sequence[Template], datetime] | None:
        """Return the last set and when it was good, or None if there is none."""
        return self._saved
