"""Statements over many rows on Postgres, where a transaction has one epoch."""

from collections.abc import Iterator

import asyncpg
import pytest

from onbook.adapters.database.postgres_url import connect_arguments
from raw_book import RawBook, edit, insert, raw_book, the_epoch, the_events, the_row, the_versions
from support_books import book_at

MANY = (
    "INSERT INTO prompt_templates (template_name, model_type, use_case, content_mode, target,"
    " system_prompt, token_limit) SELECT 't' || n, 'qwen_instruct', 'chat', 'sfw', 't' || n,"
    " 'Hello.', 75 FROM generate_series(1, 300) n"
)
EDIT = "UPDATE prompt_templates SET system_prompt = 'Edited.'"


async def test_readers_see_every_row_of_one_statement(postgres_url: str) -> None:
    connection = await asyncpg.connect(**connect_arguments(postgres_url))
    try:
        async with book_at(postgres_url) as book:
            for statement, prompt in ((MANY, "Hello."), (EDIT, "Edited.")):
                since = await book.store.epoch()
                await connection.execute(statement)
                assert await book.store.epoch() == since + 1
                changes = await book.store.changes(since)
                assert len(changes.active) == 300
                assert {template.system_prompt for template in changes.active} == {prompt}
                assert await connection.fetch(
                    "SELECT DISTINCT changed_epoch FROM prompt_templates"
                ) == [(since + 1,)]
    finally:
        await connection.close()


@pytest.fixture
def postgres_book(postgres_url: str) -> Iterator[RawBook]:
    with raw_book(postgres_url) as book:
        yield book


def test_each_edit_of_one_transaction_is_recorded(postgres_book: RawBook) -> None:
    book = postgres_book
    book.run(insert())
    book.run("BEGIN")
    for number in (2, 3):
        book.run(edit(f"system_prompt = 'Text {number}.'"))
        assert the_row(book, "version, changed_epoch") == (number, 2)
    book.run("UPDATE prompt_templates SET is_active = false")
    book.run("COMMIT")
    assert the_epoch(book) == 2
    assert the_versions(book, "version") == [(1,), (2,), (3,)]
    assert the_events(book, "action, to_version") == [
        ("created", 1),
        ("activated", 2),
        ("activated", 3),
        ("deactivated", None),
    ]
    # The next transaction counts on, with a split too.
    book.run("BEGIN")
    book.run(
        "INSERT INTO template_splits (split_id, template_name, candidate_version, percent,"
        " started_by, reason, started_at) VALUES ('s', 'mine', 1, 5, 'me', 'try', now())"
    )
    book.run("UPDATE template_splits SET percent = 6")
    book.run("UPDATE prompt_templates SET is_active = true")
    book.run("COMMIT")
    assert the_epoch(book) == 3
    assert the_row(book, "changed_epoch") == (3,)


def test_a_savepoint_that_is_rolled_back_takes_its_epoch_with_it(postgres_book: RawBook) -> None:
    book = postgres_book
    book.run(insert())
    book.run("BEGIN")
    book.run("SAVEPOINT s")
    book.run("UPDATE prompt_templates SET system_prompt = 'Lost.'")
    book.run("ROLLBACK TO s")
    assert the_epoch(book) == 1
    book.run("UPDATE prompt_templates SET system_prompt = 'Kept.'")
    book.run("SAVEPOINT s")
    book.run("UPDATE prompt_templates SET system_prompt = 'Last.'")
    book.run("COMMIT")
    ((epoch,),) = book.rows("SELECT changed_epoch FROM prompt_templates")
    assert epoch == the_epoch(book)
    assert the_versions(book, "system_prompt") == [("Hello.",), ("Kept.",), ("Last.",)]
