"""The chain of the audit log: whatever happens to rows and commits, it is whole."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from onbook.adapters.database.enhancement_log import enhancement_log
from onbook.adapters.database.log_rows import ROW_COLUMNS, audited_content, content_digest
from onbook.adapters.memory.enhancement_log import MemoryEnhancementLog
from onbook.ports.stores import EnhancementLog, EnhancementRow, StoreUnavailable
from onbook.wire.audit_chain import content_sha256
from onbook.wire.canonical import CanonicalizationError
from onbook.wire.signing import Signer, new_ring
from support_chain import SIGNER, audited_rows, signer, sound

MakeRow = Callable[..., EnhancementRow]
MakeLog = Callable[..., Any]
in_databases = pytest.mark.parametrize("store_kind", ["sqlite", "postgres"])


@pytest.fixture
async def make_log(store_url: str | None) -> AsyncIterator[MakeLog]:
    """Makes logs of one store, each with a chain of its own; signed unless told otherwise."""
    logs: list[EnhancementLog] = []

    def make(source: Callable[[], Signer] | None = signer) -> EnhancementLog:
        made = (
            MemoryEnhancementLog(source)
            if store_url is None
            else enhancement_log(store_url, signer=source)
        )
        logs.append(made)
        return made

    yield make
    for log in logs:
        await log.close()


async def test_rows_are_chained_in_the_order_of_their_commits(
    make_log: MakeLog, store_engine: AsyncEngine | None, make_row: MakeRow
) -> None:
    log = make_log()
    rows = [make_row() for _ in range(300)]
    await asyncio.gather(*(log.record(row, None) for row in rows[:200]))
    await log.record(rows[200], None)
    await asyncio.gather(*(log.record(row, None) for row in rows[201:]))
    stored = await audited_rows(log, store_engine)
    groups = sound(stored)
    assert {row.chain_id for row in stored} == {log.chain_id}
    assert [row.request_id for row in stored] == [row.request_id for row in rows]
    if store_engine is not None:
        # One signature for many rows: that is what makes it cheap.
        assert len(groups) < 20


async def test_more_rows_than_a_group_holds(
    make_log: MakeLog, store_engine: AsyncEngine | None, make_row: MakeRow
) -> None:
    log = make_log()
    await asyncio.gather(*(log.record(make_row(), None) for _ in range(600)))
    groups = sound(await audited_rows(log, store_engine))
    assert sum(groups) == 600
    assert max(groups) <= 256


async def test_without_a_key_rows_are_chained_and_not_signed(
    make_log: MakeLog, store_engine: AsyncEngine | None, make_row: MakeRow
) -> None:
    log = make_log(None)
    await asyncio.gather(*(log.record(make_row(), None) for _ in range(5)))
    sound(await audited_rows(log, store_engine), keys=())


async def test_a_rotated_key_signs_from_the_next_group_on(
    make_log: MakeLog, store_engine: AsyncEngine | None, make_row: MakeRow
) -> None:
    row = make_row()
    ring = new_ring("gw", at=row.created_at)
    rotated = ring.rotated(not_before=row.created_at)
    rings = iter([ring, rotated])
    log = make_log(lambda: next(rings).signer(row.created_at))
    for _ in range(2):
        await log.record(make_row(), None)
    stored = await audited_rows(log, store_engine)
    sound(stored, keys=[key.public_key for key in rotated.published])
    assert stored[0].signing_key_id != stored[1].signing_key_id


async def test_a_head_that_cannot_be_signed_is_not_committed(
    make_log: MakeLog, store_engine: AsyncEngine | None, make_row: MakeRow
) -> None:
    broken = True

    def failing() -> Signer:
        if broken:
            raise OSError("secret/path")
        return SIGNER

    log = make_log(failing)
    row = make_row()
    with pytest.raises(StoreUnavailable, match=r"cannot be signed \(OSError\)"):
        await log.record(row, None)
    assert await audited_rows(log, store_engine) == []
    broken = False
    await log.record(row, None)
    sound(await audited_rows(log, store_engine))


async def test_a_refused_row_leaves_no_hole(
    make_log: MakeLog, store_engine: AsyncEngine | None, make_row: MakeRow
) -> None:
    log = make_log()
    rows = [make_row() for _ in range(40)]
    rows[7] = make_row(request_id=rows[3].request_id)
    rows[8] = make_row(caller="\ud800")
    rows[39] = make_row(request_id=rows[0].request_id)
    outcomes = await asyncio.gather(
        *(log.record(row, None) for row in rows), return_exceptions=True
    )
    assert [number for number, outcome in enumerate(outcomes) if outcome] == [7, 8, 39]
    stored = await audited_rows(log, store_engine)
    groups = sound(stored)
    kept = [row for number, row in enumerate(rows) if number not in (7, 8, 39)]
    assert [row.request_id for row in stored] == [row.request_id for row in kept]
    if store_engine is not None:
        # Found in halves, so that most rows still share their commits.
        assert len(groups) < 20


@in_databases
async def test_a_cancelled_callers_row_is_in_the_chain(
    make_log: MakeLog, store_engine: AsyncEngine, make_row: MakeRow
) -> None:
    log = make_log()
    tasks = [asyncio.create_task(log.record(make_row(), None)) for _ in range(20)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await log.close()
    assert sum(sound(await audited_rows(log, store_engine))) == 20


@in_databases
async def test_each_log_has_a_chain_of_its_own(
    make_log: MakeLog, store_engine: AsyncEngine, make_row: MakeRow
) -> None:
    before = make_log()
    await before.record(make_row(), None)
    await before.close()
    # After a restart, and two processes at once.
    logs = [make_log(), make_log()]
    await asyncio.gather(*(log.record(make_row(), None) for log in logs for _ in range(50)))
    stored = await audited_rows(before, store_engine)
    chains = {log.chain_id for log in (before, *logs)}
    assert len(chains) == 3
    sizes = [sum(sound([row for row in stored if row.chain_id == chain])) for chain in chains]
    assert sorted(sizes) == [1, 50, 50]


@in_databases
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    words=st.text(st.characters(exclude_categories=["Cs"])),
    number=st.integers(-(2**63), 2**63 - 1) | st.integers(2**53 - 2, 2**53 + 2),
    fraction=st.floats(allow_nan=False, allow_infinity=False),
    flag=st.none() | st.booleans(),
)
async def test_what_is_read_back_has_the_digest_that_was_chained(
    make_log: MakeLog,
    store_engine: AsyncEngine,
    make_row: MakeRow,
    words: str,
    number: int,
    fraction: float,
    flag: bool | None,  # noqa: FBT001 - drawn by hypothesis
) -> None:
    log = make_log()
    row = make_row(
        caller=words, output_steps=words, seed=number, execution_time_ms=fraction, cache_hit=flag
    )
    await log.record(row, None)
    assert sound((await audited_rows(log, store_engine))[-1:]) == [1]


_CELLS = st.none() | st.booleans() | st.text() | st.integers(-(2**70), 2**70) | st.floats()


@given(st.lists(_CELLS, min_size=len(ROW_COLUMNS), max_size=len(ROW_COLUMNS)).map(tuple))
def test_the_quick_digest_is_that_of_the_canonical_form(values: tuple[object, ...]) -> None:
    try:
        expected = content_sha256(audited_content(values))
    except CanonicalizationError:
        with pytest.raises(CanonicalizationError):
            content_digest(values)
    else:
        assert content_digest(values) == expected


@in_databases
async def test_a_lost_tail_shows(
    make_log: MakeLog, store_engine: AsyncEngine, make_row: MakeRow
) -> None:
    log = make_log()
    for _ in range(4):
        await log.record(make_row(), None)
    first = await audited_rows(log, store_engine)
    sound(first)
    async with store_engine.begin() as connection:
        if store_engine.dialect.name == "sqlite":
            await connection.exec_driver_sql("DROP TRIGGER enhancement_logs_refuse_delete")
        else:
            await connection.exec_driver_sql("ALTER TABLE enhancement_logs DISABLE TRIGGER USER")
        await connection.execute(text("DELETE FROM enhancement_logs WHERE seq > 2"))
    await log.record(make_row(), None)
    after = await audited_rows(log, store_engine)
    assert [row.seq for row in after] == [1, 2, 5]
    assert after[-1].prev_hash == first[-1].row_hash


@in_databases
async def test_a_strangers_row_in_the_next_place_keeps_nobody_out(
    make_log: MakeLog, store_engine: AsyncEngine, make_row: MakeRow
) -> None:
    log = make_log()
    await log.record(make_row(), None)
    left = log.chain_id
    async with store_engine.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO enhancement_logs (id, request_id, created_at, function, caller,"
                " content_mode, attempts, execution_time_ms, integrity_status, prompt_sha256,"
                " chain_id, seq) SELECT 'x', 'x', created_at, function, caller, content_mode,"
                " attempts, execution_time_ms, integrity_status, prompt_sha256, chain_id, 2"
                " FROM enhancement_logs"
            )
        )
    await asyncio.gather(*(log.record(make_row(), None) for _ in range(20)))
    assert log.chain_id != left
    stored = await audited_rows(log, store_engine)
    assert sum(sound([row for row in stored if row.chain_id == log.chain_id])) == 20
    assert [row.seq for row in stored if row.chain_id == left] == [1, 2]
