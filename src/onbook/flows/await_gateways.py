"""Waiting until every live gateway serves a change of the book."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from onbook.domain.errors import DatabaseUnavailable
from onbook.ports.clock import Clock
from onbook.ports.stores import StoreUnavailable
from onbook.ports.template_library import GatewaySeen, TemplateLibrary

# A gateway reports every 5 s; one that missed three reports is not waited for.
LIVE_S: Final = 15.0
_POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaysReached:
    """Which live gateways serve the book at ``epoch`` or later, and which do not yet.

    ``waited_s`` is how long was waited, in seconds.
    """

    epoch: int
    have: Sequence[GatewaySeen]
    missing: Sequence[GatewaySeen]
    waited_s: float

    @property
    def complete(self) -> bool:
        """Whether no live gateway is behind."""
        return not self.missing


async def await_gateways(
    epoch: int,
    *,
    library: TemplateLibrary,
    clock: Clock,
    timeout_s: float = 10.0,
    pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> GatewaysReached:
    """Return once every live gateway has acknowledged ``epoch``, or after ``timeout_s`` seconds.

    A gateway that starts meanwhile is waited for, one that stops is not. A database that is away
    for a moment is asked again.

    Raises:
        DatabaseUnavailable: it could not be asked a single time.
    """
    started = clock.monotonic()
    reached: GatewaysReached | None = None
    while True:
        try:
            seen = await library.gateways()
        except StoreUnavailable:
            seen = None
        waited = clock.monotonic() - started
        if seen is not None:
            live = [gateway for gateway in seen if gateway.seen_s_ago <= LIVE_S]
            reached = GatewaysReached(
                epoch=epoch,
                have=[gateway for gateway in live if gateway.epoch >= epoch],
                missing=[gateway for gateway in live if gateway.epoch < epoch],
                waited_s=waited,
            )
            if reached.complete:
                return reached
        if waited >= timeout_s:
            break
        await pause(min(_POLL_S, timeout_s - waited))
    if reached is None:
        raise DatabaseUnavailable("The gateways cannot be listed: the database cannot be reached.")
    return reached
