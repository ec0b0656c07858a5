import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from onbook.adapters.database import audit_trail
from onbook.adapters.database.audit_queries import heads_query
from onbook.adapters.database.enhancement_log import enhancement_log
from onbook.adapters.database.log_rows import ROW_COLUMNS, audited_content, row_values
from onbook.adapters.memory.audit_trail import MemoryAuditTrail
from onbook.ports.audit import AuditedRow
from onbook.ports.stores import StoreUnavailable
from onbook.wire.audit_chain import content_sha256
from onbook.wire.signing import key_id_of
from support_audit import (
    AT,
    GATEWAY,
    STRANGER,
    TEMPLATE,
    WORKER,
    Log,
    as_owner,
    database_log,
    edit_row,
    filled,
    memory_log,
    open_up,
    own_keys,
    request,
    request_id,
)


@pytest.fixture
async def log(store_url: str | None) -> AsyncIterator[Log]:
    found = memory_log() if store_url is None else await database_log(store_url)
    yield found
    if found.engine is not None:
        await found.engine.dispose()


async def rows_of(log: Log, chain_id: str, after: int = 0) -> list[AuditedRow]:
    return [row async for row in log.trail.rows(chain_id, after=after)]


async def test_rows_come_back_in_order_as_they_were_hashed(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_trail, "BATCH", 3)
    await filled(log)
    first, second = log.chains
    found = await rows_of(log, first)
    assert [row.seq for row in found] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [row.group_end for row in found] == [1, 5, 5, 5, 5, 8, 8, 8]
    assert [row.head_signature is not None for row in found] == [
        number in (1, 5, 8) for number in range(1, 9)
    ]
    assert [row.seq for row in await rows_of(log, first, after=5)] == [6, 7, 8]
    assert await rows_of(log, first, after=8) == []
    assert await rows_of(log, "no such chain") == []
    assert [row.seq for row in await rows_of(log, second)] == [1, 2, 3, 4]
    for row, (expected, _) in zip(found[:5], map(request, range(1, 6)), strict=True):
        assert row.content == audited_content(row_values(expected))
        assert list(row.content) == list(ROW_COLUMNS)


async def test_heads_are_the_ends_of_chains(log: Log) -> None:
    assert list(await log.trail.heads()) == []
    await filled(log)
    expected = {}
    for chain_id in log.chains:
        last = (await rows_of(log, chain_id))[-1]
        expected[chain_id] = (last.seq, last.row_hash)
    assert {
        head.chain_id: (head.seq, head.row_hash) for head in await log.trail.heads()
    } == expected


async def test_one_row_and_its_texts(log: Log) -> None:
    await filled(log)
    (row, texts), (other, others) = request(3), request(9)
    found = await log.trail.row(row.request_id)
    assert found is not None
    assert (found.chain_id, found.seq, found.request_id) == (log.chains[0], 3, row.request_id)
    for unknown in ("none", "\ud800", "\x00"):
        assert await log.trail.row(unknown) is None
    names = [row.request_id, "none", "\x00", other.request_id]
    assert await log.trail.texts(names) == {row.request_id: texts, other.request_id: others}
    assert await log.trail.texts([]) == {}


async def test_the_template_and_its_event(log: Log) -> None:
    name, version = TEMPLATE.template_name, TEMPLATE.version
    found = await log.trail.template(name, version, before=AT)
    assert found is not None
    assert found.content_sha256 == TEMPLATE.content_sha256
    assert found.event is not None
    assert (found.event["action"], found.event["to_version"]) == ("created", version)
    assert found.event["template_name"] == name
    earlier = await log.trail.template(name, version, before=AT - timedelta(seconds=1))
    assert earlier is not None
    assert earlier.event is None
    assert await log.trail.template(name, 99, before=AT) is None
    assert await log.trail.template("none", 1, before=AT) is None


