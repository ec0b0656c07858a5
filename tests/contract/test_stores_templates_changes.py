"""What a gateway is told of a book that changes, also by raw SQL."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from onbook.adapters.database.engine import writer
from onbook.adapters.database.schema import migrate
from onbook.adapters.database.sqlite_file import sqlite_path
from onbook.adapters.template_mapping import template_mapping
from onbook.domain.errors import Conflict
from onbook.domain.templates import content_sha256, template_from_mapping
from support_books import NAME, Book, book_at, book_on


@pytest.fixture
async def book(store_engine: AsyncEngine | None) -> AsyncIterator[Book]:
    async with book_on(store_engine) as book:
        yield book


@pytest.fixture
async def stored(engine: AsyncEngine) -> AsyncIterator[Book]:
    async with book_on(engine) as book:
        yield book


async def test_nothing_changed_is_nothing(book: Book) -> None:
    await book.live("First.")
    epoch = await book.store.epoch()
    changes = await book.store.changes(epoch)
    assert (changes.epoch, changes.full) == (epoch, False)
    assert (list(changes.active), list(changes.gone), changes.stale) == ([], [], {})


async def test_only_what_changed_is_told(book: Book) -> None:
    await book.live("First.")
    await book.draft("Other.", template_name="other", target="wan")
    await book.activate(1, None, "other")
    epoch = await book.store.epoch()
    await book.draft("Second.", base=1)
    await book.activate(2, 1)
    changes = await book.store.changes(epoch)
    assert [item.template_name for item in changes.active] == [NAME]
    assert not changes.full


async def test_an_epoch_from_the_future_gets_everything(book: Book) -> None:
    await book.live("First.")
    changes = await book.store.changes(10**9)
    assert changes.full
    assert [item.template_name for item in changes.active] == [NAME]


async def test_splits_are_always_told(book: Book) -> None:
    await book.live("First.")
    await book.draft("Second.", base=1)
    await book.start_split(2, 1)
    changes = await book.store.changes(await book.store.epoch())
    assert [split.candidate.version for split in changes.splits] == [2]


async def test_a_draft_changes_nothing_that_is_served(book: Book) -> None:
    await book.live("First.")
    epoch = await book.store.epoch()
    await book.draft("Second.", base=1)
    assert await book.store.epoch() == epoch


async def test_an_earlier_version_stands_in_for_a_broken_one(stored: Book) -> None:
    await stored.live("First.", "Second.")
    await stored.draft("A draft.", base=2)
    for number in (4, 5):
        await stored.sql(f"UPDATE prompt_templates SET system_prompt = '{' ' * number}'")  # noqa: S608 - blanks
        changes = await stored.store.changes(None)
        assert [item.system_prompt for item in changes.active] == ["Second."]
        assert (changes.stale, list(changes.gone)) == ({NAME: number}, [])
    pinned = await stored.store.pinned(NAME, 5)
    assert pinned is None
    await stored.sql("UPDATE prompt_templates SET system_prompt = 'Mended.'")
    changes = await stored.store.changes(None)
    assert [item.system_prompt for item in changes.active] == ["Mended."]
    assert changes.stale == {}


async def test_an_aborted_candidate_never_stands_in(stored: Book) -> None:
    await stored.live("First.")
    await stored.draft("Candidate.", base=1)
    await stored.start_split(2, 1)
    await stored.library.end_split(NAME, "aborted", author="a", reason="r", at=stored.now())
    await stored.sql("UPDATE prompt_templates SET system_prompt = ''")
    (served,) = (await stored.store.changes(None)).active
    assert served.system_prompt == "First."


async def test_nothing_stands_in_across_content_modes(stored: Book) -> None:
    await stored.live("First.")
    epoch = await stored.store.epoch()
    await stored.sql(
        "UPDATE prompt_templates SET content_mode = 'nsfw', system_prompt = '{{nobody}}'"
    )
    for since in (epoch, None):
        changes = await stored.store.changes(since)
        assert (list(changes.active), list(changes.gone)) == ([], [NAME])
        assert changes.stale == {NAME: 2}


async def test_a_candidate_is_not_served_across_content_modes(stored: Book) -> None:
    await stored.live("First.")
    await stored.draft("Second.", base=1)
    await stored.start_split(2, 1)
    await stored.sql("UPDATE prompt_templates SET content_mode = 'nsfw'")
    assert (await stored.store.changes(None)).splits == []
    with pytest.raises(Conflict, match="version 3 is live now") as caught:
        await stored.library.end_split(NAME, "promoted", author="a", reason="r", at=stored.now())
    assert "Abort the split" in caught.value.suggested_action
    await stored.library.end_split(NAME, "aborted", author="a", reason="r", at=stored.now())


async def test_a_version_that_breaks_a_rule_is_refused(stored: Book) -> None:
    await stored.live("First.")
    await stored.sql("UPDATE prompt_templates SET system_prompt = ''")
    await stored.draft("Mended.", base=2)
    await stored.activate(3, 2)
    before = await stored.state()
    with pytest.raises(Conflict, match=r"breaks a rule: .*system_prompt"):
        await stored.roll_back(2, 3)
    assert await stored.state() == before
    (broken,) = [item for item in await stored.library.versions(NAME) if item.version == 2]
    assert (broken.template, broken.state) == (None, "retired")
    assert broken.problem is not None


async def test_missing_hashes_are_filled_in_without_a_new_epoch(stored: Book) -> None:
    await stored.live("First.")
    await stored.sql("UPDATE prompt_templates SET system_prompt = 'Raw.'")
    epoch = await stored.store.epoch()
    assert await _hashes(stored) == (None, None)
    (served,) = (await stored.store.changes(None)).active
    await stored.store.close()
    assert await _hashes(stored) == (served.content_sha256, served.content_sha256)
    assert served.content_sha256 == content_sha256(served)
    assert await stored.store.epoch() == epoch


async def test_a_hash_is_not_filled_in_for_what_changed_meanwhile(stored: Book) -> None:
    await stored.live("First.")
    await stored.sql("UPDATE prompt_templates SET system_prompt = 'Raw.'")
    assert stored.engine is not None
    async with writer(stored.engine).begin() as connection:
        # The reader fills in once this writer has let go.
        await connection.exec_driver_sql("UPDATE prompt_templates SET system_prompt = 'Newer.'")
        await stored.store.changes(None)
    await stored.store.close()
    row = await stored.library.find(NAME)
    assert row is not None
    assert row.template is not None
    assert row.content_sha256 == row.template.content_sha256
    assert (await _hashes(stored))[0] in (None, row.content_sha256)


async def test_a_book_that_cannot_be_written_is_read(sqlite_file: str) -> None:
    async with book_at(sqlite_file) as book:
        await book.live("First.")
        await book.sql("UPDATE prompt_templates SET system_prompt = 'Raw.'")
        assert book.engine is not None
        async with writer(book.engine).begin() as connection:
            await connection.exec_driver_sql(
                "CREATE TRIGGER read_only BEFORE UPDATE ON prompt_templates"
                " BEGIN SELECT RAISE(ABORT, 'read-only'); END"
            )
        (served,) = (await book.store.changes(None)).active
        assert served.system_prompt == "Raw."
        await book.store.close()
        assert (await _hashes(book))[0] is None


async def _hashes(book: Book) -> tuple[object, object]:
    assert book.engine is not None
    async with book.engine.connect() as connection:
        row = await connection.execute(text("SELECT content_sha256 FROM prompt_templates"))
        version = await connection.execute(
            text(
                "SELECT content_sha256 FROM prompt_template_versions ORDER BY version DESC LIMIT 1"
            )
        )
        return row.scalar_one(), version.scalar_one()


async def test_another_file_in_the_same_place_is_read_as_a_whole(sqlite_file: str) -> None:
    path = sqlite_path(sqlite_file)
    async with book_at(sqlite_file) as book:
        await book.live("First.")
        since = (await book.store.changes(None)).epoch
        for file in path.parent.glob(path.name + "*"):
            file.unlink()
        migrate(sqlite_file)
        await book.live("Text 1.", "Text 2.", "Text 3.")
        assert await book.store.epoch() > since
        assert (await book.store.changes(since)).full
        assert not (await book.store.changes(since)).full


async def test_a_large_book_does_not_hold_up_the_requests(stored: Book) -> None:
    await stored.sql(
        "INSERT INTO prompt_templates (template_name, model_type, use_case, content_mode,"
        " system_prompt, token_limit)"
        " WITH RECURSIVE series(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM series WHERE i < 2000)"
        " SELECT 't' || i, 't' || i, 'chat', 'sfw', 'Describe the scene.', 75 FROM series"
    )
    longest, done = 0.0, asyncio.Event()

    async def request() -> None:
        nonlocal longest
        while not done.is_set():
            before = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - before)

    await stored.store.epoch()
    # A collection of what the whole test run left behind is not the store's.
    gc.collect()
    gc.disable()
    requests = asyncio.create_task(request())
    try:
        changes = await stored.store.changes(None)
    finally:
        gc.enable()
        done.set()
        await requests
    assert len(changes.active) == 2000
    # By the thread's own time, since other processes hold the wall clock up.
    before = time.thread_time()
    for item in changes.active[:1000]:
        template_from_mapping(template_mapping(item))
    assert longest < time.thread_time() - before
