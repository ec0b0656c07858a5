"""Keeping the last good set of templates outside the database, at a bounded cost."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import structlog

from onbook.domain.templates import Template
from onbook.flows.template_index import TemplateIndex
from onbook.ports.clock import Clock
from onbook.ports.stores import TemplateSnapshots

# Up to here a snapshot costs milliseconds, and each change is kept before anything else is done.
_SMALL: Final = 1000
_REST_S: Final = 1.0
# A set that takes long to write rests longer, so that writing takes a twentieth of the time.
_REST_PER_S: Final = 20.0

_log = structlog.get_logger(__name__)


class SnapshotKeeper:
    """Writes the newest set that it was given; of those that follow fast, not every one.

    A large set is written beside the requests, and the last one always: at the latest by
    ``finish``. A set that cannot be written is logged, and the older one stays.
    """

    def __init__(self, snapshots: TemplateSnapshots, clock: Clock) -> None:
        self._snapshots = snapshots
        self._clock = clock
        self._due: tuple[TemplateIndex, datetime] | None = None
        self._rest_until = float("-inf")
        self._writing: asyncio.Task[None] | None = None

    def replace(self, index: TemplateIndex, at: datetime) -> None:
        """Note the set that is good since ``at``; ``keep`` writes it."""
        self._due = index, at

    async def keep(self) -> None:
        """Write the set that is due, unless it is large and one was written just now."""
        if self._due is None:
            return
        index, _ = self._due
        if len(index) <= _SMALL:
            await self._wait()
            await self._write()
        elif self._clock.monotonic() >= self._rest_until and self._writing is None:
            self._writing = asyncio.create_task(self._write())
            self._writing.add_done_callback(self._written)

    async def finish(self) -> None:
        """Write what is still due."""
        await self._wait()
        await self._write()

    async def load(self) -> tuple[Sequence[Template], datetime] | None:
        """Return the last set and when it was good, or None."""
        return await asyncio.to_thread(self._snapshots.load)

    async def _wait(self) -> None:
        if self._writing is not None:
            await asyncio.wait([self._writing])

    async def _write(self) -> None:
        if self._due is None:
            return
        (index, at), self._due = self._due, None
        began = self._clock.monotonic()
        try:
            # An empty set too: what was put out of service must not come back in an outage.
            await asyncio.to_thread(self._snapshots.save, index.templates(), at=at)
        except Exception as error:  # noqa: BLE001 - no request's business; the older set stays
            _log.warning("snapshot_not_saved", error=type(error).__name__)
        ended = self._clock.monotonic()
        self._rest_until = ended + max(_REST_S, (ended - began) * _REST_PER_S)

    def _written(self, _task: "asyncio.Task[None]") -> None:
        self._writing = None
