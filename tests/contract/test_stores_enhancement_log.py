import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onbook.adapters.database.enhancement_log import enhancement_log
from onbook.adapters.database.errors import DatabaseUnusable
from onbook.adapters.database.postgres_log import NUL_PICTURE
from onbook.adapters.errors import AlreadyRecorded, RowRefused
from onbook.ports.stores import EnhancementLog, EnhancementRow, EnhancementTexts, StoreUnavailable

MakeRow = Callable[..., EnhancementRow]
MakeTexts = Callable[..., EnhancementTexts]
Recorded = Any

in_databases = pytest.mark.parametrize("store_kind", ["sqlite", "postgres"])


def _kept(text: str, store_kind: str) -> str:
    """Return what the log keeps of ``text``: Postgres stores no U+0000 in a text."""
    return text.replace("\x00", NUL_PICTURE) if store_kind == "postgres" else text


async def test_a_row_and_its_texts_come_back_as_they_were(
    log: EnhancementLog, recorded: Recorded, make_row: MakeRow, make_texts: MakeTexts
) -> None:
    row = make_row(seed=2**31 - 1, cache_hit=False, token_count=None)
    texts = make_texts(row, original="👩‍🚀 汉字 é", enhanced="x" * 1_000_000)
    bare = make_row(template_name=None, cache_hit=None)
    await log.record(row, texts)
    await log.record(bare, None)
    assert list(await recorded.rows(log)) == [row, bare]
    assert await recorded.texts(log) == {row.request_id: texts}


async def test_two_hundred_at_once_are_all_there_in_order(
    log: EnhancementLog, recorded: Recorded, make_row: MakeRow, make_texts: MakeTexts
) -> None:
    rows = [make_row() for _ in range(200)]
    await asyncio.gather(*(log.record(row, make_texts(row)) for row in rows))
    assert list(await recorded.rows(log)) == rows
    assert len(await recorded.texts(log)) == 200


async def test_a_request_is_recorded_once(
    log: EnhancementLog, recorded: Recorded, make_row: MakeRow
) -> None:
    row = make_row()
    await log.record(row, None)
    for twin in (row, make_row(request_id=row.request_id)):
        with pytest.raises(AlreadyRecorded):
            await log.record(twin, None)
    assert list(await recorded.rows(log)) == [row]


async def test_a_duplicate_fails_alone_in_its_group(
    log: EnhancementLog, recorded: Recorded, make_row: MakeRow
) -> None:
    rows = [make_row() for _ in range(20)]
    rows[7] = make_row(request_id=rows[3].request_id)
    outcomes = await asyncio.gather(
        *(log.record(row, None) for row in rows), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes if outcome] == [AlreadyRecorded]
    assert isinstance(outcomes[7], AlreadyRecorded)
    assert list(await recorded.rows(log)) == rows[:7] + rows[8:]


async def test_a_closed_log_takes_nothing(log: EnhancementLog, make_row: MakeRow) -> None:
    await log.close()
    with pytest.raises(StoreUnavailable):
        await log.record(make_row(), None)
    await log.close()


@in_databases
@pytest.mark.parametrize(
    "bad", [{"seed": 2**63}, {"caller": "\ud800"}, {"caller": None}, {"receipt": object()}]
)
async def test_a_row_that_cannot_be_stored_fails_alone(
    log: EnhancementLog,
    recorded: Recorded,
    make_row: MakeRow,
    bad: dict[str, object],
) -> None:
    rows = [make_row() for _ in range(5)]
    rows[2] = make_row(**bad)
    outcomes = await asyncio.gather(
        *(log.record(row, None) for row in rows), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [
        type(None),
        type(None),
        RowRefused,
        type(None),
        type(None),
    ]
    assert list(await recorded.rows(log)) == rows[:2] + rows[3:]


@in_databases
async def test_texts_that_are_there_already_do_not_pass_for_the_row(
    log: EnhancementLog, recorded: Recorded, make_row: MakeRow, make_texts: MakeTexts
) -> None:
    first, second = make_row(), make_row()
    await log.record(first, make_texts(second))
    with pytest.raises(RowRefused) as caught:
        await log.record(second, make_texts(second))
    assert not isinstance(caught.value, AlreadyRecorded)
    assert list(await recorded.rows(log)) == [first]


async def test_a_caller_that_gives_up_harms_nobody(
    log: EnhancementLog, recorded: Recorded, make_row: MakeRow
) -> None:
    rows = [make_row() for _ in range(50)]
    tasks = [asyncio.create_task(log.record(row, None)) for row in rows]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert outcomes[1::2] == [None] * 25
    kept = {row.request_id for row in await recorded.rows(log)}
    assert kept >= {row.request_id for row in rows[1::2]}


@in_databases
async def test_close_waits_for_what_is_under_way(
    log: EnhancementLog, recorded: Recorded, make_row: MakeRow
) -> None:
    tasks = [asyncio.create_task(log.record(make_row(), None)) for _ in range(600)]
    await asyncio.sleep(0)
    await log.close()
    await asyncio.gather(*tasks)
    assert len(await recorded.rows(log)) == 600


async def test_a_nul_character_costs_no_row(
    log: EnhancementLog,
    store_kind: str,
    recorded: Recorded,
    make_row: MakeRow,
    make_texts: MakeTexts,
) -> None:
    row = make_row(worker_id="w\x00", request_id="r\x00")
    texts = make_texts(row, raw_output="\x00 a\x00", enhanced=None)
    await log.record(row, texts)
    with pytest.raises(AlreadyRecorded):
        await log.record(row, texts)
    (found,) = await recorded.rows(log)
    assert found.worker_id == _kept("w\x00", store_kind)
    (kept,) = (await recorded.texts(log)).values()
    assert kept.raw_output == _kept("\x00 a\x00", store_kind)
    assert kept.request_id == found.request_id


@in_databases
async def test_a_cancelled_callers_row_is_committed_all_the_same(
    log: EnhancementLog, recorded: Recorded, make_row: MakeRow
) -> None:
    rows = [make_row() for _ in range(10)]
    tasks = [asyncio.create_task(log.record(row, None)) for row in rows]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await log.close()
    assert list(await recorded.rows(log)) == rows


@in_databases
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(st.characters(exclude_categories=["Cs"])),
    number=st.integers(0, 2**63 - 1),
    fraction=st.floats(0, 1e9),
    flag=st.none() | st.booleans(),
)
async def test_any_value_comes_back(
    log: EnhancementLog,
    store_kind: str,
    recorded: Recorded,
    make_row: MakeRow,
    make_texts: MakeTexts,
    text: str,
    number: int,
    fraction: float,
    flag: bool | None,  # noqa: FBT001 - drawn by hypothesis
) -> None:
    row = make_row(
        caller=text, decision=text, seed=number, execution_time_ms=fraction, cache_hit=flag
    )
    await log.record(row, make_texts(row, original=text))
    kept = _kept(text, store_kind)
    assert replace(row, caller=kept, decision=kept) in await recorded.rows(log)
    assert (await recorded.texts(log))[row.request_id].original == kept


def test_a_url_that_is_not_right_is_refused_at_once() -> None:
    for url in ("mysql://secret@host/name", "postgresql://u:secret@host:port/name"):
        with pytest.raises(DatabaseUnusable) as caught:
            enhancement_log(url)
        assert "secret" not in str(caught.value)
