"""What a gateway knows of a worker elsewhere: whose keys it trusts, and what a refusal means."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec
import pytest
import structlog

from onbook.adapters.inference.answers import completion_from
from onbook.adapters.inference.in_process import InProcessWorker
from onbook.adapters.inference.known_keys import KnownWorker
from onbook.adapters.inference.quarantine import WatchedWorker
from onbook.adapters.inference.remote_worker import RemoteWorker
from onbook.adapters.memory.clock import FixedClock
from onbook.domain.errors import OnbookError, PurityViolation, WorkerUnavailable
from onbook.wire.http_signatures import RequestVerifier
from onbook.wire.receipt import signature_valid
from onbook.wire.worker_api import InferenceRequest, Message, WorkerInfo
from support_worker import Bench, HeldKeys, bench, over_loopback

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

KEY = "worker-key-0123456789"
REQUEST = InferenceRequest(messages=[Message("user", "a cat")])


class Watched:
    """A worker whose routes are counted, and whose answers about itself can be held back."""

    def __init__(self, worker: Bench) -> None:
        self._app = worker.app
        self.paths: list[str] = []
        self.shows_info = True

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        self.paths.append(scope["path"])
        if scope["path"] == "/worker/info" and not self.shows_info:
            await send({"type": "http.response.start", "status": 500, "headers": []})
            await send({"type": "http.response.body", "body": b"<html>"})
            return
        await self._app(scope, receive, send)

    def asked_for_info(self) -> int:
        return self.paths.count("/worker/info")


@asynccontextmanager
async def reached(
    worker: Bench, *, public_keys: tuple[str, ...] = ()
) -> AsyncIterator[tuple[RemoteWorker, Watched]]:
    watched = Watched(worker)
    async with over_loopback(watched) as url:
        remote = RemoteWorker(url, key=None, public_keys=public_keys)
        try:
            yield remote, watched
        finally:
            await remote.close()


async def _signed_by(remote: RemoteWorker) -> bool:
    """Tell whether the receipt of one request is signed with a key that is trusted after it."""
    completion = await remote.infer("chat", REQUEST, timeout_s=5)
    assert completion.receipt is not None
    return any(signature_valid(completion.receipt, key) for key in remote.public_keys)


async def test_the_first_contact_shows_who_it_is() -> None:
    async with bench() as worker, reached(worker) as (remote, watched):
        assert (remote.worker_id, remote.public_keys) == (None, frozenset())
        assert await remote.ready()
        assert remote.worker_id == worker.keys.ring.owner
        assert remote.public_keys == {worker.signer.public_key}
        assert await remote.ready()
        assert watched.asked_for_info() == 1


async def test_a_worker_that_was_never_looked_at_is_known_by_its_first_receipt() -> None:
    async with bench() as worker, reached(worker) as (remote, _):
        assert await _signed_by(remote)
        assert remote.worker_id == worker.keys.ring.owner


async def test_a_pinned_worker_is_met_by_its_first_receipt_too() -> None:
    async with bench() as worker:
        pinned = (worker.signer.public_key,)
        async with reached(worker, public_keys=pinned) as (remote, watched):
            completion = await remote.infer("chat", REQUEST, timeout_s=5)
            assert completion.receipt is not None
            # What the receipt is held against is there before it is checked.
            assert remote.worker_id == worker.keys.ring.owner
            assert remote.promise is not None
            assert remote.promise.rendering == completion.receipt.rendering
            await remote.infer("chat", REQUEST, timeout_s=5)
            assert watched.asked_for_info() == 1


async def test_a_wrong_worker_key_is_noticed_before_the_first_request_and_forgotten_after() -> None:
    async with bench(key=KEY) as worker, over_loopback(worker.app) as url:
        remote = RemoteWorker(url, key="another-worker-key", public_keys=())
        watched = WatchedWorker(remote, quarantine_s=60, clock=FixedClock())
        assert not await watched.ready()
        standing = watched.standing()
        assert (standing.healthy, standing.usable, standing.state) == (True, False, "refused")
        remote._headers["Authorization"] = f"Bearer {KEY}"
        assert await watched.ready()
        assert watched.standing().state == "ok"
        await remote.close()


async def test_a_refused_signature_is_shown_until_one_is_taken() -> None:
    gateway, stranger = HeldKeys(), HeldKeys()
    verifier = RequestVerifier(lambda: [gateway.signer().public_key], since=0)
    async with bench(verifier=verifier) as worker, over_loopback(worker.app) as url:
        remote = RemoteWorker(url, key=None, public_keys=(), signer=stranger.signer)
        watched = WatchedWorker(remote, quarantine_s=60, clock=FixedClock())
        assert await watched.ready()
        with structlog.testing.capture_logs() as logs:
            for _ in range(3):
                with pytest.raises(WorkerUnavailable, match="signature") as caught:
                    await watched.infer("chat", REQUEST, timeout_s=5)
        assert "ONBOOK_WORKER_TRUST_KEYS" in caught.value.suggested_action
        assert [(line["event"], line["reason"], line["key_id"]) for line in logs] == [
            ("worker.caller_refused", "unknown_key", stranger.signer().key_id)
        ]
        # To be healthy is no sign that the signature is taken.
        assert not await watched.ready()
        assert watched.standing().state == "refused"
        remote._signer = gateway.signer
        await watched.infer("chat", REQUEST, timeout_s=5)
        assert watched.standing().state == "ok"
        await remote.close()


async def test_a_worker_whose_key_nobody_endorses_is_untrusted_and_nobody() -> None:
    named = HeldKeys().signer().public_key
    async with bench() as worker, reached(worker, public_keys=(named,)) as (remote, _):
        assert await remote.ready()
        assert remote.trouble == "untrusted"
        # What a stranger says of itself is not what the named worker is held to.
        assert (remote.worker_id, remote.promise) == (None, None)


async def test_a_rotated_gateway_is_let_in_by_a_worker_that_trusts_its_first_key() -> None:
    gateway = HeldKeys()
    first = gateway.signer().public_key
    verifier = RequestVerifier(lambda: [first], since=0)
    async with bench(verifier=verifier) as worker, over_loopback(worker.app) as url:
        remote = RemoteWorker(
            url,
            key=None,
            public_keys=(),
            signer=gateway.signer,
            shown=lambda: gateway.published,
        )
        for _ in range(3):
            assert (await remote.infer("chat", REQUEST, timeout_s=5)).text == "a cat"
            gateway.rotate()
        await remote.close()


@pytest.mark.parametrize(
    ("reason", "action"),
    [("expired", "clocks"), ("replayed", "between"), ("unknown_key", "keys signing list")],
)
def test_a_refused_signature_says_what_to_look_at(reason: str, action: str) -> None:
    body = json.dumps({"details": {"signature": reason}}).encode()
    with pytest.raises(WorkerUnavailable) as caught:
        completion_from("chat", 401, body, response_time_ms=1)
    assert action in caught.value.suggested_action


async def test_a_rotated_key_is_followed_at_the_first_receipt_that_names_it() -> None:
    async with bench() as worker, reached(worker) as (remote, watched):
        await remote.ready()
        first = worker.signer.public_key
        worker.keys.rotate()
        assert await _signed_by(remote)
        assert remote.public_keys == {first, worker.signer.public_key}
        assert await _signed_by(remote)
        assert watched.asked_for_info() == 2


async def test_receipts_that_come_at_once_share_one_look() -> None:
    async with bench() as worker, reached(worker) as (remote, watched):
        await remote.ready()
        worker.keys.rotate()
        assert all(await asyncio.gather(*(_signed_by(remote) for _ in range(6))))
        assert watched.asked_for_info() == 2


async def test_a_pinned_key_is_followed_over_two_rotations_and_an_older_one_too() -> None:
    async with bench() as worker:
        pinned = worker.signer.public_key
        for _ in range(2):
            worker.keys.rotate()
        async with reached(worker, public_keys=(pinned,)) as (remote, _):
            assert await _signed_by(remote)
            assert len(remote.public_keys) == 3


async def test_a_swapped_key_is_not_followed() -> None:
    async with bench() as worker, reached(worker) as (remote, _):
        await remote.ready()
        known = remote.public_keys
        worker.keys.ring = HeldKeys().ring
        assert not await _signed_by(remote)
        await remote.ready()
        assert remote.public_keys == known


async def test_a_key_that_is_not_the_pinned_one_is_not_taken() -> None:
    pinned = HeldKeys().signer().public_key
    async with bench() as worker, reached(worker, public_keys=(pinned,)) as (remote, _):
        await remote.ready()
        assert not await _signed_by(remote)
        assert remote.public_keys == {pinned}


async def test_a_worker_that_does_not_show_its_keys_is_asked_again() -> None:
    async with bench() as worker, reached(worker) as (remote, watched):
        watched.shows_info = False
        assert await remote.ready()
        assert not await _signed_by(remote)
        watched.shows_info = True
        assert await _signed_by(remote)


async def test_the_embedded_worker_is_followed_too() -> None:
    async with bench() as worker:
        embedded = InProcessWorker(worker.app, worker.app.info, key=None)
        worker.keys.rotate()
        completion = await embedded.infer("chat", REQUEST, timeout_s=5)
        assert completion.receipt is not None
        assert signature_valid(completion.receipt, worker.signer.public_key)
        assert worker.signer.public_key in embedded.public_keys


def _info(worker: Bench, **changes: object) -> WorkerInfo:
    return msgspec.structs.replace(worker.app.info, **changes)


async def test_what_a_worker_said_first_of_itself_stays() -> None:
    async with bench() as worker:
        known = KnownWorker(())
        known.learn(_info(worker))
        model = msgspec.structs.replace(worker.app.info.model, file_sha256="e" * 64)
        known.learn(_info(worker, worker_id="another", model=model))
        assert (known.worker_id, known.model_sha256) == (worker.keys.ring.owner, None)


async def test_keys_that_the_worker_has_lost_stay_trusted_and_vouch_for_later_ones() -> None:
    async with bench() as worker:
        known = KnownWorker(())
        for _ in range(3):
            known.learn(_info(worker))
            worker.keys.rotate()
        # Of the chain only the last link is shown; the one before it is known from before.
        known.learn(_info(worker, keys=worker.keys.published[3:]))
        assert known.public_keys == {key.public_key for key in worker.keys.published}


async def test_a_list_of_keys_without_end_is_not_walked_to_its_end() -> None:
    async with bench() as worker:
        known = KnownWorker(())
        first = worker.keys.published
        worker.keys.rotate()
        info = _info(worker, public_key=first[0].public_key, keys=first * 512)
        known.learn(info)
        known.learn(_info(worker, keys=[*first * 512, *worker.keys.published]))
        assert known.public_keys == {first[0].public_key}


def _error(
    status: int, *, code: str = "X", details: object = None, retry_after: str | None = None
) -> OnbookError:
    body = json.dumps({"error": "SECRET", "error_code": code, "details": details}).encode()
    with pytest.raises(OnbookError) as caught:
        completion_from("chat", status, body, response_time_ms=1, retry_after=retry_after)
    assert "SECRET" not in str(caught.value)
    assert "SECRET" not in str(caught.value.details)
    return caught.value


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("header", "expected"),
    [("7", 7), (" 7 ", 7), (None, None), ("soon", None), ("1" * 400, None), ("-1", None)],
)
def test_a_busy_worker_says_when_to_come_back(
    status: int, header: str | None, expected: int | None
) -> None:
    error = _error(status, retry_after=header)
    assert isinstance(error, WorkerUnavailable)
    wanted = {"status": status} | ({} if expected is None else {"retry_after_s": expected})
    assert error.details == wanted


def test_a_worker_that_found_a_violation_itself_is_a_violation() -> None:
    assert isinstance(_error(502, code="PURITY_VIOLATION"), PurityViolation)
    assert isinstance(_error(502, code="INTERNAL"), WorkerUnavailable)


def test_a_refused_request_says_which_of_our_fields_and_counts() -> None:
    details = {
        "fields": ["min_p", "SECRET", 3],
        "tokens_needed": 4096,
        "context_size": "SECRET",
        "SECRET": 1,
    }
    error = _error(400, details=details)
    assert error.details == {"status": 400, "fields": ["min_p"], "tokens_needed": 4096}
    assert _error(400).details == {"status": 400}
    assert _error(400, details={"fields": "SECRET"}).details == {"status": 400}


def test_a_key_and_a_signature_that_are_refused_are_told_apart() -> None:
    assert "ONBOOK_WORKER_KEY" in _error(401).suggested_action
    refused = _error(401, details={"signature": "unknown_key"})
    assert "ONBOOK_WORKER_TRUST_KEYS" in refused.suggested_action


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff", b"[" * 100_000, b'{"details":1}'])
@pytest.mark.parametrize("status", [400, 401, 429, 500, 502, 503])
def test_an_error_page_of_anyone_is_an_unavailable_worker(body: bytes, status: int) -> None:
    with pytest.raises(WorkerUnavailable):
        completion_from("chat", status, body, response_time_ms=1)
