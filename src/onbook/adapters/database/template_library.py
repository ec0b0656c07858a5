"""The book as its editors see it, in the database: every change is one transaction."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Final, TypeVar
from uuid import uuid4

from sqlalchemy import delete, insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from onbook.adapters.database import template_writes as write
from onbook.adapters.database.engine import writer
from onbook.adapters.database.guard import store_errors
from onbook.adapters.database.template_reads import SqlTemplateReads
from onbook.adapters.database.template_refusals import check_refused, overtaken
from onbook.adapters.database.template_rows import splits, versions
from onbook.domain.template_history import SplitOutcome, TemplateSplit, TemplateVersion
from onbook.domain.template_lifecycle import (
    check_activate,
    check_deactivate,
    check_discard,
    check_draft,
    check_end_split,
    check_roll_back,
    check_start_split,
)
from onbook.domain.templates import Template, checked

T = TypeVar("T")

_TRIES: Final = 5


class SqlTemplateLibrary(SqlTemplateReads):
    """``ports.TemplateLibrary`` on SQLAlchemy Core.

    Each change takes the book's lock, looks how the template stands, and writes the event
    before the row that names it, so that the triggers take it for explained.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__(engine)
        self._writer = writer(engine)

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
        name = template.template_name
        sound = checked(template)

        async def work(connection: AsyncConnection) -> TemplateVersion:
            standing = await write.standing(connection, name)
            live = standing.live_version
            check_draft(name, live_version=live, base_version=base_version)
            number = await write.next_version(connection, name)
            await write.add_event(
                connection,
                name,
                "drafted",
                actor=author,
                reason=reason,
                at=at,
                from_version=live,
                to_version=number,
            )
            return await write.add_version(
                connection, sound, number, author=author, reason=reason, at=at, base_version=live
            )

        return await self._change(name, "store a draft", work)

    async def discard(
        self, template_name: str, version: int, *, author: str, reason: str, at: datetime
    ) -> None:
        """Delete a draft. Conflict if it was ever live; its event stays."""

        async def work(connection: AsyncConnection) -> None:
            check_discard(await write.standing(connection, template_name, version), version)
            await write.add_event(
                connection,
                template_name,
                "discarded",
                actor=author,
                reason=reason,
                at=at,
                from_version=version,
                to_version=None,
            )
            await connection.execute(
                delete(versions).where(
                    versions.c.template_name == template_name, versions.c.version == version
                )
            )

        await self._change(template_name, "discard a draft", work)

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

        async def work(connection: AsyncConnection) -> int:
            standing = await write.standing(connection, template_name, version)
            template = check_activate(standing, version, expected_version)
            event_id = await write.add_event(
                connection,
                template_name,
                "activated",
                actor=author,
                reason=reason,
                at=at,
                from_version=standing.live_version,
                to_version=version,
                gate=gate,
            )
            await write.make_live(
                connection,
                template,
                version,
                live_version=standing.live_version,
                event_id=event_id,
                author=author,
                reason=reason,
                at=at,
            )
            return await write.current_epoch(connection)

        return await self._change(template_name, "activate a version", work)

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

        async def work(connection: AsyncConnection) -> TemplateVersion:
            standing = await write.standing(connection, template_name, to_version)
            template = check_roll_back(standing, to_version, expected_version)
            number = await write.next_version(connection, template_name)
            if standing.split is not None:
                await _abort(connection, standing.split, expected_version, author, reason, at)
            event_id = await write.add_event(
                connection,
                template_name,
                "rolled_back",
                actor=author,
                reason=reason,
                at=at,
                from_version=expected_version,
                to_version=number,
            )
            version = await write.copy_version(
                connection,
                template,
                number,
                author=author,
                reason=reason,
                at=at,
                base_version=expected_version,
            )
            await write.make_live(
                connection,
                template,
                number,
                live_version=expected_version,
                event_id=event_id,
                author=author,
                reason=reason,
                at=at,
            )
            return version

        return await self._change(template_name, "roll a template back", work)

    async def deactivate(
        self, template_name: str, *, author: str, reason: str, at: datetime
    ) -> int:
        """Take a template out of service; return the epoch. Conflict if it is not active."""

        async def work(connection: AsyncConnection) -> int:
            standing = await write.standing(connection, template_name)
            live = check_deactivate(standing)
            if standing.split is not None:
                await _abort(connection, standing.split, live, author, reason, at)
            event_id = await write.add_event(
                connection,
                template_name,
                "deactivated",
                actor=author,
                reason=reason,
                at=at,
                from_version=live,
                to_version=None,
            )
            await write.take_out(
                connection,
                template_name,
                live_version=live,
                event_id=event_id,
                author=author,
                reason=reason,
                at=at,
            )
            return await write.current_epoch(connection)

        return await self._change(template_name, "deactivate a template", work)

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

        async def work(connection: AsyncConnection) -> TemplateSplit:
            standing = await write.standing(connection, template_name, candidate_version)
            check_start_split(
                standing, candidate_version, percent=percent, expected_version=expected_version
            )
            await write.add_event(
                connection,
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
            await connection.execute(
                insert(splits).values({c.name: getattr(split, c.name) for c in splits.c})
            )
            return split

        return await self._change(template_name, "start a split", work)

    async def end_split(
        self, template_name: str, outcome: SplitOutcome, *, author: str, reason: str, at: datetime
    ) -> TemplateSplit:
        """End the running split: the candidate becomes the live version, or is retired."""

        async def work(connection: AsyncConnection) -> TemplateSplit:
            standing = await write.standing(connection, template_name)
            live = standing.live_version
            if standing.split is not None:
                candidate = standing.split.candidate_version
                standing = replace(
                    standing,
                    version=await write.one_version(
                        connection, template_name, candidate, live_version=live
                    ),
                )
            split, template = check_end_split(standing, outcome)
            if template is None:
                await _abort(connection, split, live, author, reason, at)
                return replace(split, ended_at=at, outcome=outcome)
            event_id = await write.add_event(
                connection,
                template_name,
                "split_promoted",
                actor=author,
                reason=reason,
                at=at,
                from_version=live,
                to_version=split.candidate_version,
            )
            await write.end_running_split(connection, split, outcome, at=at)
            await write.make_live(
                connection,
                template,
                split.candidate_version,
                live_version=live,
                event_id=event_id,
                author=author,
                reason=reason,
                at=at,
            )
            return replace(split, ended_at=at, outcome=outcome)

        return await self._change(template_name, "end a split", work)

    async def _change(
        self, template_name: str, action: str, work: Callable[[AsyncConnection], Awaitable[T]]
    ) -> T:
        """Do ``work`` in one transaction; again where Postgres gave way to another one."""
        with store_errors(action):
            for attempt in range(1, _TRIES + 1):
                try:
                    async with self._writer.begin() as connection:
                        return await work(connection)
                except DBAPIError as error:
                    if attempt == _TRIES or not overtaken(error):
                        check_refused(template_name, error)
                        raise
        raise AssertionError("the last try returns or raises")


async def _abort(
    connection: AsyncConnection,
    split: TemplateSplit,
    live_version: int | None,
    author: str,
    reason: str,
    at: datetime,
) -> None:
    await write.add_event(
        connection,
        split.template_name,
        "split_aborted",
        actor=author,
        reason=reason,
        at=at,
        from_version=split.candidate_version,
        to_version=live_version,
    )
    await write.end_running_split(connection, split, "aborted", at=at)
