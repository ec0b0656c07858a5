"""What a worker says of itself: who it is, what runs here, and how it is at this moment."""

from collections.abc import AsyncIterator

import msgspec
import pytest

from onbook.wire.receipt import signature_valid
from onbook.wire.signing import key_id_of, trusted_keys
from onbook.wire.worker_api import WorkerInfo
from support_worker import Bench, bench, receipt_of


@pytest.fixture
async def worker() -> AsyncIterator[Bench]:
    async with bench() as started:
        yield started


async def test_worker_info_says_what_runs_here(worker: Bench) -> None:
    for path in ("/worker/info", "/model/info"):
        info = msgspec.json.decode((await worker.http.get(path)).content, type=WorkerInfo)
        assert info.pure_inference
        assert info.public_key == worker.signer.public_key
        assert info.endpoints == ["/chat", "/enhance", "/generate"]
        assert info.purity.passed
        assert info.model.context_size == 2048
        assert [key.public_key for key in info.keys] == [info.public_key]
        assert (info.running, info.waiting, info.max_queue) == (0, 0, 8)
        assert not info.trusts_signed_requests_only
        memory = info.memory
        assert memory.rss_bytes is not None
        assert memory.peak_rss_bytes is not None
        assert 10_000_000 < memory.rss_bytes <= memory.peak_rss_bytes
    for path in ("/health", "/chat/health"):
        answer = await worker.http.get(path)
        assert (answer.status_code, answer.json()["status"]) == (200, "ok")


async def test_memory_is_read_at_the_request(worker: Bench) -> None:
    async def rss() -> int:
        return int((await worker.http.get("/worker/info")).json()["memory"]["rss_bytes"])

    before = await rss()
    held = bytearray(b"\x01") * 64_000_000
    assert await rss() > before + 50_000_000
    del held
    assert await rss() < before + 50_000_000


async def test_a_rotated_key_is_shown_and_signs(worker: Bench) -> None:
    first = (await worker.http.get("/worker/info")).json()
    worker.keys.rotate()
    info = msgspec.json.decode((await worker.http.get("/worker/info")).content, type=WorkerInfo)
    assert info.worker_id == first["worker_id"]
    assert [key.public_key for key in info.keys] == [first["public_key"], info.public_key]
    assert trusted_keys(info.keys, [first["public_key"]]) == {key.public_key for key in info.keys}
    receipt = receipt_of(await worker.post("chat", worker.asked))
    assert receipt.key_id == key_id_of(info.public_key)
    assert signature_valid(receipt, info.public_key)
    assert not signature_valid(receipt, first["public_key"])
