"""The machine's clock and its source of randomness."""

import secrets
import time
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
        """Return a new UUID that sorts by time (version 7), 74 bits of it random.

        New rows then lie side by side in an index, where random ones each dirty a page of their
        own.
        """
        return _uuid7(time.time_ns() // 1_000_000, secrets.randbits(74))

    def nonce(self) -> str:
        """Return 128 unpredictable bits in hexadecimal."""
        return secrets.token_hex(16)

    def seed(self) -> int:
        """Return a new seed, 0..2**31 - 1."""
        return secrets.randbits(31)


def _uuid7(milliseconds: int, random: int) -> str:
    """Return the UUID of RFC 9562, 5.7, from Unix time and 74 random bits."""
    high = (milliseconds & 0xFFFF_FFFF_FFFF) << 16 | 0x7000 | random >> 62
    low = 0x8000_0000_0000_0000 | random & 0x3FFF_FFFF_FFFF_FFFF
    digits = f"{high:016x}{low:016x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
