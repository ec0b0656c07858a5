"""Running the Alembic chain from within the program, up and down."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from onbook.adapters.database import sqlite_file
from onbook.adapters.database.errors import clearly, unreachable, unusable
from onbook.adapters.database.postgres_connection import FAILURES, connect
from onbook.adapters.database.postgres_schema import in_own_loop
from onbook.adapters.database.postgres_url import is_postgres, place
from onbook.adapters.database.schema import BUSY_TIMEOUT_S

# Any number of our own; the same in every version, or two of them could migrate at once.
LOCK: Final = 0x6F6E626F6F6B
# A large history takes its time; who waits for a lock gives up sooner.
_STATEMENT_TIMEOUT_S: Final = 3600.0


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database at ``url`` up to ``revision``; a SQLite file is created if need be.

    Raises:
        DatabaseUnusable: it cannot be written.
        DatabaseAway: it cannot be reached or cannot work now.
    """
    _migrate(url, lambda config: command.upgrade(config, revision))


def downgrade(url: str, revision: str) -> None:
    """Take the database at ``url`` back to ``revision``; ``base`` removes every table.

    Raises:
        DatabaseUnusable: it cannot be written.
        DatabaseAway: it cannot be reached or cannot work now.
    """
    _migrate(url, lambda config: command.downgrade(config, revision))


@contextmanager
def script_config() -> Iterator[Config]:
    """Give Alembic's configuration, wherever the package is installed."""
    package = resources.files("onbook.adapters.database.migrations")
    with resources.as_file(package) as directory:
        config = Config()
        # Alembic reads the value as a format string.
        config.set_main_option("script_location", str(directory).replace("%", "%%"))
        yield config


def _migrate(url: str, steps: Callable[[Config], None]) -> None:
    if is_postgres(url):
        in_own_loop(_migrate_postgres(url, steps))
    else:
        _migrate_sqlite(sqlite_file.sqlite_path(url), steps)


def _migrate_sqlite(path: Path, steps: Callable[[Config], None]) -> None:
    engine = _sqlite_engine(path)
    try:
        with clearly(path), engine.connect() as connection:
            # Taken before Alembic reads the revision, so that of two starting processes the
            # second finds the work done.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            _run(connection, steps)
            connection.commit()
    except SQLAlchemyError as error:
        raise unusable(path, getattr(error, "orig", None) or error) from None
    finally:
        engine.dispose()


async def _migrate_postgres(url: str, steps: Callable[[Config], None]) -> None:
    def locked(connection: Connection) -> None:
        # As for SQLite; readers go on meanwhile, and nobody waits for them without end.
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{BUSY_TIMEOUT_S * 1000:.0f}ms'")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")
        _run(connection, steps)

    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=lambda: connect(url, statement_timeout_s=_STATEMENT_TIMEOUT_S),
        poolclass=NullPool,
        hide_parameters=True,
        isolation_level="READ COMMITTED",
    )
    try:
        async with engine.begin() as connection:
            await connection.run_sync(locked)
    except SQLAlchemyError as error:
        raise unreachable(place(url), _cause(error)) from None
    except FAILURES as error:
        raise unreachable(place(url), error) from None
    finally:
        await engine.dispose()


def _cause(error: SQLAlchemyError) -> BaseException:
    """Return the driver's own error, which SQLAlchemy wraps twice."""
    wrapped = getattr(error, "orig", None) or error
    return wrapped.__cause__ or wrapped


def _run(connection: Connection, steps: Callable[[Config], None]) -> None:
    with script_config() as config:
        config.attributes["connection"] = connection
        steps(config)


def _sqlite_engine(path: Path) -> Engine:
    return create_engine(
        "sqlite://",
        creator=lambda: sqlite_file.connect(path, busy_timeout_s=BUSY_TIMEOUT_S, create=True),
        poolclass=NullPool,
        hide_parameters=True,
    )
