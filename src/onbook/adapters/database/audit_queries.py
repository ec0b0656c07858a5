"""What the audit trail asks the database: columns as they are stored, whatever is in them."""

from typing import Any, Final, cast

from sqlalchemy import (
    ColumnElement,
    Select,
    Table,
    Text,
    TextClause,
    and_,
    func,
    literal_column,
    not_,
    select,
    text,
    type_coerce,
)
from sqlalchemy import cast as sql_cast
from sqlalchemy.types import NullType

from onbook.adapters.database.tables import enhancement_logs
from onbook.adapters.database.template_rows import storable
from onbook.adapters.database.types import JsonDocument, UtcDateTime
from onbook.wire.canonical import MAX_SAFE_INTEGER

_log: Final = enhancement_logs
_SQLITE: Final = "sqlite"


def raw(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return ``column`` as the driver gives it.

    What a type of ours would smooth over is what must be seen.
    """
    return type_coerce(column, NullType())


def stored(column: ColumnElement[Any], dialect: str) -> ColumnElement[Any]:
    """Return ``column`` as a value that the driver can give, whatever is stored."""
    if dialect == _SQLITE:
        return raw(column)
    if isinstance(column.type, UtcDateTime):
        return _time_text(column)
    if isinstance(column.type, JsonDocument):
        return sql_cast(column, Text)
    return raw(column)


def plain(table: Table, dialect: str, *names: str) -> Select[Any]:
    """Return the query for ``names`` of ``table``, or for all its columns."""
    wanted = names or tuple(table.columns.keys())
    return select(*(stored(table.c[name], dialect).label(name) for name in wanted))


def exactly(value: object, dialect: str) -> ColumnElement[Any] | None:
    """Return ``value`` to compare a stored one with; None if no stored one is that.

    With the type of the value itself, as the column's may be another on SQLite, and also bytes
    that are no UTF-8, which came as lone surrogates.
    """
    if isinstance(value, str) and not storable(value):
        if dialect != _SQLITE:
            return None
        try:
            return sql_cast(_bound(value.encode("utf-8", "surrogateescape")), Text)
        except UnicodeEncodeError:
            return None
    return _bound(value)


def placed(dialect: str) -> ColumnElement[bool]:
    """Return the condition of a row that is in a place: one that a chain could have."""
    found = and_(_log.c.chain_id.is_not(None), _log.c.seq.between(1, MAX_SAFE_INTEGER))
    if dialect == _SQLITE:
        found = and_(
            func.typeof(_log.c.chain_id) == "text", func.typeof(_log.c.seq) == "integer", found
        )
    return found


def misplaced(dialect: str) -> ColumnElement[bool]:
    """Return the opposite of ``placed``, which is never NULL."""
    return not_(func.coalesce(placed(dialect), literal_column("FALSE")))


def heads_query(dialect: str) -> TextClause:
    """Return the query for the ends of chains.

    A loose scan of the index: one step per chain, however many rows there are.
    """
    whole = " AND typeof(log.seq) = 'integer'" if dialect == _SQLITE else ""
    last = (
        "FROM enhancement_logs AS log WHERE log.chain_id = chains.chain_id"
        f" AND log.seq BETWEEN 1 AND {MAX_SAFE_INTEGER}{whole} ORDER BY log.seq DESC LIMIT 1"
    )
    return text(
        "WITH RECURSIVE chains(chain_id) AS ("  # noqa: S608 - the words above
        " SELECT min(chain_id) FROM enhancement_logs"
        " UNION ALL"
        " SELECT (SELECT min(log.chain_id) FROM enhancement_logs AS log"
        "         WHERE log.chain_id > chains.chain_id)"
        " FROM chains WHERE chains.chain_id IS NOT NULL)"
        f" SELECT chain_id, (SELECT log.seq {last}), (SELECT log.row_hash {last})"
        " FROM chains WHERE chain_id IS NOT NULL"
    )


COUNTS: Final = text(
    "SELECT (SELECT count(*) FROM enhancement_logs),"
    " (SELECT count(*) FROM enhancement_logs WHERE chain_id IS NULL),"
    " (SELECT count(*) FROM enhancement_texts AS kept WHERE NOT EXISTS"
    "  (SELECT 1 FROM enhancement_logs AS log WHERE log.request_id = kept.request_id))"
)
UNCHAINED: Final = text("SELECT count(*) FROM enhancement_logs WHERE chain_id IS NULL")


def _time_text(column: ColumnElement[Any]) -> ColumnElement[Any]:
    # The driver has no value for a time before the year 1, and one for several infinite ones.
    name = str(column)
    return literal_column(
        f"CASE WHEN {name} >= '0001-01-01 00:00:00+00' AND {name} < '10000-01-01 00:00:00+00'"
        f" THEN to_char({name} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"+00:00\"')"
        f" ELSE CAST({name} AS text) END",
        Text,
    )


def _bound(value: object) -> ColumnElement[Any]:
    return cast("ColumnElement[Any]", type_coerce(value, NullType()))
