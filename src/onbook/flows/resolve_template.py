"""Picking the template, and knowing how fresh it is.

Order: exact key, the target's template of another model type, the universal template; then the
packaged one. Never across content modes. While the database is away the last good set serves.
"""

import asyncio
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from onbook.domain.content_mode.decision import ContentMode
from onbook.domain.enhancement import Caller
from onbook.domain.errors import InternalError, TemplateNotFound
from onbook.domain.templates import (
    ResolvedTemplate,
    Template,
    TemplateKey,
    TemplateSource,
    UseCase,
)
from onbook.flows.fit_request import LEVELS, check_fits, on_its_side, source_warnings
from onbook.flows.keep_snapshot import SnapshotKeeper
from onbook.flows.pinned_templates import PinnedTemplates
from onbook.flows.template_index import TemplateIndex
from onbook.ports.clock import Clock
from onbook.ports.stores import (
    StoreUnavailable,
    TemplateChanges,
    TemplateSnapshots,
    TemplateStore,
)

if TYPE_CHECKING:
    from onbook.domain.splits import SplitInfo
    from onbook.domain.template_history import ActiveSplit

# The model types of the twelve templates: known even where none of them is active.
_CORE_MODEL_TYPES: Final = frozenset({"qwen_instruct", "qwen_base"})
# Everything is read again this often, whatever the epoch says: the bound on any drift.
_FULL_READ_S: Final = 300.0
# An index of more templates than this is built beside the event loop.
_BUILT_AT_ONCE: Final = 1000


@dataclass(frozen=True, slots=True)
class BookState:
    """What the gateway serves from. ``good_at`` is when the database last confirmed it.

    ``epoch`` is the book's at the last read, None before the first; ``active_sha256`` names the
    served set: equal on two gateways that serve the same. ``splits`` counts the running ones,
    ``stale`` the templates whose live version breaks a rule. With no ``templates`` the book was
    empty, by its ``source``, and the packaged ones serve.
    """

    source: TemplateSource
    templates: int
    packaged: int
    reachable: bool
    good_at: datetime | None
    age_seconds: float
    epoch: int | None
    active_sha256: str
    splits: int
    stale: int


