"""What Postgres alone has: notifications, users, and writers at the same time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import asyncpg
import pytest

from onbook.adapters.database.postgres_url import connect_arguments
from postgres import PostgresServer
from raw_book import Refused, insert

EDIT = "UPDATE prompt_templates SET system_prompt = $1 WHERE template_name = $2"


class Connections:
    """Connections to one database, closed at the end of the test."""

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self._url = url
        self._stack = stack

    async def open(self, **arguments: str) -> asyncpg.Connection:
        connection = await asyncpg.connect(**connect_arguments(self._url) | arguments)
        self._stack.push_async_callback(connection.close)
        return connection


@pytest.fixture
async def connections(postgres_url: str) -> AsyncIterator[Connections]:
    async with AsyncExitStack() as stack:
        yield Connections(postgres_url, stack)


async def test_every_change_is_notified_with_its_epoch(connections: Connections) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    listener, editor = await connections.open(), await connections.open()
    await listener.add_listener(
        "onbook_templates", lambda _connection, _pid, _channel, payload: heard.put_nowait(payload)
    )
    await editor.execute(insert("a"))
    await editor.execute(insert("b"))
    await editor.execute("UPDATE prompt_templates SET system_prompt = 'x'")
    # Nothing that a reader would see.
    await editor.execute("UPDATE prompt_templates SET updated_by = 'x', content_sha256 = 'x'")
    await editor.execute(
        "INSERT INTO template_splits (split_id, template_name, candidate_version, percent,"
        " started_by, reason, started_at) VALUES ('s', 'a', 1, 5, 'me', 'try', now())"
    )
    async with asyncio.timeout(10):
        assert [await heard.get() for _ in range(4)] == ["1", "2", "3", "4"]
    assert await editor.fetchval("SELECT epoch FROM template_epoch") == 4


async def test_an_editor_needs_no_right_to_the_record(
    connections: Connections, postgres: PostgresServer
) -> None:
    owner = await connections.open()
    await owner.execute(insert())
    await owner.execute(
        'DO $$ BEGIN CREATE ROLE "o\'editor" LOGIN; EXCEPTION WHEN duplicate_object'
        " THEN NULL; END $$"
    )
    await owner.execute(
        f"ALTER ROLE \"o'editor\" PASSWORD '{postgres.password.replace(chr(39), chr(39) * 2)}'"
    )
    await owner.execute('GRANT SELECT, UPDATE ON prompt_templates TO "o\'editor"')
    editor = await connections.open(user="o'editor")
    await editor.execute("UPDATE prompt_templates SET system_prompt = 'Theirs.'")
    assert await owner.fetch("SELECT actor, to_version FROM template_events ORDER BY position") == [
        ("sql:onbook", 1),
        ("sql:o'editor", 2),
    ]
    assert await owner.fetchval("SELECT updated_by FROM prompt_templates") == "sql:o'editor"
    for statement in (
        "INSERT INTO template_events (template_name, action, actor) VALUES ('mine', 'x', 'me')",
        "UPDATE template_epoch SET epoch = 0",
        "DELETE FROM prompt_template_versions",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await editor.execute(statement)


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("prompt_templates", "deactivate a template"),
        ("prompt_template_versions", "never deleted"),
        ("template_events", "never changed or deleted"),
        ("template_splits", "end a split"),
    ],
)
async def test_no_table_of_the_book_is_truncated(
    connections: Connections, table: str, sentence: str
) -> None:
    connection = await connections.open()
    with pytest.raises(Refused, match=sentence):
        await connection.execute(f"TRUNCATE {table}")


async def _waits(observer: asyncpg.Connection, count: int = 1) -> None:
    """Return once ``count`` other sessions wait for a lock."""
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        " AND datname = current_database()"
    )
    async with asyncio.timeout(10):
        while await observer.fetchval(query) < count:
            await observer.execute("SELECT pg_stat_clear_snapshot()")


async def test_two_edits_of_one_template_at_once_make_two_versions(
    connections: Connections,
) -> None:
    first, second = await connections.open(), await connections.open()
    observer = await connections.open()
    await first.execute(insert())
    transaction = first.transaction()
    await transaction.start()
    await first.execute(
        "UPDATE prompt_templates SET system_prompt = 'First.', version = version + 1"
    )
    waiting = asyncio.create_task(
        second.execute(
            "UPDATE prompt_templates SET system_prompt = 'Second.', version = version + 1"
        )
    )
    await _waits(observer)
    await transaction.commit()
    await waiting
    assert await observer.fetch(
        "SELECT version, system_prompt FROM prompt_template_versions ORDER BY version"
    ) == [(1, "Hello."), (2, "First."), (3, "Second.")]
    assert await observer.fetchval("SELECT version FROM prompt_templates") == 3


async def test_epochs_and_events_are_in_the_order_of_commits(connections: Connections) -> None:
    first, second = await connections.open(), await connections.open()
    observer = await connections.open()
    for name in ("a", "b"):
        await first.execute(insert(name))
    transaction = first.transaction()
    await transaction.start()
    await first.execute(
        "INSERT INTO template_events (event_id, template_name, action, actor, to_version)"
        " VALUES ('e1', 'a', 'activated', 'key:me', 2)"
    )
    waiting = asyncio.create_task(second.execute(EDIT, "Second.", "b"))
    await _waits(observer)
    await first.execute(
        "UPDATE prompt_templates SET system_prompt = 'First.', version = 2, event_id = 'e1'"
        " WHERE template_name = 'a'"
    )
    # Whoever reads now sees neither; a reader that has seen b's epoch would have missed a.
    assert await observer.fetchval("SELECT epoch FROM template_epoch") == 2
    await transaction.commit()
    await waiting
    assert await observer.fetch(
        "SELECT template_name, changed_epoch FROM prompt_templates ORDER BY changed_epoch"
    ) == [("a", 3), ("b", 4)]
    assert await observer.fetch(
        "SELECT position, template_name FROM template_events ORDER BY position"
    ) == [(1, "a"), (2, "b"), (3, "a"), (4, "b")]


async def test_edits_of_many_templates_in_opposite_orders_never_deadlock(
    connections: Connections,
) -> None:
    first, second = await connections.open(), await connections.open()
    observer = await connections.open()
    for name in ("a", "b"):
        await first.execute(insert(name))
    transaction = first.transaction()
    await transaction.start()
    await first.execute(EDIT, "First.", "a")
    other = second.transaction()
    await other.start()
    waiting = asyncio.create_task(second.execute(EDIT, "Second.", "b"))
    await _waits(observer)
    await first.execute(EDIT, "First.", "b")
    await transaction.commit()
    await waiting
    await second.execute(EDIT, "Second.", "a")
    await other.commit()
    assert set(await observer.fetch("SELECT system_prompt, version FROM prompt_templates")) == {
        ("Second.", 3)
    }


async def test_a_user_with_another_search_path_edits_too(connections: Connections) -> None:
    editor = await connections.open()
    await editor.execute(insert())
    await editor.execute("SET search_path = pg_catalog")
    await editor.execute("UPDATE public.prompt_templates SET system_prompt = 'Edited.'")
    assert await editor.fetchval("SELECT max(version) FROM public.prompt_template_versions") == 2
