import asyncio
from pathlib import Path

import pytest

from onbook.adapters.database.audit_trail import SqlAuditTrail
from onbook.adapters.files.signing_keys import GATEWAY_KEYS_FILE, FollowedRing, save_ring
from onbook.adapters.inference.in_process import InProcessWorker
from onbook.adapters.memory.clock import FixedClock
from onbook.bootstrap import build_service, prepare_database
from onbook.bootstrap.checkpointing import AuditKeeper
from onbook.ports.stores import StoreUnavailable
from support import FakeWorker, completion, embedded_worker, settings_for
from support_audit import AT, GATEWAY, STRANGER, Log, memory_log, request

INTERVAL_S = 77.0


@pytest.fixture
def log() -> Log:
    return memory_log()


@pytest.fixture
def keeper(log: Log, tmp_path: Path) -> AuditKeeper:
    path = tmp_path / GATEWAY_KEYS_FILE
    save_ring(path, GATEWAY)
    signing = FollowedRing(path, GATEWAY, now=lambda: AT)
    worker = FakeWorker(lambda _endpoint, _request: completion("x"))
    worker.worker_id = "worker-elsewhere"
    worker.public_keys = frozenset({STRANGER.published[0].public_key})
    return AuditKeeper(settings_for(tmp_path), log.trail, signing, worker, FixedClock(AT))


async def test_the_keys_of_the_gateway_and_of_its_worker_are_kept(
    log: Log, keeper: AuditKeeper
) -> None:
    await keeper.note_keys()
    assert [(key.role, key.owner) for key in await log.trail.signing_keys()] == [
        ("gateway", GATEWAY.owner),
        ("worker", "worker-elsewhere"),
    ]


async def test_a_workers_keys_are_kept_with_their_endorsements(
    log: Log, keeper: AuditKeeper
) -> None:
    ring = STRANGER.rotated(not_before=AT)
    worker = keeper._worker
    assert isinstance(worker, FakeWorker)
    worker.public_keys = frozenset({key.public_key for key in ring.published})
    worker.published = ring.published
    await keeper.note_keys()
    stored = {key.published.public_key: key.published for key in await log.trail.signing_keys()}
    for key in ring.published:
        assert stored[key.public_key] == key


async def test_a_checkpoint_needs_something_new(log: Log, keeper: AuditKeeper) -> None:
    await keeper.write()
    assert await log.trail.last_checkpoint() is None
    await log.group(log.chain(), [request(1)])
    await keeper.write()
    await keeper.write_last()
    last = await log.trail.last_checkpoint()
    assert last is not None
    assert last.number == 1


async def test_an_outage_leaves_it_for_the_next_time(
    log: Log, keeper: AuditKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    await log.group(log.chain(), [request(1)])
    monkeypatch.setattr(log.trail, "available", False)
    await keeper.note_keys()
    await keeper.write()
    with pytest.raises(StoreUnavailable):
        await log.trail.last_checkpoint()
    monkeypatch.setattr(log.trail, "available", True)
    await keeper.write_last()
    assert await log.trail.last_checkpoint() is not None
    assert len(await log.trail.signing_keys()) == 2


async def test_a_gateway_writes_one_at_each_interval_and_one_at_its_end(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, checkpoint_interval_s=INTERVAL_S)
    await prepare_database(settings)
    local = await asyncio.to_thread(embedded_worker, settings)
    service = build_service(settings, InProcessWorker(local.app, local.app.info, key=local.app.key))
    due: asyncio.Queue[None] = asyncio.Queue()
    waiting = asyncio.Event()

    async def pause(seconds: float) -> None:
        if seconds != INTERVAL_S:
            await asyncio.get_running_loop().create_future()
        waiting.set()
        await due.get()
        waiting.clear()

    service.pause = pause
    trail = service.audit._trail
    assert isinstance(trail, SqlAuditTrail)
    await service.start()
    try:
        for number in (1, 2):
            await service.log.record(*request(number))
            await waiting.wait()
            waiting.clear()
            due.put_nowait(None)
            # It waits again once it has written.
            await waiting.wait()
            last = await trail.last_checkpoint()
            assert last is not None
            assert last.number == number
        await service.log.record(*request(3))
    finally:
        await service.close()
        await local.close()
    last = await trail.last_checkpoint()
    assert last is not None
    assert last.number == 3
    await service.dispose()
