"""How soon a gateway hears that the book changed, and what it survives."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator

import pytest

from onbook.adapters.database.engine import create_engine
from onbook.adapters.database.schema import migrate
from onbook.adapters.database.sqlite_file import sqlite_path, sqlite_url
from onbook.adapters.database.template_signal import template_signal
from onbook.adapters.database.template_store import SqlTemplateStore
from postgres import postgres_server
from support_books import NAME, Book, book_at, book_on

# Long enough to tell an answer from a time-out on a busy machine.
LONG_S = 60.0
SOON_S = 20.0
SHORT_S = 0.2


@pytest.fixture
async def pair(url: str) -> AsyncIterator[tuple[Book, Book]]:
    """A gateway that listens already, and an editor elsewhere."""
    async with book_at(url) as gateway, book_at(url) as editor:
        await editor.live("First.")
        await _heard(gateway)
        yield gateway, editor


async def _heard(gateway: Book) -> None:
    async with asyncio.timeout(SOON_S):
        await gateway.store.changed(LONG_S)


async def _took(gateway: Book, timeout_s: float) -> float:
    before = time.monotonic()
    await gateway.store.changed(timeout_s)
    return time.monotonic() - before


async def _quiet(gateway: Book) -> None:
    """Wait until nothing of what was done before is left to hear."""
    while await _took(gateway, SHORT_S) < SHORT_S:
        pass


async def test_a_change_of_another_process_is_heard(pair: tuple[Book, Book]) -> None:
    gateway, editor = pair
    await _quiet(gateway)
    for number in range(2, 5):
        waiting = asyncio.create_task(_heard(gateway))
        await editor.draft(f"Text {number}.")
        await editor.activate(number, number - 1)
        await waiting
        await _quiet(gateway)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE prompt_templates SET system_prompt = 'New', version = version + 1",
        "UPDATE prompt_templates SET is_active = false",
        (
            "INSERT INTO prompt_templates (template_name, model_type, use_case, content_mode,"
            " system_prompt, token_limit) VALUES ('new', 'm', 'chat', 'sfw', 'Hello.', 75)"
        ),
    ],
    ids=["edit", "deactivate", "insert"],
)
async def test_raw_sql_is_heard(pair: tuple[Book, Book], statement: str) -> None:
    gateway, editor = pair
    await _quiet(gateway)
    before = await gateway.store.epoch()
    await editor.sql(statement)
    await _heard(gateway)
    assert await gateway.store.epoch() > before


async def test_a_split_is_heard(pair: tuple[Book, Book]) -> None:
    gateway, editor = pair
    await editor.draft("Second.", base=1)
    await _quiet(gateway)
    await editor.start_split(2, 1)
    await _heard(gateway)


async def test_what_happens_between_two_waits_is_heard(pair: tuple[Book, Book]) -> None:
    gateway, editor = pair
    await _quiet(gateway)
    await editor.sql("UPDATE prompt_templates SET system_prompt = 'New'")
    # Other work of the gateway, in which the signal arrives.
    assert await gateway.store.epoch() > 0
    await _heard(gateway)


async def test_nothing_is_heard_where_nothing_happens(pair: tuple[Book, Book]) -> None:
    gateway, _ = pair
    await _quiet(gateway)
    assert await _took(gateway, SHORT_S) >= SHORT_S


async def test_a_memory_book_is_heard() -> None:
    async with book_on(None) as book:
        assert await _took(book, SHORT_S) >= SHORT_S
        waiting = asyncio.create_task(_heard(book))
        await book.live("First.")
        await waiting


async def test_a_listener_that_was_killed_listens_again(postgres_url: str) -> None:
    async with book_at(postgres_url) as gateway, book_at(postgres_url) as editor:
        await editor.live("First.")
        await _heard(gateway)
        await _quiet(gateway)
        await editor.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
        )
        # The loss itself is worth a look at the epoch.
        await _heard(gateway)
        await _quiet(gateway)
        await editor.sql("UPDATE prompt_templates SET system_prompt = 'New'")
        await _heard(gateway)
        assert (await gateway.served())[NAME].system_prompt == "New"


@pytest.mark.usefixtures("postgres")
async def test_a_server_that_is_away_is_waited_for() -> None:
    with postgres_server(fsync=True) as server:
        url = await asyncio.to_thread(server.fresh_database)
        async with book_at(url, statement_timeout_s=2.0) as gateway:
            await gateway.live("First.")
            await _heard(gateway)
            server.kill()
            await _heard(gateway)
            for _ in range(3):
                assert await _took(gateway, SHORT_S) >= SHORT_S * 0.9
            server.start()
            await _heard(gateway)
            await _quiet(gateway)
            async with book_at(url) as editor:
                await editor.sql("UPDATE prompt_templates SET system_prompt = 'New'")
            await _heard(gateway)
            assert (await gateway.served())[NAME].system_prompt == "New"


async def test_the_listener_is_not_one_of_the_pool(postgres_url: str) -> None:
    engine = create_engine(postgres_url, pool_size=1)
    store = SqlTemplateStore(engine)
    await store.changed(SHORT_S)
    async with asyncio.timeout(SOON_S), engine.connect(), engine.connect():
        pass
    await store.close()
    async with book_at(postgres_url) as book:
        assert book.engine is not None
        async with book.engine.connect() as connection:
            listening = await connection.exec_driver_sql(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND query LIKE 'LISTEN%'"
            )
            assert listening.scalar_one() == 0
    await engine.dispose()


async def test_a_file_that_moves_away_and_is_replaced(sqlite_file: str) -> None:
    path = sqlite_path(sqlite_file)
    async with book_at(sqlite_file) as gateway:
        await gateway.live("First.")
        await _heard(gateway)
        await _quiet(gateway)
        for file in path.parent.glob(path.name + "*"):
            file.unlink()
        assert await _took(gateway, SHORT_S) >= SHORT_S
        migrate(sqlite_file)
        await _heard(gateway)
        await _quiet(gateway)
        async with book_at(sqlite_file) as editor:
            await editor.live("Another.")
        await _heard(gateway)
        assert (await gateway.served())[NAME].system_prompt == "Another."


async def test_a_file_that_is_replaced_at_once(sqlite_file: str) -> None:
    path = sqlite_path(sqlite_file)
    restored = path.with_name("restored.db")
    migrate(sqlite_url(restored))
    async with book_at(sqlite_file) as gateway:
        await _heard(gateway)
        await _quiet(gateway)
        for file in path.parent.glob("onbook.db-*"):
            file.unlink()
        restored.replace(path)
        await _heard(gateway)
        await _quiet(gateway)
        async with book_at(sqlite_file) as editor:
            await editor.live("Restored.")
        await _heard(gateway)


async def test_a_file_that_is_not_there_yet(sqlite_file: str) -> None:
    path = sqlite_path(sqlite_file)
    away = path.with_name("away.db")
    path.rename(away)
    async with book_at(sqlite_file) as gateway:
        assert await _took(gateway, SHORT_S) >= SHORT_S
        away.rename(path)
        await _heard(gateway)


async def test_a_locked_file_is_no_change(sqlite_file: str) -> None:
    async with book_at(sqlite_file) as gateway, book_at(sqlite_file) as editor:
        await editor.live("First.")
        await _heard(gateway)
        await _quiet(gateway)
        assert editor.engine is not None
        async with editor.engine.connect() as connection:
            await connection.exec_driver_sql("ROLLBACK")
            await connection.exec_driver_sql("BEGIN IMMEDIATE")
            await connection.exec_driver_sql("UPDATE template_epoch SET epoch = epoch + 1")
            assert await _took(gateway, SHORT_S) >= SHORT_S
            await connection.exec_driver_sql("COMMIT")
            await _heard(gateway)
            await connection.exec_driver_sql("BEGIN")


async def test_a_closed_signal_leaves_no_thread(sqlite_file: str) -> None:
    engine = create_engine(sqlite_file)
    signal = template_signal(engine)
    await signal.wait(SHORT_S)
    names = [thread.name for thread in threading.enumerate()]
    assert "onbook-template-signal" in names
    await signal.close()
    await signal.close()
    names = [thread.name for thread in threading.enumerate()]
    assert "onbook-template-signal" not in names
    await engine.dispose()