async def test_checkpoints_are_numbered_once(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_trail, "BATCH", 1)
    assert await log.trail.last_checkpoint() is None
    await filled(log)
    found = [item async for item in log.trail.checkpoints()]
    assert [item.number for item in found] == [1, 2]
    assert await log.trail.last_checkpoint() == found[-1]
    assert [item async for item in log.trail.checkpoints(after=1)] == found[1:]
    third = replace(found[1], number=3)
    answers = await asyncio.gather(*(log.trail.add_checkpoint(third) for _ in range(4)))
    assert sorted(answers) == [False, False, False, True]
    assert not await log.trail.add_checkpoint(found[0])


async def test_keys_are_stored_once(log: Log) -> None:
    keys = own_keys(GATEWAY, WORKER)
    await asyncio.gather(*(log.trail.add_signing_keys(keys, at=AT) for _ in range(3)))
    await log.trail.add_signing_keys(own_keys(GATEWAY, STRANGER), at=AT + timedelta(days=1))
    found = await log.trail.signing_keys()
    assert {key.owner for key in found[:2]} == {GATEWAY.owner, WORKER.owner}
    assert found[2].owner == STRANGER.owner
    for key in found:
        assert key.key_id == key_id_of(key.published.public_key)
        expected = {WORKER.owner: WORKER, GATEWAY.owner: GATEWAY, STRANGER.owner: STRANGER}
        assert key.published == expected[key.owner].published[0]
        assert key.role == ("worker" if key.owner == WORKER.owner else "gateway")


async def test_a_rotated_key_keeps_its_endorsement(log: Log) -> None:
    rotated = GATEWAY.rotated(not_before=AT + timedelta(days=1))
    await log.trail.add_signing_keys(own_keys(rotated), at=AT)
    assert [key.published for key in await log.trail.signing_keys()] == rotated.published


@pytest.mark.parametrize("store_kind", ["memory"])
async def test_an_outage_is_said_to_be_one_in_memory(log: Log) -> None:
    assert isinstance(log.trail, MemoryAuditTrail)
    log.trail.available = False
    with pytest.raises(StoreUnavailable):
        await log.trail.heads()


@pytest.mark.parametrize("store_kind", ["sqlite", "postgres"])
async def test_what_the_log_writes_is_what_the_trail_reads(log: Log) -> None:
    assert log.url is not None
    log_of_gateway = enhancement_log(log.url, lambda: GATEWAY.signer(AT))
    requests = [request(number) for number in range(1, 41)]
    await log.trail.add_signing_keys(own_keys(GATEWAY, WORKER), at=AT)
    await asyncio.gather(*(log_of_gateway.record(row, texts) for row, texts in requests))
    await log_of_gateway.close()
    await log.checkpoint()
    found, summary = await log.check()
    assert found == []
    assert (summary.rows, summary.texts, summary.chains) == (40, 40, 1)


@pytest.mark.parametrize("store_kind", ["sqlite", "postgres"])
async def test_rows_without_a_place_are_read_too(log: Log) -> None:
    await filled(log)
    assert log.url is not None
    open_up(log.url)
    edit_row(log.url, 2, "chain_id = NULL")
    edit_row(log.url, 8, "seq = NULL")
    assert [row.request_id async for row in log.trail.unchained()] == [request_id(2), request_id(8)]
    assert [row.seq for row in await rows_of(log, log.chains[0])] == [1, 3, 4, 5, 7, 8]


@pytest.mark.parametrize("store_kind", ["sqlite"])
async def test_what_sqlite_lets_in_is_read_as_it_stands(log: Log) -> None:
    await filled(log)
    assert log.url is not None
    open_up(log.url)
    before = await log.trail.row(request_id(3))
    assert before is not None
    for change in (
        "caller = CAST(caller AS BLOB)",
        "caller = CAST(x'ff' AS TEXT)",
        "cache_hit = 2",
        "attempts = 'once'",
        "execution_time_ms = 9e999",
        "created_at = replace(created_at, 'T', ' ')",
        "receipt = receipt || ' '",
        "seed = seed + 1",
    ):
        edit_row(log.url, 3, change)
        found, _ = await log.check()
        assert {(item.kind, item.seq) for item in found} >= {("row_changed", 3)}, change
        name = change.split(" = ")[0]
        stored = int(str(before.content[name])) if name == "seed" else before.content[name]
        edit_row(log.url, 3, f"{name} = ?", stored)
    assert (await log.check())[0] == []


