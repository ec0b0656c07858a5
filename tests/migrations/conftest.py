from collections.abc import Iterator
from pathlib import Path

import pytest

from onbook.adapters.database.schema import migrate
from onbook.adapters.database.sqlite_file import sqlite_url
from raw_book import RawBook, raw_book


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty book, on each database in turn."""
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    url = sqlite_url(tmp_path / "onbook.db")
    migrate(url)
    return url


@pytest.fixture(params=["sqlite", "postgres"])
def bare_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without any table."""
    if request.param == "sqlite":
        yield sqlite_url(tmp_path / "onbook.db")
    else:
        with request.getfixturevalue("postgres").database(migrated=False) as url:
            yield url


@pytest.fixture
def book(url: str) -> Iterator[RawBook]:
    """An administrator's connection to an empty book."""
    with raw_book(url) as book:
        yield book


@pytest.fixture
def sqlite_book(tmp_path: Path) -> Iterator[RawBook]:
    """The same, where only SQLite is asked."""
    url = sqlite_url(tmp_path / "only.db")
    migrate(url)
    with raw_book(url) as book:
        yield book
