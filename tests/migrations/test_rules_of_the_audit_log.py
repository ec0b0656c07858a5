"""What nobody does to the record of requests, by whichever statement."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Table

from onbook.adapters.database.chain import downgrade, upgrade
from onbook.adapters.database.postgres_url import is_postgres
from onbook.adapters.database.schema import migrate
from onbook.adapters.database.tables import audit_checkpoints, enhancement_logs, signing_keys
from raw_book import RawBook, Refused, edit, insert_into, raw_book

AT = "2026-11-24T10:00:00.000000+00:00"
LOG: dict[str, object] = {
    "id": "l1",
    "request_id": "r1",
    "created_at": AT,
    "function": "enhance-prompt",
    "caller": "me",
    "content_mode": "sfw",
    "attempts": 1,
    "execution_time_ms": 1,
    "integrity_status": "verified",
    "prompt_sha256": "",
}
CHECKPOINT: dict[str, object] = {
    "number": 1,
    "created_at": AT,
    "body": "{}",
    "body_sha256": "a",
    "signing_key_id": "k",
    "signature": "s",
}
KEY: dict[str, object] = {
    "public_key": "p",
    "key_id": "k",
    "role": "gateway",
    "owner": "gw",
    "not_before": AT,
    "first_seen_at": AT,
}
ROWS: dict[str, dict[str, object]] = {
    "enhancement_logs": LOG,
    "audit_checkpoints": CHECKPOINT,
    "signing_keys": KEY,
}
SENTENCES = {
    "enhancement_logs": "a row of enhancement_logs is never changed or deleted; its texts",
    "audit_checkpoints": "a checkpoint of the audit log is never changed or deleted",
    "signing_keys": "a signing key is never changed or deleted",
}
TABLES = sorted(ROWS)


@pytest.fixture
def record(book: RawBook) -> Iterator[RawBook]:
    """A record with one row in each table."""
    for table, row in ROWS.items():
        book.run(insert_into(table, **row))
    yield book
    for table in TABLES:
        assert book.rows(f"SELECT count(*) FROM {table}") == [(1,)]  # noqa: S608 - a test's own words


@pytest.mark.parametrize(
    "table", [enhancement_logs, audit_checkpoints, signing_keys], ids=lambda table: table.name
)
def test_no_column_is_changed(record: RawBook, table: Table) -> None:
    for column in table.columns:
        for change in (f"{column.name} = {column.name}", f"{column.name} = NULL"):
            with pytest.raises(Refused, match=SENTENCES[table.name]):
                record.run(edit(change, table=table.name))


@pytest.mark.parametrize("table", TABLES)
def test_no_row_is_deleted_or_replaced(record: RawBook, table: str) -> None:
    statements = [f"DELETE FROM {table}"]  # noqa: S608 - a test's own words
    if is_postgres(record.url):
        statements.append(f"TRUNCATE {table}")
    else:
        statements.append(insert_into(table, **ROWS[table]).replace("INSERT", "INSERT OR REPLACE"))
    for statement in statements:
        with pytest.raises(Refused, match=SENTENCES[table]):
            record.run(statement)


@pytest.mark.parametrize(
    "same", [{"id": "l1"}, {"request_id": "r1"}, {"chain_id": "c", "seq": 1}], ids=str
)
def test_no_row_is_replaced_by_way_of_another_key(
    sqlite_book: RawBook, same: dict[str, object]
) -> None:
    sqlite_book.run(insert_into("enhancement_logs", **LOG, chain_id="c", seq=1))
    other = {**LOG, "id": "l2", "request_id": "r2", "chain_id": "c", "seq": 2, **same}
    statement = insert_into("enhancement_logs", **other).replace("INSERT", "INSERT OR REPLACE")
    with pytest.raises(Refused, match="never changed or deleted"):
        sqlite_book.run(statement)
    assert sqlite_book.rows("SELECT id, request_id, seq FROM enhancement_logs") == [("l1", "r1", 1)]


def test_texts_may_be_purged(record: RawBook) -> None:
    record.run(
        insert_into("enhancement_texts", request_id="r1", created_at=AT, salt="s", original="o")
    )
    record.run("UPDATE enhancement_texts SET original = ''")
    record.run("DELETE FROM enhancement_texts")
    assert record.rows("SELECT 1 FROM enhancement_texts") == []


def test_a_place_in_a_chain_is_taken_once(book: RawBook) -> None:
    book.run(insert_into("enhancement_logs", **LOG, chain_id="c", seq=1))
    with pytest.raises(Refused):
        book.run(
            insert_into(
                "enhancement_logs", **{**LOG, "id": "l2", "request_id": "r2"}, chain_id="c", seq=1
            )
        )


def test_old_rows_are_in_no_chain_and_protected_all_the_same(bare_url: str) -> None:
    upgrade(bare_url, "2026_11_23_template_history")
    with raw_book(bare_url) as book:
        book.run(insert_into("enhancement_logs", **LOG))
        book.run(insert_into("enhancement_logs", **{**LOG, "id": "l2", "request_id": "r2"}))
    migrate(bare_url)
    chain = "output_steps, chain_id, seq, prev_hash, group_end, row_hash, signing_key_id"
    with raw_book(bare_url) as book:
        found = book.rows(f"SELECT id, {chain}, head_signature FROM enhancement_logs ORDER BY id")  # noqa: S608 - a test's own words
        assert found == [("l1", *[None] * 8), ("l2", *[None] * 8)]
        with pytest.raises(Refused, match="never changed or deleted"):
            book.run("UPDATE enhancement_logs SET chain_id = 'c', seq = 1 WHERE id = 'l1'")


def test_down_and_up_again_keeps_the_rows(bare_url: str) -> None:
    migrate(bare_url)
    with raw_book(bare_url) as book:
        book.run(insert_into("enhancement_logs", **LOG, chain_id="c", seq=1, row_hash="h"))
    downgrade(bare_url, "2026_11_23_template_history")
    with raw_book(bare_url) as book:
        # The older schema lets an administrator do this.
        book.run("UPDATE enhancement_logs SET caller = 'you'")
    migrate(bare_url)
    with raw_book(bare_url) as book:
        assert book.rows("SELECT caller, chain_id, seq FROM enhancement_logs") == [
            ("you", None, None)
        ]
