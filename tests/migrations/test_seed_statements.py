"""An administrator's three statements, unchanged, through the database's own program."""

import pytest

from administrator import DEACTIVATE, UPDATE, VIEW, administer
from onbook.adapters.database.postgres_url import is_postgres
from postgres import PostgresServer
from raw_book import RawBook, insert, the_epoch, the_events, the_row, the_versions


def _administer(request: pytest.FixtureRequest, url: str, statement: str) -> str:
    """Return what the program prints."""
    server = request.getfixturevalue("postgres") if is_postgres(url) else None
    assert server is None or isinstance(server, PostgresServer)
    return administer(url, statement, server=server)


def test_view_active_templates(request: pytest.FixtureRequest, book: RawBook) -> None:
    book.run(insert("first_shown", version=7))
    book.run(insert("hidden", is_active=False))
    book.run(insert("then_shown"))
    shown = _administer(request, book.url, VIEW)
    assert shown.index("first_shown") < shown.index("then_shown")
    assert "hidden" not in shown


@pytest.mark.parametrize("statement", [UPDATE, UPDATE.replace(" \n", " ")])
def test_update_a_template(request: pytest.FixtureRequest, book: RawBook, statement: str) -> None:
    book.run(insert("enhancement_sdxl_sfw"))
    book.run(insert("another"))
    _administer(request, book.url, statement)
    name = "enhancement_sdxl_sfw"
    assert the_row(book, "version, system_prompt, updated_by, changed_epoch", name) == (
        (2, "New system prompt", book.actor, 3)
    )
    assert the_versions(book, "version, system_prompt, author, base_version", name) == [
        (1, "Hello.", book.actor, None),
        (2, "New system prompt", book.actor, 1),
    ]
    assert the_events(book, "action, actor, from_version, to_version", name) == [
        ("created", book.actor, None, 1),
        ("activated", book.actor, 1, 2),
    ]
    assert the_row(book, "version", "another") == (1,)
    assert the_epoch(book) == 3


def test_deactivate_a_template(request: pytest.FixtureRequest, book: RawBook) -> None:
    book.run(insert("old_template"))
    _administer(request, book.url, DEACTIVATE)
    assert the_row(book, "version, is_active, changed_epoch", "old_template") == (1, False, 2)
    assert the_versions(book, "version", "old_template") == [(1,)]
    assert the_events(book, "action, actor, from_version, to_version", "old_template")[1:] == [
        ("deactivated", book.actor, 1, None)
    ]
