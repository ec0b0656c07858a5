"""The reading half of the book as its editors see it."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TypeVar, cast

from sqlalchemy import ColumnElement, RowMapping, func, select, type_coerce
from sqlalchemy.ext.asyncio import AsyncEngine

from onbook.adapters.database.guard import store_errors
from onbook.adapters.database.tables import gateways
from onbook.adapters.database.template_rows import (
    MAX_VERSION,
    events,
    ever_live_versions,
    rows,
    splits,
    storable,
    stored_template,
    template_event,
    template_split,
    template_version,
    versions,
)
from onbook.adapters.database.types import UtcDateTime, utc_now
from onbook.domain.template_history import (
    StoredTemplate,
    TemplateEvent,
    TemplateSplit,
    TemplateVersion,
)
from onbook.ports.template_library import GatewaySeen, TemplateFilter

T = TypeVar("T")


class SqlTemplateReads:
    """What ``ports.TemplateLibrary`` reads. A name that no database can hold names nothing."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def list(
        self, wanted: TemplateFilter, *, after: str | None = None, limit: int = 200
    ) -> Sequence[StoredTemplate]:
        """Return templates by name, active or not, at most ``limit`` whose name is > ``after``."""
        if not all(map(storable, _given(wanted, after))):
            return []
        statement = select(rows).where(*_conditions(wanted)).order_by(rows.c.template_name)
        if after is not None:
            statement = statement.where(rows.c.template_name > after)
        with store_errors("list the templates"):
            async with self._engine.connect() as connection:
                found = (await connection.execute(statement.limit(limit))).mappings().all()
        return await _parsed(found, stored_template)

    async def find(self, template_name: str) -> StoredTemplate | None:
        """Return the row of a template, or None if there is none (a draft has no row)."""
        if not storable(template_name):
            return None
        with store_errors("read a template"):
            async with self._engine.connect() as connection:
                row = (
                    (
                        await connection.execute(
                            select(rows).where(rows.c.template_name == template_name)
                        )
                    )
                    .mappings()
                    .one_or_none()
                )
        return None if row is None else stored_template(dict(row))

    async def versions(
        self, template_name: str, *, before: int | None = None, limit: int = 100
    ) -> Sequence[TemplateVersion]:
        """Return versions, newest first, at most ``limit`` that are < ``before``."""
        below = MAX_VERSION + 1 if before is None else min(before, MAX_VERSION + 1)
        return await self._versions(
            template_name, versions.c.version <= max(0, below - 1), limit=limit
        )

    async def version(self, template_name: str, version: int) -> TemplateVersion | None:
        """Return one version, or None."""
        if not 1 <= version <= MAX_VERSION:
            return None
        found = await self._versions(template_name, versions.c.version == version, limit=1)
        return found[0] if found else None

    async def events(
        self, template_name: str | None, *, before: str | None = None, limit: int = 100
    ) -> Sequence[TemplateEvent]:
        """Return events, newest first; of all templates for None; older than event ``before``."""
        if not all(map(storable, (template_name or "", before or ""))):
            return []
        statement = select(events).order_by(events.c.position.desc()).limit(limit)
        if template_name is not None:
            statement = statement.where(events.c.template_name == template_name)
        if before is not None:
            position = select(events.c.position).where(events.c.event_id == before)
            statement = statement.where(events.c.position < position.scalar_subquery())
        with store_errors("read the events of the templates"):
            async with self._engine.connect() as connection:
                found = (await connection.execute(statement)).mappings().all()
        return [template_event(dict(row)) for row in found]

    async def splits(self, template_name: str | None = None) -> Sequence[TemplateSplit]:
        """Return splits, running ones first, then newest first."""
        if not storable(template_name or ""):
            return []
        statement = select(splits).order_by(
            splits.c.ended_at.is_not(None), splits.c.started_at.desc(), splits.c.split_id
        )
        if template_name is not None:
            statement = statement.where(splits.c.template_name == template_name)
        with store_errors("read the splits"):
            async with self._engine.connect() as connection:
                found = (await connection.execute(statement)).mappings().all()
        return [template_split(dict(row)) for row in found]

    async def gateways(self) -> Sequence[GatewaySeen]:
        """Return the gateways that have reported, most recently seen first."""
        now = type_coerce(utc_now(), UtcDateTime).label("now")
        statement = select(gateways, now).order_by(gateways.c.seen_at.desc(), gateways.c.gateway_id)
        with store_errors("read which gateways live"):
            async with self._engine.connect() as connection:
                found = (await connection.execute(statement)).all()
        return [
            GatewaySeen(
                gateway_id=row.gateway_id,
                name=row.name,
                epoch=row.epoch,
                active_sha256=row.active_sha256,
                seen_s_ago=max(0.0, (_time(row.now) - _time(row.seen_at)).total_seconds()),
            )
            for row in found
        ]

    async def _versions(
        self, template_name: str, which: ColumnElement[bool], *, limit: int
    ) -> Sequence[TemplateVersion]:
        if not storable(template_name):
            return []
        ever_live = versions.c.version.in_(ever_live_versions(template_name))
        live_version = select(rows.c.version).where(rows.c.template_name == template_name)
        statement = (
            select(
                versions,
                ever_live.label("ever_live"),
                live_version.scalar_subquery().label("live_version"),
            )
            .where(versions.c.template_name == template_name, which)
            .order_by(versions.c.version.desc())
            .limit(limit)
        )
        with store_errors("read the versions of a template"):
            async with self._engine.connect() as connection:
                found = (await connection.execute(statement)).mappings().all()
        return await _parsed(found, _version)


async def _parsed(
    found: Sequence[RowMapping], parse: Callable[[Mapping[str, object]], T]
) -> list[T]:
    """Return the rows as values of the domain.

    Up to hundreds of templates with all of their texts: not in the loop that serves everybody.
    """
    return await asyncio.to_thread(lambda: [parse(dict(row)) for row in found])


def _version(row: Mapping[str, object]) -> TemplateVersion:
    live = cast("int | None", row["live_version"])
    return template_version(row, live_version=live, ever_live=bool(row["ever_live"]))


def _given(wanted: TemplateFilter, after: str | None) -> list[str]:
    texts = (
        wanted.model_type,
        wanted.use_case,
        wanted.content_mode,
        wanted.target,
        wanted.name_contains,
        after,
    )
    return [text for text in texts if text is not None]


def _conditions(wanted: TemplateFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [
        rows.c[name] == value
        for name, value in (
            ("model_type", wanted.model_type),
            ("use_case", wanted.use_case),
            ("content_mode", wanted.content_mode),
        )
        if value is not None
    ]
    if wanted.target is not None:
        conditions.append(func.coalesce(rows.c.target, "") == wanted.target)
    if wanted.is_active is not None:
        conditions.append(rows.c.is_active if wanted.is_active else ~rows.c.is_active)
    if wanted.name_contains is not None:
        conditions.append(rows.c.template_name.icontains(wanted.name_contains, autoescape=True))
    return conditions


def _time(value: object) -> datetime:
    return cast("datetime", value)
