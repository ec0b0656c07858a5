import asyncio
import itertools
import json
import re
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from onbook.adapters.database.sqlite_file import sqlite_url
from postgres import NoPostgres, PostgresServer, postgres_server
from server import (
    ADMIN_KEY,
    Server,
    enhance,
    eventually,
    query,
    ready,
    replicas,
    served,
)

# Each process has a chain of its own.
IN_ORDER_OF_COMMITS = """
    SELECT request_id FROM enhancement_logs
    JOIN (
        SELECT chain_id, min(created_at) AS began FROM enhancement_logs GROUP BY chain_id
    ) AS chains USING (chain_id)
    ORDER BY began, seq
"""
TRY_AGAIN = "trying again every 0.25 s"


@pytest.fixture(scope="module")
def private() -> Iterator[PostgresServer]:
    """A server that these tests may stop."""
    try:
        with postgres_server() as server:
            yield server
    except NoPostgres as error:
        pytest.skip(f"Postgres cannot be tested: {error}")


class PostgresDatabase:
    """A new database on a server that is stopped and started."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._runs = True
        self.url = server.fresh_database(migrated=False)

    def away(self) -> None:
        self._server.stop()
        self._runs = False

    def back(self) -> None:
        if not self._runs:
            self._server.start()
        self._runs = True

    def rows(self, sql: str) -> list[tuple[object, ...]]:
        async def fetch() -> list[tuple[object, ...]]:
            connection = await asyncpg.connect(self.url)
            try:
                return [tuple(row) for row in await connection.fetch(sql)]
            finally:
                await connection.close()

        return asyncio.run(fetch())

    def logged(self) -> list[str]:
        return [str(row[0]) for row in self.rows(IN_ORDER_OF_COMMITS)]


class SqliteDatabase:
    """A file in a directory that is put out of reach and brought back."""

    def __init__(self, place: Path) -> None:
        self._directory = place / "database"
        self._directory.mkdir()
        self._elsewhere = place / "elsewhere"
        self.url = sqlite_url(self._directory / "onbook.db")

    def away(self) -> None:
        self._directory.rename(self._elsewhere)
        # Something that is no directory stands in its place.
        self._directory.write_text("")

    def back(self) -> None:
        if self._elsewhere.exists():
            self._directory.unlink()
            self._elsewhere.rename(self._directory)

    def rows(self, sql: str) -> list[tuple[object, ...]]:
        return query(self._directory, sql)

    def logged(self) -> list[str]:
        return [str(row[0]) for row in self.rows(IN_ORDER_OF_COMMITS)]


Database = PostgresDatabase | SqliteDatabase


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    made: Database
    if request.param == "sqlite":
        made = SqliteDatabase(tmp_path)
    else:
        made = PostgresDatabase(request.getfixturevalue("private"))
    try:
        yield made
    finally:
        made.back()


def serving(server: Server, source: str, *, spooled: int | None = None) -> Callable[[], bool]:
    def check() -> bool:
        told = ready(server.url)
        return told["templates"]["source"] == source and spooled in (None, told["spooled_rows"])

    return check


def level(answer: dict[str, object]) -> int:
    metadata = answer["enhancement_metadata"]
    assert isinstance(metadata, dict)
    # What happened is never silent.
    assert (metadata["fallback_level"] > 0) == bool(metadata["warnings"])
    return int(metadata["fallback_level"])


def sentences(server: Server) -> list[str]:
    return [line.strip() for line in server.output.splitlines() if TRY_AGAIN in line]


def test_without_a_database_the_packaged_templates_serve_until_it_is_there(
    tmp_path: Path, database: Database
) -> None:
    database.away()
    with served("serve", tmp_path / "data", database_url=database.url) as server:
        told = ready(server.url)
        answers = [enhance(server.url) for _ in range(3)]
        spooled = ready(server.url)["spooled_rows"]
        database.back()
        eventually(serving(server, "database", spooled=0), "the database serves")
        answers.append(enhance(server.url))
        healed = ready(server.url)
        greeting = sentences(server)
        output = server.output
    assert [level(answer) for answer in answers] == [2, 2, 2, 0]
    assert told["status"] == "ready"
    assert (told["database"], told["templates"]["source"]) == ("unreachable", "hardcoded")
    assert told["templates"]["active"] == 12
    assert spooled == 3
    assert len(greeting) == 1
    assert "cannot be used" in greeting[0] or "does not exist" in greeting[0]
    assert "the packaged templates are served" in greeting[0]
    assert "database.away_at_start" in output
    assert (healed["database"], healed["templates"]["active"]) == ("ok", 12)
    assert database.logged() == [answer["request_id"] for answer in answers]


def test_the_first_key_is_made_and_shown_once_the_database_is_there(
    tmp_path: Path, database: Database
) -> None:
    database.away()
    with served(
        "serve", tmp_path / "data", database_url=database.url, ONBOOK_BOOTSTRAP_KEY=None
    ) as server:
        assert "shown this once" not in server.output
        with pytest.raises(urllib.error.HTTPError) as refused:
            enhance(server.url, key="onb_nobody_knows_this_key")
        problem = json.loads(refused.value.read())
        refused.value.close()
        database.back()
        eventually(lambda: "makes others" in server.output, "the first key is shown")
        shown = re.findall(r"onb_\S{40,}", server.output)
        assert level(enhance(server.url, key=shown[0])) == 0
    assert (problem["error_code"], len(shown)) == ("DATABASE_UNAVAILABLE", 1)


def test_with_a_snapshot_the_last_good_templates_and_keys_serve(
    tmp_path: Path, database: Database
) -> None:
    data = tmp_path / "data"
    options = {"ONBOOK_BOOTSTRAP_KEY": None}
    with served("serve", data, database_url=database.url, **options) as server:
        key = re.findall(r"onb_\S{40,}", server.output)[0]
        first = enhance(server.url, key=key)
        served_before = ready(server.url)["templates"]["sha256"]
        eventually((data / "access_keys.snapshot.json").exists, "the keys are kept")
        server.stop()
    assert (data / "access_keys.snapshot.json").stat().st_mode & 0o777 == 0o600
    assert key.encode() not in b"".join(path.read_bytes() for path in data.iterdir())
    database.away()
    with served("serve", data, database_url=database.url, **options) as server:
        told = ready(server.url)
        alone = enhance(server.url, key=key)
        greeting = sentences(server)
        database.back()
        eventually(serving(server, "database", spooled=0), "the database serves")
        last = enhance(server.url, key=key)
    assert [level(answer) for answer in (first, alone, last)] == [0, 1, 0]
    assert told["templates"]["source"] == "system_cache"
    assert told["templates"]["age_seconds"] > 0
    assert told["templates"]["sha256"] == served_before
    assert re.search(r"the last good templates, \d+ s old, are served", greeting[0])
    warnings = alone["enhancement_metadata"]["warnings"]
    assert any(re.search(r"snapshot, \d+ s old", warning) for warning in warnings)
    assert database.logged() == [answer["request_id"] for answer in (first, alone, last)]


def test_an_emptied_book_stays_empty_in_an_outage_at_start(
    tmp_path: Path, database: Database
) -> None:
    data = tmp_path / "data"
    with served("serve", data, database_url=database.url) as server:
        first = enhance(server.url)
        database.rows("UPDATE prompt_templates SET is_active = false")
        eventually(lambda: ready(server.url)["templates"]["active"] == 0, "none is active")
        emptied = enhance(server.url)
        server.stop()
    database.away()
    with served("serve", data, database_url=database.url) as server:
        told = ready(server.url)["templates"]
        alone = enhance(server.url)
        with pytest.raises(urllib.error.HTTPError) as refused:
            enhance(server.url, template_name="enhancement_sdxl_sfw")
        problem = json.loads(refused.value.read())
        refused.value.close()
        database.back()
        eventually(serving(server, "database", spooled=0), "the database serves")
        last = enhance(server.url)
    assert [level(answer) for answer in (first, emptied, alone, last)] == [0, 2, 2, 2]
    # It says what it is: what was last read, which is nothing.
    assert (told["source"], told["active"]) == ("system_cache", 0)
    assert problem["error_code"] == "TEMPLATE_NOT_FOUND"
    sources = [
        answer["enhancement_metadata"]["template_source"] for answer in (emptied, alone, last)
    ]
    assert sources == ["hardcoded"] * 3


def test_an_outage_under_load_loses_no_row_doubles_none_and_heals(
    tmp_path: Path, database: Database
) -> None:
    with served("serve", tmp_path / "data", database_url=database.url) as server:
        answers: list[dict[str, object]] = []
        failures: list[Exception] = []
        stopping = threading.Event()

        def call() -> None:
            try:
                while not stopping.is_set():
                    answers.append(enhance(server.url))
            except Exception as error:  # noqa: BLE001 - shown by the test
                failures.append(error)

        def answered_at(wanted: int) -> Callable[[], bool]:
            seen = len(answers)
            return lambda: bool(failures) or any(level(one) == wanted for one in answers[seen:])

        # One caller, so that the order of its answers is the order of its rows.
        caller = threading.Thread(target=call)
        caller.start()
        try:
            for _ in range(2):
                eventually(answered_at(0), "level 0")
                database.away()
                eventually(answered_at(1), "level 1")
                eventually(lambda: ready(server.url)["spooled_rows"] > 3, "rows are spooled")
                database.back()
                eventually(answered_at(0), "level 0 again")
                eventually(lambda: ready(server.url)["spooled_rows"] == 0, "the spool is drained")
        finally:
            stopping.set()
            caller.join()
        eventually(serving(server, "database", spooled=0), "everything is written")
    assert not failures
    levels = [level(answer) for answer in answers]
    assert [wanted for wanted, _ in itertools.groupby(levels)] == [0, 1, 0, 1, 0]
    assert database.logged() == [answer["request_id"] for answer in answers]
    for event in ("database.away", "database.back", "spool.drained"):
        assert event in server.output


def test_rows_that_wait_survive_a_restart_without_the_database(
    tmp_path: Path, database: Database
) -> None:
    data = tmp_path / "data"
    answers = []
    with served("serve", data, database_url=database.url) as server:
        answers.append(enhance(server.url))
        server.stop()
    database.away()
    # The second time without a chance to put anything in order.
    for how in (signal.SIGTERM, signal.SIGKILL):
        with served("serve", data, database_url=database.url) as server:
            answers += [enhance(server.url), enhance(server.url)]
            server.stop(how)
    database.back()
    with served("serve", data, database_url=database.url) as server:
        eventually(serving(server, "database", spooled=0), "the spool is drained")
        answers.append(enhance(server.url))
    assert [level(answer) for answer in answers] == [0, 1, 1, 1, 1, 0]
    assert database.logged() == [answer["request_id"] for answer in answers]


def test_two_replicas_serve_an_edit_by_psql_without_a_restart(
    tmp_path: Path, private: PostgresServer
) -> None:
    def edited(server: Server) -> Callable[[], bool]:
        return lambda: (
            "Edited by psql." in enhance(server.url, dry_run=True)["messages"][0]["content"]
        )

    with private.database(migrated=False) as url, replicas(tmp_path, url) as servers:
        told = [ready(server.url) for server in servers]
        listed = refresh(servers[0].url)["gateways"]
        done = edit(private, url)
        for server in servers:
            eventually(edited(server), "the edit", 10)
        after = [ready(server.url) for server in servers]
        versions = [
            enhance(server.url)["enhancement_metadata"]["template_version"] for server in servers
        ]
        servers[1].stop()
        eventually(lambda: len(refresh(servers[0].url)["gateways"]) == 1, "it is gone", 5)
    assert done
    # Both serve the same before and after, and the hash says that it is not what it was.
    assert told[0]["templates"]["sha256"] == told[1]["templates"]["sha256"]
    assert after[0]["templates"]["sha256"] == after[1]["templates"]["sha256"]
    assert after[0]["templates"]["sha256"] != told[0]["templates"]["sha256"]
    assert after[0]["templates"]["epoch"] == after[1]["templates"]["epoch"]
    assert versions == [2, 2]
    assert len(listed) == 2
    assert {one["gateway"]["id"] for one in told} == {seen["gateway_id"] for seen in listed}
    assert all(seen["up_to_date"] for seen in listed)
    for one, server in zip(told, servers, strict=True):
        assert one["gateway"]["name"].endswith(f":{urlsplit(server.url).port}")


def edit(server: PostgresServer, url: str) -> bool:
    statement = (
        "UPDATE prompt_templates SET system_prompt = system_prompt || ' Edited by psql.', "
        "version = version + 1 WHERE template_name = 'enhancement_sdxl_sfw';"
    )
    if server.psql is None:
        server.execute(statement, database=urlsplit(url).path.removeprefix("/"))
        return True
    return server.run_psql(url, statement).returncode == 0


def refresh(url: str) -> dict[str, Any]:
    request = urllib.request.Request(  # noqa: S310 - our own server on loopback
        url + "/functions/v1/refresh-prompt-cache",
        b"{}",
        {"Authorization": f"Bearer {ADMIN_KEY}"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310 - as above
        answer: dict[str, Any] = json.loads(response.read())
    return answer


def test_a_database_that_turns_out_to_be_wrong_is_never_served_from(
    tmp_path: Path, private: PostgresServer
) -> None:
    database = PostgresDatabase(private)
    private.execute(
        "CREATE TABLE invoices (id int)", database=urlsplit(database.url).path.removeprefix("/")
    )
    database.away()
    try:
        with served("serve", tmp_path / "data", database_url=database.url) as server:
            database.back()
            eventually(lambda: "database.still_away" in server.output, "it is looked at")
            answer = enhance(server.url)
            told = ready(server.url)
            assert "another program" in server.output
    finally:
        database.back()
    assert level(answer) == 2
    assert (told["database"], told["spooled_rows"]) == ("unreachable", 1)
