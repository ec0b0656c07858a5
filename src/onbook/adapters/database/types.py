"""Column types and defaults that mean the same on SQLite and Postgres.

Migrations import these too, so what they store never changes.
"""

import json
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import JSON, DateTime, Dialect, String, Text, TypeDecorator
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import expression
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import TypeEngine


def zoned(value: datetime) -> datetime:
    """Return ``value`` in UTC.

    Raises:
        ValueError: it has no time zone.
    """
    if value.tzinfo is None:
        raise ValueError("a stored time needs its time zone")
    return value if value.tzinfo is UTC else value.astimezone(UTC)


def utc_text(value: datetime) -> str:
    """Return ``value`` as UTC text of fixed width, which sorts as time does.

    Raises:
        ValueError: it has no time zone.
    """
    return zoned(value).isoformat(timespec="microseconds")


def utc_from_text(text: str) -> datetime:
    """Return the time in ``text``; one without a zone is UTC, as SQLite writes it.

    Raises:
        ValueError: it is not a time.
    """
    value = datetime.fromisoformat(text)
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


_NO_TIME: Final = datetime.fromtimestamp(0, UTC)


class UtcDateTime(TypeDecorator[datetime]):
    """``timestamptz`` on Postgres, sortable ISO 8601 text on SQLite."""

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Pick the column's type."""
        if dialect.name == "sqlite":
            return dialect.type_descriptor(String(32))
        return dialect.type_descriptor(DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | str | None:
        """Store UTC; a time without its zone raises ValueError."""
        if value is None:
            return None
        if dialect.name != "sqlite":
            return zoned(value)
        return utc_text(value)

    def process_result_value(self, value: object, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - SQLAlchemy's signature
        """Return UTC; what an edit by hand made no time of is the beginning of time.

        One such row must not take every other row of the result down.
        """
        if value is None or isinstance(value, datetime):
            return value
        try:
            return utc_from_text(str(value))
        except ValueError:
            return _NO_TIME


class JsonDocument(TypeDecorator[object]):
    """JSONB on Postgres, text on SQLite.

    None is SQL's NULL, not JSON's. Text that is not JSON (an edit by hand) comes back as that
    text, so that whoever reads the row can refuse it by name instead of losing every other row of
    the result.
    """

    impl = JSON(none_as_null=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Pick the column's type."""
        if dialect.name == "sqlite":
            return dialect.type_descriptor(Text())
        return dialect.type_descriptor(JSONB(none_as_null=True))

    def process_bind_param(self, value: object, dialect: Dialect) -> object:
        """Store compact JSON."""
        if value is None or dialect.name != "sqlite":
            return value
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    def process_result_value(self, value: object, dialect: Dialect) -> object:
        """Return the document."""
        if dialect.name != "sqlite" or not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value


class utc_now(expression.FunctionElement[str]):  # noqa: N801 - reads as the SQL function it is
    """The database's current time, as ``UtcDateTime`` stores it; for raw SQL's rows."""

    inherit_cache = True


class new_uuid(expression.FunctionElement[str]):  # noqa: N801 - reads as the SQL function it is
    """A random UUID made by the database; for raw SQL's rows."""

    inherit_cache = True


@compiles(utc_now, "sqlite")
def _utc_now_sqlite(_element: utc_now, _compiler: SQLCompiler, **_options: object) -> str:
    return "(strftime('%Y-%m-%dT%H:%M:%f000+00:00', 'now'))"


@compiles(utc_now)
def _utc_now(_element: utc_now, _compiler: SQLCompiler, **_options: object) -> str:
    return "CURRENT_TIMESTAMP"


@compiles(new_uuid, "sqlite")
def _new_uuid_sqlite(_element: new_uuid, _compiler: SQLCompiler, **_options: object) -> str:
    return (
        "(lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' ||"
        " substr(hex(randomblob(2)), 2) || '-' || substr('89AB', 1 + (random() & 3), 1) ||"
        " substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6))))"
    )


@compiles(new_uuid)
def _new_uuid(_element: new_uuid, _compiler: SQLCompiler, **_options: object) -> str:
    return "gen_random_uuid()"
