"""An administrator's statements, by the database's own program, reach gateways that run."""

import json
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from administrator import DEACTIVATE, UPDATE, VIEW, administer
from onbook.adapters.database.postgres_url import is_postgres
from onbook.adapters.database.sqlite_file import sqlite_url
from raw_book import insert
from server import Server, enhance, eventually, ready, replicas

# Templates that a fresh book has.
PACKAGED = 12
SOON_S = 10.0


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without any table."""
    if request.param == "sqlite":
        yield sqlite_url(tmp_path / "onbook.db")
    else:
        with request.getfixturevalue("postgres").database(migrated=False) as url:
            yield url


def _serves(server: Server, text: str) -> Callable[[], bool]:
    return lambda: enhance(server.url, dry_run=True)["messages"][0]["content"] == text


def _active(server: Server, templates: int) -> Callable[[], bool]:
    return lambda: ready(server.url)["templates"]["active"] == templates


def _refused(server: Server, name: str) -> tuple[int, str]:
    with pytest.raises(urllib.error.HTTPError) as refused:
        enhance(server.url, template_name=name)
    with refused.value as answer:
        return answer.code, json.loads(answer.read())["error_code"]


def test_after_each_statement_every_running_gateway_serves_it(
    request: pytest.FixtureRequest, url: str, tmp_path: Path
) -> None:
    database = request.getfixturevalue("postgres") if is_postgres(url) else None
    old = insert("old_template", use_case="enhancement", system_prompt="Old words.")
    with replicas(tmp_path, url) as servers:
        shown = administer(url, VIEW, server=database)
        before = [ready(server.url)["templates"]["epoch"] for server in servers]

        administer(url, UPDATE, server=database)
        for server in servers:
            eventually(_serves(server, "New system prompt"), "the edit", SOON_S)
        edited = [enhance(server.url)["enhancement_metadata"] for server in servers]

        administer(url, old + ";", server=database)
        for server in servers:
            eventually(_active(server, PACKAGED + 1), "the new template", SOON_S)
        by_name = [enhance(server.url, template_name="old_template") for server in servers]

        administer(url, DEACTIVATE, server=database)
        for server in servers:
            eventually(_active(server, PACKAGED), "it is out of service", SOON_S)
        refused = [_refused(server, "old_template") for server in servers]
        told = [ready(server.url)["templates"] for server in servers]
    assert shown.count("enhancement_sdxl_sfw") == 1
    for metadata in edited:
        assert (metadata["template_name"], metadata["template_version"]) == (
            ("enhancement_sdxl_sfw", 2)
        )
        assert (metadata["template_source"], metadata["warnings"]) == ("database", [])
    assert [one["enhancement_metadata"]["template_name"] for one in by_name] == ["old_template"] * 2
    assert refused == [(404, "TEMPLATE_NOT_FOUND")] * 2
    # Reading changed nothing, and each change counted once.
    assert [one["epoch"] for one in told] == [epoch + 3 for epoch in before]
    assert told[0]["sha256"] == told[1]["sha256"]