class TemplateBook:
    """The active templates, in memory. One per gateway process.

    Args:
        store: The book in the database.
        snapshots: Where the last good set is kept.
        packaged: What serves where nothing else does.
        clock: Tells ages.
        gateway_id: Whom ``acknowledge`` speaks for; None for a process that is no gateway.
        gateway_name: What people call it.
    """

    def __init__(
        self,
        store: TemplateStore,
        snapshots: TemplateSnapshots,
        packaged: Sequence[Template],
        clock: Clock,
        *,
        gateway_id: str | None = None,
        gateway_name: str = "",
    ) -> None:
        self._store = store
        self._keeper = SnapshotKeeper(snapshots, clock)
        self._pinned = PinnedTemplates(store)
        self._clock = clock
        self._gateway = (gateway_id, gateway_name)
        self._packaged = TemplateIndex(packaged, model_types=_CORE_MODEL_TYPES)
        self._index = self._packaged
        self._splits: Mapping[str, ActiveSplit] = {}
        self._stale: dict[str, int] = {}
        self._source: TemplateSource = "hardcoded"
        self._epoch: int | None = None
        self._sha256: str | None = None
        self._full_at: float | None = None
        self._reachable = False
        self._good_at: datetime | None = None
        self._good_since = 0.0
        # By identity: a template that was read again has not been used yet.
        self._served: set[int] = set()
        self._reading = asyncio.Lock()
        self._telling = asyncio.Lock()

    async def refresh(self, *, full: bool = False) -> bool:
        """Look at the database; return whether it had something new, or another set serves now.

        Only what changed is read, unless ``full`` is set, five minutes have passed, or the
        database was away. Never raises for a database that is away: the last good set goes on
        serving.
        """
        async with self._reading:
            try:
                changed = await self._read(full=full)
            except StoreUnavailable:
                changed = await self._lost()
            else:
                if changed:
                    await self.acknowledge()
        await self._keeper.keep()
        return changed

    async def acknowledge(self) -> None:
        """Tell the database what this gateway serves; best effort."""
        gateway_id, name = self._gateway
        if gateway_id is None:
            return
        # One report at a time, so that an older epoch is not written over a newer one.
        async with self._telling:
            if self._epoch is None or self._source != "database":
                return
            try:
                await self._store.acknowledge(
                    gateway_id, name=name, epoch=self._epoch, active_sha256=self.active_sha256()
                )
            except StoreUnavailable:
                # The next report, or the next refresh, finds out by itself.
                return

    async def forget(self) -> None:
        """Write the last snapshot that is due, and take this gateway off the list; at the end."""
        await self._keeper.finish()
        gateway_id, _ = self._gateway
        if gateway_id is not None:
            try:
                await self._store.forget(gateway_id)
            except StoreUnavailable:
                # It is not waited for once it has been silent for a while.
                return

    def state(self) -> BookState:
        """Return what is being served, and how old that is."""
        return BookState(
            source=self._source,
            templates=len(self._index),
            packaged=len(self._packaged),
            reachable=self._reachable,
            good_at=self._good_at,
            age_seconds=self._age(),
            epoch=self._epoch,
            active_sha256=self.active_sha256(),
            splits=len(self._splits),
            stale=len(self._stale),
        )

    def active_sha256(self) -> str:
        """Return the hash of the served set: names, versions, content hashes and splits."""
        if self._sha256 is None:
            lines = [f"{self._index.content_sum:064x}"]
            for name in sorted(self._splits):
                running = self._splits[name]
                candidate = running.candidate
                lines.append(
                    f"{name}\n{candidate.version}\n{running.split.percent}\n"
                    f"{candidate.content_sha256}"
                )
            text = "\n".join(lines)
            self._sha256 = sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        return self._sha256

    def content_hashes(self) -> Mapping[str, str]:
        """Return the content hash of each served template by its name."""
        return {item.template_name: item.content_sha256 for item in self._index.by_name.values()}

    def stale(self) -> Mapping[str, int]:
        """Return the templates whose live version breaks a rule, with that version."""
        return dict(self._stale)

    def model_types(self) -> "AbstractSet[str]":
        """Return the model types that a caller may select."""
        return self._index.model_types

    def targets(self) -> "AbstractSet[str]":
        """Return the targets that a caller may name."""
        return self._index.targets

    def resolve(
        self, key: TemplateKey, *, caller: Caller | None = None, model_chosen: bool = True
    ) -> ResolvedTemplate:
        """Return the template for ``key``, by the documented order.

        ``caller`` is who a running split is decided for; None is always on the live version.
        Another model type than a chosen one is worth a warning; than the default it is not.

        Raises:
            InternalError: not even the packaged set has one; the package is damaged.
        """
        found = self._index.find(key)
        if found is not None:
            return self._resolved(found, key if model_chosen else None, caller)
        found = self._packaged.find(key)
        if found is None:
            raise InternalError(
                f"There is no template for {key.use_case}, {key.content_mode}, {key.target}.",
                suggested_action="Activate a template for this target, or install Onbook again.",
            )
        warning = (
            f"There is no active, valid {key.content_mode} template for {key.use_case} on "
            f"{key.target or 'any target'}; the packaged one was used."
        )
        return ResolvedTemplate(
            template=found,
            source="hardcoded",
            fallback_level=2,
            cache_hit=False,
            age_seconds=0.0,
            warnings=(warning,),
        )

    def named(
        self,
        name: str,
        content_mode: ContentMode,
        use_cases: Sequence[UseCase],
        *,
        caller: Caller | None = None,
    ) -> ResolvedTemplate:
        """Return the active template that the caller named.

        Raises:
            TemplateNotFound: there is no active template of this name.
            InvalidPayload: it is for another content mode or another use case.
        """
        template = self._index.get(name)
        if template is None:
            raise TemplateNotFound(
                "There is no active template of this name.",
                details={"fields": ["template_name"]},
            )
        check_fits(template, content_mode, use_cases)
        return self._resolved(template, None, caller)

    async def pinned(
        self,
        name: str,
        version: int,
        content_mode: ContentMode,
        use_cases: Sequence[UseCase],
        *,
        caller: Caller | None = None,
    ) -> ResolvedTemplate:
        """Return one version of a template, whichever is live; no split applies.

        Versions never change, so one that was read once serves without the database too.

        Raises:
            TemplateNotFound: there is no such version, or it is a draft and the caller may not
                edit templates.
            InvalidPayload: it is for another content mode or another use case.
            DatabaseUnavailable: it is not known here and the database cannot be asked.
        """
        template = self._index.get(name)
        if template is not None and template.version == version:
            check_fits(template, content_mode, use_cases)
            return self._resolved(template, None, None)
        may_edit = caller is not None and caller.may("templates:edit")
        found, cache_hit = await self._pinned.get(name, version, drafts=may_edit)
        check_fits(found, content_mode, use_cases)
        source: TemplateSource = "database" if self._reachable or not cache_hit else "system_cache"
        return ResolvedTemplate(
            template=found,
            source=source,
            fallback_level=LEVELS[source],
            cache_hit=cache_hit,
            age_seconds=self._age() if source == "system_cache" else 0.0,
            warnings=source_warnings(source, self._age()),
        )

    def _resolved(
        self, template: Template, asked: TemplateKey | None, caller: Caller | None
    ) -> ResolvedTemplate:
        name = template.template_name
        warnings: tuple[str, ...] = ()
        if asked is not None and template.model_type != asked.model_type:
            used = f"{name} for {template.model_type} was used."
            warnings = (f"No template for {asked.model_type} on this target; {used}",)
        split: SplitInfo | None = None
        if self._splits and caller is not None and name in self._splits:
            template, split = on_its_side(template, self._splits[name], caller)
        if self._stale and name in self._stale and (split is None or split.arm == "current"):
            used = f"version {template.version} was used."
            warnings += (f"Version {self._stale[name]} of {name} breaks a rule; {used}",)
        served = id(template)
        cache_hit = served in self._served
        if not cache_hit:
            self._served.add(served)
        if self._source != "database":
            warnings += source_warnings(self._source, self._age())
        return ResolvedTemplate(
            template=template,
            source=self._source,
            fallback_level=LEVELS[self._source],
            cache_hit=cache_hit,
            age_seconds=self._age(),
            warnings=warnings,
            split=split,
        )

    async def _read(self, *, full: bool) -> bool:
        # The clocks are read first: what is served is as old as the reading of it.
        began, at = self._clock.monotonic(), self._clock.now()
        due = self._full_at is None or began - self._full_at >= _FULL_READ_S
        since = None if full or due else self._epoch
        epoch = await self._store.epoch() if since is not None else None
        if epoch is not None and epoch == since:
            self._reachable, self._good_at, self._good_since = True, at, began
            return False
        changes = await self._store.changes(since)
        changed = await self._take_over(changes, at)
        self._good_since = began
        if changes.full:
            self._full_at = began
        return changed

    async def _take_over(self, changes: TemplateChanges, at: datetime) -> bool:
        before = None if self._source != "database" else (self._epoch, self.active_sha256())
        if changes.full:
            index = (
                self._built(changes.active)
                if len(changes.active) <= _BUILT_AT_ONCE
                else await asyncio.to_thread(self._built, changes.active)
            )
            self._served = set()
            self._index, self._stale = index, dict(changes.stale)
        else:
            for name in (*changes.gone, *(item.template_name for item in changes.active)):
                self._stale.pop(name, None)
                old = self._index.get(name)
                if old is not None:
                    self._served.discard(id(old))
            self._index.apply(changes.active, changes.gone)
            self._stale.update(changes.stale)
        for running in self._splits.values():
            self._served.discard(id(running.candidate))
        self._splits = {running.split.template_name: running for running in changes.splits}
        self._epoch, self._sha256 = changes.epoch, None
        self._source, self._reachable, self._good_at = "database", True, at
        changed = before != (self._epoch, self.active_sha256())
        if changed:
            self._keeper.replace(self._index, at)
        return changed

    def _built(self, templates: Sequence[Template]) -> TemplateIndex:
        return TemplateIndex(
            templates, model_types=_CORE_MODEL_TYPES, targets=self._packaged.targets
        )

    async def _lost(self) -> bool:
        self._reachable = False
        if self._source == "database":
            self._source = "system_cache"
            # The next look must read everything: the file may have been replaced meanwhile.
            self._full_at = None
        elif self._source == "hardcoded" and (last := await self._keeper.load()) is not None:
            templates, good_at = last
            self._index, self._source = self._built(templates), "system_cache"
            self._served, self._sha256 = set(), None
            self._good_at = good_at
            age = (self._clock.now() - good_at).total_seconds()
            self._good_since = self._clock.monotonic() - age
            return True
        return False

    def _age(self) -> float:
        if self._good_at is None:
            return 0.0
        # By the clock that no time server moves, and that costs the least to read.
        return max(0.0, self._clock.monotonic() - self._good_since)
