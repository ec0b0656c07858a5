"""One connection to Postgres, without SQLAlchemy: for the audit log, listeners and the doctor."""

from collections.abc import Awaitable, Callable
from typing import Final, Protocol, cast

import asyncpg

from onbook.adapters.database.errors import unreachable
from onbook.adapters.database.postgres_url import connect_arguments, place

CONNECT_TIMEOUT_S: Final = 5.0
STATEMENT_TIMEOUT_S: Final = 5.0
# How much longer the client waits than the server was told to: a server that lives ends the
# statement itself and keeps the connection.
_GRACE_S: Final = 1.0
# A process that stopped in the middle of a transaction must not block the others' writes.
_IDLE_IN_TRANSACTION_S: Final = 30.0

Listener = Callable[[object, int, str, object], None]
# What the driver raises; each has a sentence in ``errors``.
FAILURES: Final[tuple[type[Exception], ...]] = (
    OSError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
# The driver also says so of options that are not right.
_CONNECT_FAILURES: Final[tuple[type[Exception], ...]] = (*FAILURES, ValueError)


class PostgresConnection(Protocol):
    """What is used of the driver's connection. Its methods raise ``FAILURES``."""

    async def execute(self, query: str, *args: object) -> str:
        """Run one statement with arguments, or several without."""

    async def fetch(self, query: str, *args: object) -> list[tuple[object, ...]]:
        """Return all rows."""

    async def fetchval(self, query: str, *args: object) -> object:
        """Return the first value of the first row, or None."""

    async def add_listener(self, channel: str, callback: Listener) -> None:
        """Call ``callback(connection, pid, channel, payload)`` for each notification."""

    def add_termination_listener(self, callback: Callable[[object], None]) -> None:
        """Call ``callback(connection)`` once the connection is lost or closed."""

    def is_closed(self) -> bool:
        """Tell whether the connection is known to be of no more use."""

    def terminate(self) -> None:
        """Let go at once, without a word to the server."""

    async def close(self) -> None:
        """Let go in an orderly way."""


async def connect(
    url: str,
    *,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    statement_timeout_s: float = STATEMENT_TIMEOUT_S,
    **settings: str,
) -> PostgresConnection:
    """Open a connection on which no statement waits longer than ``statement_timeout_s``.

    Args:
        url: The URL of a Postgres database.
        connect_timeout_s: Seconds until the server must have let us in.
        statement_timeout_s: Seconds that a statement may take; locks included.
        settings: Further settings of the session, as in ``synchronous_commit="on"``.

    Raises:
        DatabaseAway: the server cannot be reached now.
        DatabaseUnusable: the URL, the password, the database or a privilege is not right.
    """
    arguments = connect_arguments(url)
    try:
        opened = await _open(
            **arguments,
            timeout=connect_timeout_s,
            command_timeout=statement_timeout_s + _GRACE_S,
            server_settings={
                "application_name": "onbook",
                "statement_timeout": _milliseconds(statement_timeout_s),
                "idle_in_transaction_session_timeout": _milliseconds(_IDLE_IN_TRANSACTION_S),
                **settings,
            },
        )
    except _CONNECT_FAILURES as error:
        raise unreachable(place(url), error) from None
    return opened


def _milliseconds(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)))


# The driver ships no annotations.
_open = cast("Callable[..., Awaitable[PostgresConnection]]", asyncpg.connect)
