"""The audit log in memory."""

from onbook.adapters.errors import AlreadyRecorded
from onbook.ports.stores import EnhancementRow, EnhancementTexts, StoreUnavailable


class MemoryEnhancementLog:
    """``ports.EnhancementLog`` in memory; ``rows`` and ``texts`` show what was recorded.

    ``available`` False makes every call fail, as an outage would.
    """

    def __init__(self) -> None:
        self.available = True
        self.closed = False
        self.rows: list[EnhancementRow] = []
        self.texts: dict[str, EnhancementTexts] = {}
        self._known: set[str] = set()

    async def record(self, row: EnhancementRow, texts: EnhancementTexts | None) -> None:
        """Keep the row and its texts."""
        if self.closed:
            raise StoreUnavailable("The audit log is closed.")
        if not self.available:
            raise StoreUnavailable("The audit log is switched off.")
        if row.request_id in self._known:
            raise AlreadyRecorded("The audit log already has a row with this request_id.")
        self._known.add(row.request_id)
        self.rows.append(row)
        if texts is not None:
            self.texts[texts.request_id] = texts

    async def close(self) -> None:
        """Take no more rows."""
        self.closed = True
