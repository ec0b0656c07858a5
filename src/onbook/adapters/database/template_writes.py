"""The statements of one change of the book; each runs in the transaction of its caller."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from uuid import uuid4

from sqlalchemy import func, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from onbook.adapters.database.tables import template_epoch
from onbook.adapters.database.template_rows import (
    MAX_VERSION,
    RECORDED,
    Row,
    events,
    ever_live_versions,
    rows,
    splits,
    storable,
    template_split,
    template_version,
    versions,
)
from onbook.adapters.template_mapping import template_mapping
from onbook.domain.template_history import (
    EventAction,
    SplitOutcome,
    TemplateSplit,
    TemplateVersion,
)
from onbook.domain.template_lifecycle import (
    Slot,
    Standing,
    refuse_lost_race,
    refuse_taken_slot,
    slot_of,
)
from onbook.domain.templates import Template


async def lock(connection: AsyncConnection) -> None:
    """Keep every other writer of the book out until the end of the transaction.

    On SQLite a writing transaction is alone anyway. On Postgres the triggers take the same lock
    before they touch a row, so nobody waits for another in a circle.
    """
    if connection.dialect.name == "postgresql":
        await connection.execute(select(template_epoch.c.epoch).with_for_update())


async def standing(
    connection: AsyncConnection, template_name: str, number: int | None = None
) -> Standing:
    """Lock the book and return how the template stands, with version ``number`` if it is given."""
    if not storable(template_name):
        return Standing(
            template_name=template_name,
            live_version=None,
            is_active=False,
            slot=None,
            version=None,
            split=None,
        )
    await lock(connection)
    statement = select(
        rows.c.version,
        rows.c.is_active,
        rows.c.model_type,
        rows.c.use_case,
        rows.c.content_mode,
        rows.c.target,
    ).where(rows.c.template_name == template_name)
    row = (await connection.execute(statement)).one_or_none()
    live_version = None if row is None else int(row.version)
    return Standing(
        template_name=template_name,
        live_version=live_version,
        is_active=row is not None and bool(row.is_active),
        slot=None
        if row is None
        else (row.model_type, row.use_case, row.content_mode, row.target or ""),
        version=None
        if number is None
        else await one_version(connection, template_name, number, live_version=live_version),
        split=await running_split(connection, template_name),
    )


async def one_version(
    connection: AsyncConnection, template_name: str, number: int, *, live_version: int | None
) -> TemplateVersion | None:
    """Return a version, or None if there is none."""
    if not 1 <= number <= MAX_VERSION:
        return None
    ever_live = ever_live_versions(template_name).where(events.c.to_version == number).exists()
    statement = select(versions, ever_live.label("ever_live")).where(
        versions.c.template_name == template_name, versions.c.version == number
    )
    row = (await connection.execute(statement)).mappings().one_or_none()
    if row is None:
        return None
    return template_version(dict(row), live_version=live_version, ever_live=bool(row["ever_live"]))


async def running_split(connection: AsyncConnection, template_name: str) -> TemplateSplit | None:
    """Return the split that runs, or None."""
    statement = select(splits).where(
        splits.c.template_name == template_name, splits.c.ended_at.is_(None)
    )
    row = (await connection.execute(statement)).mappings().one_or_none()
    return None if row is None else template_split(dict(row))


async def check_slot(connection: AsyncConnection, template_name: str, slot: Slot) -> None:
    """Refuse a key that another active template has; the database's index would do so too.

    Raises:
        Conflict: it is taken.
    """
    model_type, use_case, content_mode, target = slot
    statement = select(rows.c.template_name).where(
        rows.c.model_type == model_type,
        rows.c.use_case == use_case,
        rows.c.content_mode == content_mode,
        func.coalesce(rows.c.target, "") == target,
        rows.c.is_active,
        rows.c.template_name != template_name,
    )
    holder = (await connection.execute(statement)).scalar()
    if holder is not None:
        refuse_taken_slot(template_name, str(holder))


async def next_version(connection: AsyncConnection, template_name: str) -> int:
    """Return the number of the next version: the highest there is or was, plus one.

    The number of a discarded draft stays in its events, so another text never gets it.
    """
    of_versions = select(func.max(versions.c.version)).where(
        versions.c.template_name == template_name
    )
    of_row = select(rows.c.version).where(rows.c.template_name == template_name)
    of_events = select(func.max(events.c.to_version)).where(events.c.template_name == template_name)
    numbers = (of.scalar_subquery() for of in (of_versions, of_row, of_events))
    found = (await connection.execute(select(*numbers))).one()
    return max((int(number) for number in found if number is not None), default=0) + 1


async def add_event(
    connection: AsyncConnection,
    template_name: str,
    action: EventAction,
    *,
    actor: str,
    reason: str,
    at: datetime,
    from_version: int | None,
    to_version: int | None,
    gate: Mapping[str, object] | None = None,
) -> str:
    """Append to the record; return the event's id."""
    event_id = str(uuid4())
    values: dict[str, object] = {
        "event_id": event_id,
        "created_at": at,
        "template_name": template_name,
        "action": action,
        "actor": actor,
        "reason": reason,
        "from_version": from_version,
        "to_version": to_version,
    }
    if gate is not None:
        # Else the column would hold JSON's null instead of SQL's.
        values["gate"] = gate
    await connection.execute(insert(events).values(values))
    return event_id


