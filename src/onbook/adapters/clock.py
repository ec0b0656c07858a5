"""The machine's clock and its source of randomness."""

import secrets
import time
import uuid
from datetime import UTC, datetime


class SystemClock:
    """The wall clock and the monotonic clock of this machine."""

    def now(self) -> datetime:
        """Return the current time in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back."""
        return time.monotonic()


class SystemIds:
    """Identifiers and randomness from the operating system."""

    def request_id(self) -> str:
        """Return a new random UUID (version 4)."""
        return str(uuid.uuid4())

    def nonce(self) -> str:
        """Return 128 unpredictable bits in hexadecimal."""
        return secrets.token_hex(16)

    def seed(self) -> int:
        """Return a new seed, 0..2**31 - 1."""
        return secrets.randbits(31)
