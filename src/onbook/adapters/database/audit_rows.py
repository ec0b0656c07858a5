"""A stored row of the log, as what its digest was taken of."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import Boolean, Integer

from onbook.adapters.database.log_rows import CHAIN_COLUMNS, ROW_COLUMNS
from onbook.adapters.database.tables import enhancement_logs
from onbook.adapters.database.types import utc_from_text, utc_text
from onbook.ports.audit import AuditedRow
from onbook.wire.canonical import MAX_SAFE_INTEGER

_BOOLEANS: Final = tuple(
    column.name for column in enhancement_logs.columns if isinstance(column.type, Boolean)
)
_INTEGERS: Final = tuple(
    name for name in ROW_COLUMNS if isinstance(enhancement_logs.columns[name].type, Integer)
)
# As the writing side has it: beyond it an integer has no canonical form, and is said as a text.
_NO_TIME: Final = datetime.fromtimestamp(0, UTC)
_COUNT: Final = len(ROW_COLUMNS)
STORED_COLUMNS: Final = (*ROW_COLUMNS, *CHAIN_COLUMNS)


def row_reader(dialect: str) -> Callable[[Sequence[object]], AuditedRow]:
    """Return what makes an ``AuditedRow`` of a driver's row.

    The row has the ``STORED_COLUMNS``, as ``audit_queries.stored`` gives them; ``dialect`` is
    "sqlite" or "postgresql".
    """
    sqlite = dialect == "sqlite"

    def read(row: Sequence[object]) -> AuditedRow:
        content = dict(zip(ROW_COLUMNS, row, strict=False))
        if sqlite:
            _with_booleans(content)
        for name in _INTEGERS:
            number = content[name]
            if isinstance(number, int) and not -MAX_SAFE_INTEGER <= number <= MAX_SAFE_INTEGER:
                content[name] = str(number)
        chain_id, seq, prev_hash, group_end, row_hash, key_id, signature = row[_COUNT:]
        return AuditedRow(
            content=content,
            chain_id=stored_text(chain_id),
            seq=stored_number(seq),
            prev_hash=stored_text(prev_hash),
            group_end=stored_number(group_end),
            row_hash=stored_text(row_hash),
            signing_key_id=stored_text(key_id),
            head_signature=stored_text(signature),
        )

    return read


def _with_booleans(content: dict[str, object]) -> None:
    for name in _BOOLEANS:
        value = content[name]
        # Only what stands for a truth value: another number was never written.
        if value in (0, 1) and isinstance(value, int):
            content[name] = value == 1


def stored_text(value: object) -> str | None:
    """Return ``value`` if it is text or NULL; SQLite keeps anything in any column.

    For anything else, a text that was never written: it has no UTF-8, so no digest fits it.
    """
    return value if value is None or isinstance(value, str) else f"\ud800{type(value).__name__}"


def stored_number(value: object) -> int | None:
    """Return ``value`` if it is a whole number or NULL, and else -1, which was never written."""
    return value if value is None or isinstance(value, int) else -1


def stored_time(value: object) -> datetime:
    """Return a time as the driver gave it; the beginning of time for what we never wrote."""
    if isinstance(value, datetime):
        return value
    try:
        time = utc_from_text(str(value))
    except ValueError:
        return _NO_TIME
    # Written in another way, it was not written by us.
    return time if utc_text(time) == value else _NO_TIME
