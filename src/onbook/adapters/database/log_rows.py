"""What the audit logs of both databases write: the columns, and one row on its way."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from sqlalchemy import Double, Integer

from onbook.adapters.chaining import Extension, audited_value
from onbook.adapters.database.tables import enhancement_logs, enhancement_texts
from onbook.ports.stores import EnhancementRow, EnhancementTexts, StoreUnavailable
from onbook.wire.canonical import CanonicalizationError, object_writer, sha256_hex

if TYPE_CHECKING:
    import asyncio

# Bounds how long the first row of a group waits for the last one.
MAX_GROUP: Final = 256

Values = tuple[object, ...]

# In the order of ``chaining.Place``.
CHAIN_COLUMNS: Final = (
    "chain_id",
    "seq",
    "prev_hash",
    "group_end",
    "row_hash",
    "signing_key_id",
    "head_signature",
)
ROW_COLUMNS: Final = tuple(
    column.name for column in enhancement_logs.columns if column.name not in CHAIN_COLUMNS
)
TEXT_COLUMNS: Final = tuple(column.name for column in enhancement_texts.columns)
row_values: Final[Callable[[EnhancementRow], Values]] = attrgetter(*ROW_COLUMNS)
text_values: Final[Callable[[EnhancementTexts], Values]] = attrgetter(*TEXT_COLUMNS)
ROW_TIME: Final = ROW_COLUMNS.index("created_at")
ROW_REQUEST: Final = ROW_COLUMNS.index("request_id")
TEXT_TIME: Final = TEXT_COLUMNS.index("created_at")

# The columns whose values may not be JSON as they are.
_TRANSLATED: Final = (
    ROW_TIME,
    *(
        position
        for position, name in enumerate(ROW_COLUMNS)
        if isinstance(enhancement_logs.columns[name].type, Integer)
    ),
)
_write_content: Final = object_writer(
    ROW_COLUMNS,
    numbers=[
        column.name
        for column in enhancement_logs.columns
        if isinstance(column.type, Integer | Double)
    ],
)

if {item.name for item in fields(EnhancementRow)} != set(ROW_COLUMNS):  # pragma: no cover
    raise AssertionError("enhancement_logs and EnhancementRow differ")
if tuple(enhancement_logs.columns.keys()) != ROW_COLUMNS + CHAIN_COLUMNS:  # pragma: no cover
    raise AssertionError("the columns of the chain are not the last ones of enhancement_logs")


@dataclass(slots=True, eq=False)
class Entry:
    """One row on its way, and who waits for it. ``error`` None once committed.

    ``content`` is the row's digest, once it has been taken.
    """

    row: Values
    texts: Values | None
    done: "asyncio.Future[None]"
    error: StoreUnavailable | None = None
    content: str | None = None


def audited_content(values: Sequence[object]) -> dict[str, object]:
    """Return what the chain says of a row: column name to JSON value.

    Args:
        values: The values of ``ROW_COLUMNS`` as they are given to the database, ``created_at``
            as a time with its zone or as ``types.utc_text``. Of a row that is read back, the
            same: on SQLite a boolean that is stored as 0 or 1 must be made one before.
    """
    return dict(zip(ROW_COLUMNS, _content(values), strict=True))


def content_digest(values: Values) -> str:
    """Return the digest of ``audited_content(values)``.

    Raises:
        CanonicalizationError: a value has no place in JSON; no database would keep it either.
    """
    time = audited_value(values[ROW_TIME])
    timed = (*values[:ROW_TIME], time, *values[ROW_TIME + 1 :])
    try:
        return sha256_hex(_write_content(timed))
    except CanonicalizationError:
        # It may be one of the few rows that need a translation.
        return sha256_hex(_write_content(_content(values)))


def chained(group: Sequence[Entry], extension: Extension) -> list[Values]:
    """Return the rows of ``group`` with their places, in the order of the table's columns."""
    return [entry.row + place for entry, place in zip(group, extension.places, strict=True)]


def contents(group: Sequence[Entry]) -> list[str]:
    """Return the content digests of ``group``, each taken once.

    Raises:
        CanonicalizationError: a row can never be stored.
    """
    found = []
    for entry in group:
        if entry.content is None:
            entry.content = content_digest(entry.row)
        found.append(entry.content)
    return found


def _content(values: Sequence[object]) -> list[object]:
    found = list(values)
    for position in _TRANSLATED:
        found[position] = audited_value(found[position])
    return found


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
