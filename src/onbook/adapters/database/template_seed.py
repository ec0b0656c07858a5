"""Putting the packaged templates into a book that does not have them yet."""

from collections.abc import Sequence
from datetime import datetime
from uuid import uuid4

from sqlalchemy import func, insert, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from onbook.adapters.database.engine import writer
from onbook.adapters.database.template_rows import events, rows, versions
from onbook.adapters.database.template_writes import lock
from onbook.adapters.template_mapping import template_mapping
from onbook.domain.template_lifecycle import Slot, slot_of
from onbook.domain.templates import Template, checked

ACTOR = "seed"
REASON = "packaged template"


async def seed_templates(
    engine: AsyncEngine, templates: Sequence[Template], *, at: datetime
) -> int:
    """Insert those templates whose name is not there yet; return how many were new."""
    async with engine.connect() as connection:
        known = set((await connection.execute(select(rows.c.template_name))).scalars())
    if all(template.template_name in known for template in templates):
        # Nothing to write, so nobody else's write lock is worth waiting for.
        return 0
    async with writer(engine).begin() as connection:
        # Of two gateways that start together, the second finds the work done.
        await lock(connection)
        names, taken = await _there(connection)
        given = await _given(connection, [item.template_name for item in templates])
        added = 0
        for template in templates:
            if template.template_name in names:
                continue
            slot = slot_of(template)
            await _insert(
                connection,
                template,
                version=given.get(template.template_name, template.version - 1) + 1,
                is_active=slot not in taken,
                at=at,
            )
            names.add(template.template_name)
            taken.add(slot)
            added += 1
    return added


async def _there(connection: AsyncConnection) -> tuple[set[str], set[Slot]]:
    """Return the names in the book, and the keys that an active template has."""
    statement = select(
        rows.c.template_name,
        rows.c.model_type,
        rows.c.use_case,
        rows.c.content_mode,
        rows.c.target,
        rows.c.is_active,
    )
    found = (await connection.execute(statement)).all()
    names = {row.template_name for row in found}
    taken = {
        (row.model_type, row.use_case, row.content_mode, row.target or "")
        for row in found
        if row.is_active
    }
    return names, taken


async def _given(connection: AsyncConnection, names: Sequence[str]) -> dict[str, int]:
    """Return the highest number that a version of these has or had: drafts, and discarded ones."""
    numbers = union_all(
        select(versions.c.template_name, versions.c.version).where(
            versions.c.template_name.in_(names)
        ),
        select(events.c.template_name, events.c.to_version).where(
            events.c.template_name.in_(names), events.c.to_version.is_not(None)
        ),
    ).subquery()
    found = await connection.execute(
        select(numbers.c.template_name, func.max(numbers.c.version)).group_by(
            numbers.c.template_name
        )
    )
    return {name: int(version) for name, version in found.all()}


async def _insert(
    connection: AsyncConnection, template: Template, *, version: int, is_active: bool, at: datetime
) -> None:
    event_id = str(uuid4())
    content = template_mapping(template)
    digest = checked(template).content_sha256
    await connection.execute(
        insert(events).values(
            event_id=event_id,
            created_at=at,
            template_name=template.template_name,
            action="created",
            actor=ACTOR,
            reason=REASON,
            to_version=version,
        )
    )
    await connection.execute(
        insert(versions).values(
            **content,
            version=version,
            author=ACTOR,
            reason=REASON,
            created_at=at,
            content_sha256=digest,
        )
    )
    await connection.execute(
        insert(rows).values(
            **content,
            id=str(uuid4()),
            version=version,
            is_active=is_active,
            updated_by=ACTOR,
            change_reason=REASON,
            created_at=at,
            updated_at=at,
            content_sha256=digest,
            event_id=event_id,
        )
    )
