"""Running the Alembic chain from within the program, up and down."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from onbook.adapters.database import sqlite_file
from onbook.adapters.database.errors import clearly, unusable
from onbook.adapters.database.schema import BUSY_TIMEOUT_S


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database at ``url`` up to ``revision``, creating it if need be.

    Raises:
        DatabaseUnusable: it cannot be written.
    """
    with _migration(url) as config:
        command.upgrade(config, revision)


def downgrade(url: str, revision: str) -> None:
    """Take the database at ``url`` back to ``revision``; ``base`` removes every table.

    Raises:
        DatabaseUnusable: it cannot be written.
    """
    with _migration(url) as config:
        command.downgrade(config, revision)


@contextmanager
def script_config() -> Iterator[Config]:
    """Give Alembic's configuration, wherever the package is installed."""
    package = resources.files("onbook.adapters.database.migrations")
    with resources.as_file(package) as directory:
        config = Config()
        # Alembic reads the value as a format string.
        config.set_main_option("script_location", str(directory).replace("%", "%%"))
        yield config


@contextmanager
def _migration(url: str) -> Iterator[Config]:
    path = sqlite_file.sqlite_path(url)
    engine = _engine(path)
    try:
        with clearly(path), script_config() as config, engine.connect() as connection:
            # Taken before Alembic reads the revision, so that of two starting processes the
            # second finds the work done.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            config.attributes["connection"] = connection
            yield config
            connection.commit()
    except SQLAlchemyError as error:
        raise unusable(path, getattr(error, "orig", None) or error) from None
    finally:
        engine.dispose()


def _engine(path: Path) -> Engine:
    return create_engine(
        "sqlite://",
        creator=lambda: sqlite_file.connect(path, busy_timeout_s=BUSY_TIMEOUT_S, create=True),
        poolclass=NullPool,
        hide_parameters=True,
    )
