import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Tests share helpers as `support`; importlib mode puts nothing on the path by itself.
sys.path.insert(0, str(Path(__file__).parent))

from postgres import NoPostgres, PostgresServer, postgres_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The session's Postgres, started by the first test that needs it."""
    try:
        with postgres_server() as server:
            yield server
    except NoPostgres as error:
        pytest.skip(f"Postgres cannot be tested: {error}")


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """An empty book in a Postgres database of its own."""
    with postgres.database() as url:
        yield url
