"""The book as an administrator reaches it: plain SQL on a plain connection of either driver."""

import asyncio
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Final, Protocol

import asyncpg

from onbook.adapters.database.postgres_url import connect_arguments, is_postgres
from onbook.adapters.database.sqlite_file import sqlite_path

Refused: Final = (sqlite3.IntegrityError, asyncpg.IntegrityConstraintViolationError)

Row = tuple[object, ...]


class RawBook(Protocol):
    """One connection that commits each statement."""

    url: str
    # Whom the triggers take for the author.
    actor: str

    def run(self, statement: str) -> None:
        """Run one statement."""

    def rows(self, query: str) -> list[Row]:
        """Return all rows."""


class _SqliteBook:
    actor = "sql:local"

    def __init__(self, url: str, connection: sqlite3.Connection) -> None:
        self.url = url
        self._connection = connection

    def run(self, statement: str) -> None:
        self._connection.execute(statement)

    def rows(self, query: str) -> list[Row]:
        return list(self._connection.execute(query))


class _PostgresBook:
    actor = "sql:onbook"

    def __init__(self, url: str, runner: asyncio.Runner) -> None:
        self.url = url
        self._runner = runner
        self._connection = runner.run(asyncpg.connect(**connect_arguments(url)))

    def run(self, statement: str) -> None:
        self._runner.run(self._connection.execute(statement))

    def rows(self, query: str) -> list[Row]:
        return [tuple(row) for row in self._runner.run(self._connection.fetch(query))]

    def close(self) -> None:
        self._runner.run(self._connection.close())


@contextmanager
def raw_book(url: str) -> Iterator[RawBook]:
    """Open a connection to the book at ``url``; not from within a running event loop."""
    if is_postgres(url):
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            book = _PostgresBook(url, runner)
            try:
                yield book
            finally:
                book.close()
    else:
        with closing(sqlite3.connect(sqlite_path(url), isolation_level=None)) as connection:
            yield _SqliteBook(url, connection)


def insert(name: str = "mine", /, **columns: object) -> str:
    """Return the INSERT of a template by hand, with what has no default and ``columns``."""
    values: dict[str, object] = {
        "template_name": name,
        "model_type": "m",
        "use_case": "chat",
        "content_mode": "sfw",
        "target": name,
        "system_prompt": "Hello.",
        "token_limit": 75,
        **columns,
    }
    return insert_into("prompt_templates", **values)


def insert_into(table: str, /, **columns: object) -> str:
    """Return the INSERT of one row with ``columns``."""
    names, values = ", ".join(columns), ", ".join(map(literal, columns.values()))
    return f"INSERT INTO {table} ({names}) VALUES ({values})"  # noqa: S608 - a test's own words


def edit(change: str, *, table: str = "prompt_templates", where: str = "1 = 1") -> str:
    """Return the UPDATE that an administrator would type for ``change``."""
    return f"UPDATE {table} SET {change} WHERE {where}"  # noqa: S608 - a test's own words


def literal(value: object) -> str:
    """Return ``value`` as a literal of SQL."""
    if value is None:
        return "NULL"
    if isinstance(value, bool | int):
        return str(value)
    return "'" + str(value).replace("'", "''") + "'"


def the_row(book: RawBook, columns: str, name: str = "mine") -> Row:
    """Return ``columns`` of the one row of a template."""
    (row,) = book.rows(
        f"SELECT {columns} FROM prompt_templates WHERE template_name = {literal(name)}"  # noqa: S608 - a test's own words
    )
    return row


def the_versions(book: RawBook, columns: str, name: str = "mine") -> Sequence[Row]:
    """Return ``columns`` of a template's versions, oldest first."""
    return book.rows(
        f"SELECT {columns} FROM prompt_template_versions"  # noqa: S608 - a test's own words
        f" WHERE template_name = {literal(name)} ORDER BY version"
    )


def the_events(book: RawBook, columns: str, name: str = "mine") -> Sequence[Row]:
    """Return ``columns`` of a template's events, oldest first."""
    return book.rows(
        f"SELECT {columns} FROM template_events"  # noqa: S608 - a test's own words
        f" WHERE template_name = {literal(name)} ORDER BY position"
    )


def the_epoch(book: RawBook) -> int:
    """Return the book's epoch."""
    ((epoch,),) = book.rows("SELECT epoch FROM template_epoch")
    assert isinstance(epoch, int)
    return epoch
