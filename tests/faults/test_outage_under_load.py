import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from audit_log import check_chains, logged, verify
from load import Load
from onbook.adapters.database.sqlite_file import sqlite_url
from postgres import NoPostgres, PostgresServer, postgres_server
from server import Server, eventually, ready, served

OUTAGE_S = 30
CLIENTS = 4
# A steady load that leaves the processor to others.
PAUSE_S = 0.1
ANSWERS = 100
PATIENCE_S = 60


@pytest.fixture
def private() -> Iterator[PostgresServer]:
    """A server that the test may stop."""
    try:
        with postgres_server() as server:
            yield server
    except NoPostgres as error:
        pytest.skip(f"Postgres cannot be tested: {error}")


@dataclass(slots=True)
class Deployment:
    """A server on a database that goes away and comes back, and the load on it."""

    url: str
    data: Path
    away: Callable[[], None]
    back: Callable[[], None]
    server: Server
    load: Load

    def served_without_database(self) -> bool:
        self.check()
        return self.load.at_level(1) >= ANSWERS

    def healed(self) -> bool:
        self.check()
        return self.load.last_level() == {0} and ready(self.server.url)["spooled_rows"] == 0

    def check(self) -> None:
        assert not self.load.failures, self.load.failures


@pytest.mark.timeout(300)
def test_30_seconds_without_a_database_under_load_lose_double_and_reorder_nothing(
    tmp_path: Path, private: PostgresServer
) -> None:
    with ExitStack() as stack:
        # Both at once, so that they share the half minute.
        deployments = [
            started(stack, tmp_path / "on-sqlite", sqlite_file(tmp_path)),
            started(
                stack,
                tmp_path / "on-postgres",
                (private.fresh_database(migrated=False), private.stop, private.start),
            ),
        ]
        for one in deployments:
            eventually(partial(one.load.has_acknowledged, ANSWERS // 4), "load")
            one.away()
        gone_at = time.monotonic()
        eventually(
            lambda: (
                all(one.served_without_database() for one in deployments)
                and time.monotonic() - gone_at >= OUTAGE_S
            ),
            "the outage",
            OUTAGE_S + PATIENCE_S,
        )
        assert all(ready(one.server.url)["spooled_rows"] >= ANSWERS for one in deployments)
        for one in deployments:
            one.back()
        for one in deployments:
            eventually(one.healed, "the database serves and nothing waits", PATIENCE_S)
        for one in deployments:
            one.load.stop()
            eventually(one.healed, "the last rows are written", PATIENCE_S)
            one.server.stop()
        for one in deployments:
            check(one)


def check(one: Deployment) -> None:
    rows = logged(one.url)
    place = {row.request_id: at for at, row in enumerate(rows)}
    assert len(place) == len(rows)
    assert {answer.request_id for answer in one.load.acknowledged} == set(place)
    for answers in one.load.answers:
        # A client asks again only after an answer: its rows lie in the order of its requests.
        places = [place[answer.request_id] for answer in answers]
        assert places == sorted(places)
        assert {answer.level for answer in answers} == {0, 1}
    check_chains(rows)
    verify(one.url, one.data)


def started(
    stack: ExitStack, data: Path, database: tuple[str, Callable[[], None], Callable[[], None]]
) -> Deployment:
    url, away, back = database
    server = stack.enter_context(served("serve", data, database_url=url))
    load = stack.enter_context(Load(server.url, CLIENTS, pause_s=PAUSE_S))
    return Deployment(url, data, away, back, server, load)


def sqlite_file(place: Path) -> tuple[str, Callable[[], None], Callable[[], None]]:
    """Return the URL of a file, and what moves its directory away and back."""
    directory, elsewhere = place / "database", place / "elsewhere"
    directory.mkdir()

    def away() -> None:
        directory.rename(elsewhere)
        # Something that is no directory stands in its place.
        directory.write_text("")

    def back() -> None:
        directory.unlink()
        elsewhere.rename(directory)

    return sqlite_url(directory / "onbook.db"), away, back
