"""The access keys as they were last known, outside the database."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from onbook.ports.stores import AccessKey


class KeySnapshots(Protocol):
    """The last known set of keys, so that callers can be told without the database."""

    def save(self, keys: Sequence[AccessKey], *, at: datetime) -> bool:
        """Keep ``keys`` on local disk, replacing the older set; return whether that worked."""

    def load(self) -> tuple[Sequence[AccessKey], datetime] | None:
        """Return the last set and when it was true, or None if there is none that is whole."""
