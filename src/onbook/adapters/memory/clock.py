"""A clock and identifiers that do as they are told."""

from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

_START: Final = datetime(2026, 1, 1, tzinfo=UTC)


class FixedClock:
    """``ports.Clock`` that stands still until it is moved.

    Args:
        at: The first time, with its time zone.
    """

    def __init__(self, at: datetime = _START) -> None:
        self._now = at
        self._monotonic = 0.0

    def now(self) -> datetime:
        """Return the time that was set."""
        return self._now

    def monotonic(self) -> float:
        """Return the seconds by which the clock was moved."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Move both clocks forward."""
        if seconds < 0:
            raise ValueError("a clock goes forward only")
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds


class CountingIds:
    """``ports.IdSource`` that counts, so that a run can be repeated."""

    def __init__(self) -> None:
        self._count = 0

    def request_id(self) -> str:
        """Return the next UUID."""
        return str(UUID(int=self._next(), version=4))

    def nonce(self) -> str:
        """Return the next nonce."""
        return f"{self._next():032x}"

    def seed(self) -> int:
        """Return the next seed."""
        return self._next() % 2**31

    def _next(self) -> int:
        self._count += 1
        return self._count