@pytest.mark.parametrize("store_kind", ["sqlite", "postgres"])
async def test_a_row_twice_under_one_number_is_read_twice(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_trail, "BATCH", 2)
    await filled(log)
    assert log.url is not None
    open_up(log.url)
    edit_row(log.url, 3, "seq = 2")
    assert [row.seq for row in await rows_of(log, log.chains[0])] == [1, 2, 2, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("store_kind", ["sqlite", "postgres"])
async def test_a_query_for_a_chain_or_its_end_uses_the_index(
    log: Log, store_engine: AsyncEngine
) -> None:
    await filled(log)
    dialect = store_engine.dialect.name
    explain = "EXPLAIN QUERY PLAN " if dialect == "sqlite" else "EXPLAIN "
    async with store_engine.connect() as connection:
        if dialect == "postgresql":
            await connection.execute(text("SET enable_seqscan = off"))
            await connection.execute(text("SET enable_bitmapscan = off"))
        plan = await connection.execute(text(explain + str(heads_query(dialect))))
        lines = [str(row) for row in plan]
    scans = [line for line in lines if "enhancement_logs" in line or " log " in line]
    assert scans
    assert all("uq_enhancement_logs_chain" in line for line in scans), lines


async def test_a_row_has_one_digest_wherever_it_is_kept(log: Log) -> None:
    await filled(log)
    digests = [content_sha256(row.content) for row in await rows_of(log, log.chains[0])]
    expected = [
        content_sha256(audited_content(row_values(request(number)[0])))
        for number in (1, 2, 3, 4, 5, 8, 9, 10)
    ]
    assert digests == expected


PLACES = (
    "x'6162', 1",
    "x'6162', -1",
    "CAST(x'ff41' AS TEXT), 1",
    "CAST(x'ff41' AS TEXT), 'one'",
    "'a', 0",
    "'a', 1.5",
    "'a', 9007199254740992",
    "NULL, 7",
    "'', 1",
)


@pytest.mark.parametrize("store_kind", ["sqlite"])
@pytest.mark.parametrize("place", PLACES)
async def test_a_row_that_was_put_in_is_found_wherever_it_stands(log: Log, place: str) -> None:
    await filled(log)
    assert log.url is not None
    names = ", ".join(name for name in ROW_COLUMNS if name not in ("id", "request_id"))
    as_owner(
        log.url,
        f"INSERT INTO enhancement_logs (id, request_id, {names}, chain_id, seq) "  # noqa: S608 - our own
        f"SELECT 'in', 'in', {names}, {place} FROM enhancement_logs WHERE seq = 2 LIMIT 1",
    )
    # Also for the one that comes after it.
    await log.group(log.chains[0], [request(90)])
    assert await log.checkpoint() is not None
    found, _ = await log.check()
    assert "in" in {item.request_id for item in found}, found
    assert "row_not_walked" not in {item.kind for item in found}


AT_KEPT = "(SELECT at FROM kept)"
TEXTS = ("original", "messages", "raw_output", "enhanced", "salt", "created_at")


@pytest.mark.parametrize("store_kind", ["sqlite"])
async def test_bytes_among_the_texts_are_a_finding(log: Log) -> None:
    await filled(log)
    assert log.url is not None
    where = f"WHERE request_id = '{request_id(3)}'"
    for name in TEXTS:
        kept = f"CREATE TABLE kept AS SELECT {name} AS one FROM enhancement_texts {where}"  # noqa: S608 - a test's own words
        back = f"UPDATE enhancement_texts SET {name} = (SELECT one FROM kept) {where}"  # noqa: S608 - a test's own words
        for change in (f"CAST({name} AS BLOB)", f"CAST(CAST({name} AS BLOB) || x'ff' AS TEXT)"):
            as_owner(log.url, kept, f"UPDATE enhancement_texts SET {name} = {change} {where}")  # noqa: S608 - a test's own words
            found, _ = await log.check()
            assert {(item.kind, item.request_id) for item in found} == {
                ("text_digest_mismatch", request_id(3))
            }, change
            as_owner(log.url, back, "DROP TABLE kept")
    assert (await log.check())[0] == []


@pytest.mark.parametrize("store_kind", ["sqlite"])
@pytest.mark.parametrize("table", ["signing_keys", "audit_checkpoints", "enhancement_logs"])
async def test_bytes_in_any_column_are_a_finding(log: Log, table: str) -> None:
    await filled(log)
    assert log.url is not None
    open_up(log.url)
    names = {
        "signing_keys": ("public_key", "key_id", "owner", "not_before"),
        "audit_checkpoints": ("number", "created_at", "body", "signing_key_id", "signature"),
        "enhancement_logs": ("chain_id", "seq", "prev_hash", "row_hash", "head_signature"),
    }[table]
    which = "number = 2" if table == "audit_checkpoints" else "rowid = 1"
    for name in names:
        kept = f"CREATE TABLE kept AS SELECT rowid AS at, {name} AS one FROM {table} WHERE {which}"  # noqa: S608 - a test's own words
        back = f"UPDATE {table} SET {name} = (SELECT one FROM kept) WHERE rowid = {AT_KEPT}"  # noqa: S608 - a test's own words
        for change in (f"CAST({name} AS BLOB)", f"CAST(CAST({name} AS BLOB) || x'ff' AS TEXT)"):
            as_owner(log.url, kept, f"UPDATE {table} SET {name} = {change} WHERE {which}")  # noqa: S608 - a test's own words
            assert (await log.check())[0] != [], change
            as_owner(log.url, back, "DROP TABLE kept")
    assert (await log.check())[0] == []


TIMES = ("infinity", "-infinity", "0044-01-01 00:00:00+00 BC", "2026-11-23 BC", "294276-01-01")


@pytest.mark.parametrize("store_kind", ["postgres"])
@pytest.mark.parametrize("time", TIMES)
async def test_a_time_that_no_driver_knows_is_a_finding(log: Log, time: str) -> None:
    await filled(log)
    assert log.url is not None
    open_up(log.url)
    edit_row(log.url, 3, f"created_at = '{time}'")
    found, _ = await log.check()
    assert ("row_changed", 3) in {(item.kind, item.seq) for item in found}
    where = f"WHERE request_id = '{request_id(5)}'"
    as_owner(log.url, f"UPDATE enhancement_texts SET created_at = '{time}' {where}")  # noqa: S608 - a test's own words
    as_owner(log.url, f"UPDATE audit_checkpoints SET created_at = '{time}' WHERE number = 1")  # noqa: S608 - a test's own words
    as_owner(log.url, f"UPDATE signing_keys SET first_seen_at = '{time}'")  # noqa: S608 - a test's own words
    found, _ = await log.check()
    assert {("text_digest_mismatch", 5), ("checkpoint_changed", None)} <= {
        (item.kind, item.seq) for item in found
    }


@pytest.mark.parametrize("store_kind", ["sqlite", "postgres"])
async def test_events_of_templates_are_covered_as_they_are_stored(log: Log) -> None:
    await filled(log)
    assert log.url is not None
    found, summary = await log.check()
    assert found == []
    events = [event async for event in log.trail.events()]
    assert summary.template_events == len(events) > 0
    assert [event.position async for event in log.trail.events(after=events[0].position)] == [
        event.position for event in events[1:]
    ]
    triggers = "ALTER TABLE template_events DISABLE TRIGGER ALL"
    if log.engine is not None and log.engine.dialect.name == "sqlite":
        async with log.engine.connect() as connection:
            query = "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = "
            names = await connection.execute(text(f"{query}'template_events'"))
            triggers = ";".join(f"DROP TRIGGER {name}" for (name,) in names)
    change = "UPDATE template_events SET actor = 'mallory' WHERE template_name = "
    as_owner(log.url, *triggers.split(";"), f"{change}'{TEMPLATE.template_name}'")
    assert {item.kind for item in (await log.check())[0]} == {"template_event_changed"}


async def test_what_is_there_is_counted(log: Log) -> None:
    await filled(log)
    counts = await log.trail.counts()
    assert (counts.rows, counts.unchained, counts.orphaned_texts) == (12, 0, 0)
    assert await log.trail.unchained_rows() == 0
