"""Work on long texts beside the event loop, so that it holds up no other request."""

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

# Up to here a text costs the event loop less than a switch of threads would disturb it.
_SHORT_CHARS: Final = 2000

T = TypeVar("T")


async def off_loop(chars: int, work: Callable[[], T]) -> T:
    """Do ``work`` on a text of ``chars`` characters without holding up other requests."""
    return work() if chars <= _SHORT_CHARS else await asyncio.to_thread(work)
