"""Whether the database has been prepared, and what must wait for it."""

from dataclasses import dataclass

from onbook.ports.stores import (
    EnhancementLog,
    EnhancementRow,
    EnhancementTexts,
    StoreUnavailable,
)


@dataclass(slots=True)
class Prepared:
    """``away`` says why the database could not be prepared yet; None once it is."""

    away: str | None = None


class LogOncePrepared:
    """``ports.EnhancementLog`` that takes no row before the database is prepared.

    A database that is back but not yet brought up to date might refuse a row for good, and the
    spool would then set it aside.
    """

    def __init__(self, inner: EnhancementLog, prepared: Prepared) -> None:
        self._inner = inner
        self._prepared = prepared

    async def record(self, row: EnhancementRow, texts: EnhancementTexts | None) -> None:
        """Commit the row, and its texts, durably before returning.

        Raises:
            StoreUnavailable: nothing was written.
        """
        if self._prepared.away is not None:
            raise StoreUnavailable("The database is not prepared yet.")
        await self._inner.record(row, texts)

    async def close(self) -> None:
        """Commit what is under way and let go of the database."""
        await self._inner.close()
