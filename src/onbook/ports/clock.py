"""Time and identity: the two things that a flow may not make up by itself."""

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """The wall clock for records, and the monotonic clock for durations."""

    def now(self) -> datetime:
        """Return the current time, in UTC, with its time zone."""

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back."""


class IdSource(Protocol):
    """New identifiers and new randomness."""

    def request_id(self) -> str:
        """Return a new UUID."""

    def nonce(self) -> str:
        """Return 128 unpredictable bits in hexadecimal."""

    def seed(self) -> int:
        """Return a new seed, 0..2**31 - 1."""
