"""Picking the template, and knowing how fresh it is.

Order: exact key, the target's template of another model type, the universal template; then the
packaged one. Never across content modes. While the database is away the last good set serves.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from onbook.domain.content_mode.decision import ContentMode
from onbook.domain.errors import InternalError, InvalidPayload, TemplateNotFound
from onbook.domain.templates import (
    ResolvedTemplate,
    Template,
    TemplateKey,
    TemplateSource,
    UseCase,
)
from onbook.ports.clock import Clock
from onbook.ports.stores import StoreUnavailable, TemplateSnapshots, TemplateStore

# The model types of the twelve templates: known even where none of them is active.
_CORE_MODEL_TYPES: Final = frozenset({"qwen_instruct", "qwen_base"})

_LEVELS: Final[dict[TemplateSource, Literal[0, 1, 2]]] = {
    "database": 0,
    "system_cache": 1,
    "hardcoded": 2,
}


@dataclass(frozen=True, slots=True)
class BookState:
    """What the gateway serves from. ``good_at`` is when the database last confirmed it."""

    source: TemplateSource
    templates: int
    packaged: int
    reachable: bool
    good_at: datetime | None
    age_seconds: float


class TemplateBook:
    """The active templates, in memory. One per gateway process."""

    def __init__(
        self,
        store: TemplateStore,
        snapshots: TemplateSnapshots,
        packaged: Sequence[Template],
        clock: Clock,
    ) -> None:
        self._store = store
        self._snapshots = snapshots
        self._clock = clock
        self._packaged = _Index(packaged)
        self._index = self._packaged
        self._source: TemplateSource = "hardcoded"
        self._epoch: int | None = None
        self._reachable = False
        self._good_at: datetime | None = None
        self._served: set[str] = set()

    async def refresh(self) -> bool:
        """Look at the database; return whether another set of templates is served now.

        Never raises for a database that is away: the last good set goes on serving.
        """
        try:
            epoch = await self._store.epoch()
            if epoch != self._epoch:
                templates = await self._store.active()
                now = self._clock.now()
                self._use(_Index(templates), "database")
                self._epoch, self._reachable, self._good_at = epoch, True, now
                if templates:
                    # An empty set is no last good set: it would leave an outage with nothing.
                    await asyncio.to_thread(self._snapshots.save, templates, at=now)
                return True
        except StoreUnavailable:
            return await self._lost()
        self._reachable, self._good_at = True, self._clock.now()
        if self._source == "system_cache":
            self._source = "database"
        return False

    def state(self) -> BookState:
        """Return what is being served, and how old that is."""
        return BookState(
            source=self._source,
            templates=len(self._index.by_name),
            packaged=len(self._packaged.by_name),
            reachable=self._reachable,
            good_at=self._good_at,
            age_seconds=self._age(),
        )

    def model_types(self) -> frozenset[str]:
        """Return the model types that a caller may select."""
        return _CORE_MODEL_TYPES | {item.model_type for item in self._index.by_name.values()}

    def targets(self) -> frozenset[str]:
        """Return the targets that a caller may name."""
        indexes = (self._index, self._packaged)
        return frozenset(
            item.target for index in indexes for item in index.by_name.values() if item.target
        )

    def resolve(self, key: TemplateKey, *, model_chosen: bool = True) -> ResolvedTemplate:
        """Return the template for ``key``, by the documented order.

        Another model type than a chosen one is worth a warning; than the default it is not.

        Raises:
            InternalError: not even the packaged set has one; the package is damaged.
        """
        found = self._index.find(key)
        if found is not None:
            return self._resolved(found, key if model_chosen else found.key)
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
        version: int | None,
        content_mode: ContentMode,
        use_cases: Sequence[UseCase],
    ) -> ResolvedTemplate:
        """Return the template that the caller named.

        Raises:
            TemplateNotFound: there is no active template, or version, of this name.
            InvalidPayload: it is for another content mode or another use case.
        """
        template = self._index.by_name.get(name)
        if template is None or (version is not None and template.version != version):
            raise TemplateNotFound(
                "There is no active template of this name and version.",
                details={"fields": ["template_name" if template is None else "template_version"]},
            )
        if template.use_case not in use_cases:
            raise InvalidPayload(
                f"The named template is for {template.use_case}, which is another function.",
                details={"fields": ["template_name"]},
            )
        if template.content_mode != content_mode:
            raise InvalidPayload(
                f"The named template is for {template.content_mode} and the request is "
                f"{content_mode}.",
                details={"fields": ["template_name", "contentType"]},
                suggested_action="Name a template of the request's content mode, or set "
                "contentType.",
            )
        return self._resolved(template, template.key)

    def _resolved(self, template: Template, key: TemplateKey) -> ResolvedTemplate:
        cache_hit = template.template_name in self._served
        self._served.add(template.template_name)
        warnings = []
        if template.model_type != key.model_type:
            warnings.append(
                f"No template for {key.model_type} on this target; {template.template_name} "
                f"for {template.model_type} was used."
            )
        level = _LEVELS[self._source]
        if level == 1:
            warnings.append(
                "The database cannot be reached; the template is from the last good snapshot, "
                f"{self._age():.0f} s old."
            )
        elif level == 2:
            warnings.append("The database cannot be reached; the packaged template was used.")
        return ResolvedTemplate(
            template=template,
            source=self._source,
            fallback_level=level,
            cache_hit=cache_hit,
            age_seconds=self._age(),
            warnings=tuple(warnings),
        )

    async def _lost(self) -> bool:
        self._reachable = False
        if self._source == "database":
            self._source = "system_cache"
            # The next look must read everything: the file may have been replaced meanwhile.
            self._epoch = None
        elif (
            self._source == "hardcoded"
            and (last := await asyncio.to_thread(self._snapshots.load)) is not None
        ):
            templates, good_at = last
            self._use(_Index(templates), "system_cache")
            self._good_at = good_at
            return True
        return False

    def _use(self, index: "_Index", source: TemplateSource) -> None:
        self._index, self._source = index, source
        self._served = set()

    def _age(self) -> float:
        if self._good_at is None:
            return 0.0
        return max(0.0, (self._clock.now() - self._good_at).total_seconds())


class _Index:
    """Templates by name and by key, for constant-time selection."""

    def __init__(self, templates: Iterable[Template]) -> None:
        self.by_name = {template.template_name: template for template in templates}
        self._by_key: dict[TemplateKey, Template] = {}
        self._by_target: dict[tuple[UseCase, ContentMode, str | None], Template] = {}
        # By name, so that which of several model types serves a target does not depend on
        # the order of rows.
        for name in sorted(self.by_name):
            template = self.by_name[name]
            self._by_key.setdefault(template.key, template)
            place = (template.use_case, template.content_mode, template.target)
            self._by_target.setdefault(place, template)

    def find(self, key: TemplateKey) -> Template | None:
        universal = TemplateKey(key.model_type, key.use_case, key.content_mode, None)
        return (
            self._by_key.get(key)
            or self._by_target.get((key.use_case, key.content_mode, key.target))
            or self._by_key.get(universal)
            or self._by_target.get((key.use_case, key.content_mode, None))
        )
