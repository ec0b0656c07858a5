"""What the audit logs of both databases write: the columns, and one row on its way."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from onbook.adapters.database.tables import enhancement_logs, enhancement_texts
from onbook.ports.stores import EnhancementRow, EnhancementTexts, StoreUnavailable

if TYPE_CHECKING:
    import asyncio

# Bounds how long the first row of a group waits for the last one.
MAX_GROUP: Final = 256

Values = tuple[object, ...]

ROW_COLUMNS: Final = tuple(column.name for column in enhancement_logs.columns)
TEXT_COLUMNS: Final = tuple(column.name for column in enhancement_texts.columns)
row_values: Final[Callable[[EnhancementRow], Values]] = attrgetter(*ROW_COLUMNS)
text_values: Final[Callable[[EnhancementTexts], Values]] = attrgetter(*TEXT_COLUMNS)
ROW_TIME: Final = ROW_COLUMNS.index("created_at")
ROW_REQUEST: Final = ROW_COLUMNS.index("request_id")
TEXT_TIME: Final = TEXT_COLUMNS.index("created_at")

if {item.name for item in fields(EnhancementRow)} != set(ROW_COLUMNS):  # pragma: no cover
    raise AssertionError("enhancement_logs and EnhancementRow differ")


@dataclass(slots=True, eq=False)
class Entry:
    """One row on its way, and who waits for it. ``error`` None once committed."""

    row: Values
    texts: Values | None
    done: "asyncio.Future[None]"
    error: StoreUnavailable | None = None


def stop(group: Sequence[Entry]) -> None:
    """Set the error of rows that the writer has left behind."""
    for entry in group:
        entry.error = StoreUnavailable("The writer of the audit log has stopped.")


def settle(group: Sequence[Entry]) -> None:
    """Tell everybody who waits how their row ended; in the event loop's own thread."""
    for entry in group:
        if entry.done.done():
            continue
        if entry.error is None:
            entry.done.set_result(None)
        else:
            entry.done.set_exception(entry.error)