async def add_version(
    connection: AsyncConnection,
    template: Template,
    number: int,
    *,
    author: str,
    reason: str,
    at: datetime,
    base_version: int | None,
) -> TemplateVersion:
    """Add a draft."""
    values: Row = {
        **template_mapping(template),
        "version": number,
        "author": author,
        "reason": reason,
        "created_at": at,
        "content_sha256": template.content_sha256,
        "base_version": base_version,
        "origin_version": None,
    }
    await connection.execute(insert(versions).values(values))
    return template_version(values, live_version=None, ever_live=False)


async def copy_version(
    connection: AsyncConnection,
    origin: Template,
    number: int,
    *,
    author: str,
    reason: str,
    at: datetime,
    base_version: int,
) -> TemplateVersion:
    """Add version ``number`` with exactly the stored content of ``origin``, to be made live."""
    facts: dict[str, object] = {
        "template_name": origin.template_name,
        "version": number,
        "author": author,
        "reason": reason,
        "created_at": at,
        "content_sha256": origin.content_sha256,
        "base_version": base_version,
        "origin_version": origin.version,
    }
    content = select(
        *(literal(value, versions.c[name].type).label(name) for name, value in facts.items()),
        *(versions.c[name] for name in RECORDED),
    ).where(versions.c.template_name == origin.template_name, versions.c.version == origin.version)
    await connection.execute(insert(versions).from_select([*facts, *RECORDED], content))
    return TemplateVersion(
        template_name=origin.template_name,
        version=number,
        state="live",
        author=author,
        reason=reason,
        created_at=at,
        content_sha256=origin.content_sha256,
        base_version=base_version,
        origin_version=origin.version,
        template=replace(origin, version=number),
    )


async def make_live(
    connection: AsyncConnection,
    template: Template,
    number: int,
    *,
    live_version: int | None,
    event_id: str,
    author: str,
    reason: str,
    at: datetime,
) -> None:
    """Put version ``number`` into the template's row, active; its content is copied as stored.

    Raises:
        Conflict: another template has the key, or the row is not at ``live_version`` any more.
    """
    await check_slot(connection, template.template_name, slot_of(template))
    facts: dict[str, object] = {
        "version": number,
        "is_active": True,
        "updated_by": author,
        "change_reason": reason,
        "updated_at": at,
        "content_sha256": template.content_sha256,
        "event_id": event_id,
    }
    this_version = (
        versions.c.template_name == template.template_name,
        versions.c.version == number,
    )
    if live_version is None:
        facts |= {"id": str(uuid4()), "template_name": template.template_name, "created_at": at}
        content = select(
            *(literal(value, rows.c[name].type).label(name) for name, value in facts.items()),
            *(versions.c[name] for name in RECORDED),
        ).where(*this_version)
        await connection.execute(insert(rows).from_select([*facts, *RECORDED], content))
        return
    changed = await connection.execute(
        update(rows)
        .where(
            rows.c.template_name == template.template_name,
            rows.c.version == live_version,
            rows.c.template_name == versions.c.template_name,
            *this_version,
        )
        .values(facts | {name: versions.c[name] for name in RECORDED})
    )
    if changed.rowcount != 1:
        refuse_lost_race(template.template_name)


async def take_out(
    connection: AsyncConnection,
    template_name: str,
    *,
    live_version: int,
    event_id: str,
    author: str,
    reason: str,
    at: datetime,
) -> None:
    """Make the template's row inactive.

    Raises:
        Conflict: the row is not at ``live_version`` any more.
    """
    changed = await connection.execute(
        update(rows)
        .where(rows.c.template_name == template_name, rows.c.version == live_version)
        .values(
            is_active=False,
            updated_by=author,
            change_reason=reason,
            updated_at=at,
            event_id=event_id,
        )
    )
    if changed.rowcount != 1:
        refuse_lost_race(template_name)


async def end_running_split(
    connection: AsyncConnection, split: TemplateSplit, outcome: SplitOutcome, *, at: datetime
) -> None:
    """Note that ``split`` has ended.

    Raises:
        Conflict: it had already.
    """
    changed = await connection.execute(
        update(splits)
        .where(splits.c.split_id == split.split_id, splits.c.ended_at.is_(None))
        .values(ended_at=at, outcome=outcome)
    )
    if changed.rowcount != 1:
        refuse_lost_race(split.template_name)


async def current_epoch(connection: AsyncConnection) -> int:
    """Return the epoch, with this transaction's own changes."""
    return int((await connection.execute(select(template_epoch.c.epoch))).scalar_one())
