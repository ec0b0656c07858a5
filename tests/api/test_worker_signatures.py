"""A worker that takes orders from its gateways only, called by the gateway's own client."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import httpx
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from onbook.adapters.inference.in_process import InProcessWorker
from onbook.adapters.inference.remote_worker import RemoteWorker
from onbook.domain.errors import WorkerUnavailable
from onbook.wire.http_signatures import ReplayCache, RequestVerifier, signed_headers
from onbook.wire.signing import Signer, signer_of
from onbook.wire.worker_api import InferenceRequest, Message
from support_worker import Bench, HeldKeys, RawCall, ScriptedEngine, bench, over_loopback

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

KEY = "worker-key-0123456789"
REQUEST = InferenceRequest(messages=[Message("user", "a cat")])
BODY = msgspec.json.encode(REQUEST)
STRANGER = signer_of(Ed25519PrivateKey.generate())


@asynccontextmanager
async def guarded(
    gateway: HeldKeys, *, key: str | None = None, replays: ReplayCache | None = None
) -> AsyncIterator[Bench]:
    """Give a worker that trusts every key of ``gateway``'s ring."""
    verifier = RequestVerifier(
        lambda: [key.public_key for key in gateway.published],
        since=time.time() - 3600,
        replays=replays,
    )
    async with bench(key=key, verifier=verifier) as worker:
        yield worker


@pytest.fixture
def gateway() -> HeldKeys:
    return HeldKeys()


def _headers(
    signer: Signer, *, path: str = "/chat", body: bytes = BODY, late_s: float = 0
) -> dict[str, str]:
    return {
        "Content-Type": "application/json",
        **signed_headers(
            signer,
            method="POST",
            path=path,
            content_type="application/json",
            body=body,
            now=time.time() - late_s,
        ),
    }


async def _refused(answer: httpx.Response, reason: str) -> None:
    body = answer.json()
    assert (answer.status_code, body["error_code"]) == (401, "AUTH_REQUIRED")
    assert body["details"] == {"signature": reason}
    assert body["suggested_action"].endswith(".")


async def test_the_gateways_clients_are_let_in(gateway: HeldKeys) -> None:
    async with guarded(gateway) as worker:
        embedded = InProcessWorker(worker.app, worker.app.info, key=None, signer=gateway.signer)
        for _ in range(2):
            completion = await embedded.infer("chat", REQUEST, timeout_s=5)
            assert completion.text == "a cat"
        async with over_loopback(worker.app) as url:
            remote = RemoteWorker(url, key=None, public_keys=(), signer=gateway.signer)
            assert await remote.ready()
            for endpoint in ("chat", "enhance", "generate"):
                completion = await remote.infer(endpoint, REQUEST, timeout_s=5)
                assert completion.text == "a cat"
            await remote.close()
        info = (await worker.http.get("/worker/info")).json()
        assert info["trusts_signed_requests_only"] is True


@pytest.mark.parametrize("signer", [None, lambda: STRANGER])
async def test_other_clients_are_not_and_the_gateway_says_what_to_do(
    gateway: HeldKeys, signer: Callable[[], Signer] | None
) -> None:
    async with guarded(gateway) as worker, over_loopback(worker.app) as url:
        remote = RemoteWorker(url, key=None, public_keys=(), signer=signer)
        embedded = InProcessWorker(worker.app, worker.app.info, key=None, signer=signer)
        for client in (remote, embedded):
            with pytest.raises(WorkerUnavailable) as caught:
                await client.infer("chat", REQUEST, timeout_s=5)
            assert "ONBOOK_WORKER_TRUST_KEYS" in caught.value.suggested_action
        await remote.close()
        assert worker.outcomes("chat", "AUTH_REQUIRED") == 2
        reason = "unsigned" if signer is None else "unknown_key"
        refused = worker.registry.get_sample_value(
            "onbook_worker_refused_signatures_total", {"reason": reason}
        )
        assert refused == 2


async def test_health_and_info_need_no_signature(gateway: HeldKeys) -> None:
    async with guarded(gateway) as worker:
        for path in ("/health", "/chat/health", "/worker/info", "/model/info", "/metrics"):
            assert (await worker.http.get(path)).status_code == 200


async def test_where_both_are_asked_for_both_are_needed(gateway: HeldKeys) -> None:
    bearer = {"Authorization": f"Bearer {KEY}"}
    async with guarded(gateway, key=KEY) as worker:
        signed_only = await worker.http.post(
            "/chat", content=BODY, headers=_headers(gateway.signer())
        )
        assert signed_only.json()["details"] is None
        assert signed_only.status_code == 401
        await _refused(await worker.http.post("/chat", content=BODY, headers=bearer), "unsigned")
        both = bearer | _headers(gateway.signer())
        assert (await worker.http.post("/chat", content=BODY, headers=both)).status_code == 200


async def test_every_way_to_execute_is_guarded(gateway: HeldKeys) -> None:
    async with guarded(gateway) as worker:
        for path in ("/chat", "/enhance", "/generate"):
            for body in (BODY, json.dumps({"inputs": "a"}).encode(), b"no json"):
                await _refused(await worker.http.post(path, content=body), "unsigned")
            # A signature for one path is none for the others.
            headers = _headers(gateway.signer(), path="/elsewhere")
            answer = await worker.http.post(path, content=BODY, headers=headers)
            await _refused(answer, "wrong_signature")


async def test_a_body_that_was_changed_on_the_way(gateway: HeldKeys) -> None:
    async with guarded(gateway) as worker:
        headers = _headers(gateway.signer())
        changed = BODY.replace(b"a cat", b"a dog")
        await _refused(
            await worker.http.post("/chat", content=changed, headers=headers), "wrong_digest"
        )
        assert (await worker.http.post("/chat", content=BODY, headers=headers)).status_code == 200


async def test_a_request_is_executed_once(gateway: HeldKeys) -> None:
    async with guarded(gateway) as worker:
        headers = _headers(gateway.signer())
        answers = await asyncio.gather(
            *(worker.http.post("/chat", content=BODY, headers=headers) for _ in range(8))
        )
        assert sorted(answer.status_code for answer in answers) == [200, *[401] * 7]
        await _refused(await worker.http.post("/chat", content=BODY, headers=headers), "replayed")


@pytest.mark.parametrize(("late_s", "reason"), [(61, "expired"), (-62, "from_the_future")])
async def test_a_request_out_of_its_time(gateway: HeldKeys, late_s: float, reason: str) -> None:
    async with guarded(gateway) as worker:
        headers = _headers(gateway.signer(), late_s=late_s)
        await _refused(await worker.http.post("/chat", content=BODY, headers=headers), reason)


async def test_too_many_at_once_are_told_when_to_come_back(gateway: HeldKeys) -> None:
    async with guarded(gateway, replays=ReplayCache(limit=1)) as worker:
        for expected in (200, 429):
            headers = _headers(gateway.signer())
            answer = await worker.http.post("/chat", content=BODY, headers=headers)
            assert answer.status_code == expected
        assert answer.json()["error_code"] == "RATE_LIMITED"
        assert 60 < int(answer.headers["retry-after"]) <= 122


async def test_a_gateway_that_rotates_its_key_is_let_in_with_both(gateway: HeldKeys) -> None:
    async with guarded(gateway) as worker:
        before = gateway.signer()
        gateway.rotate()
        after = gateway.signer()
        assert before.key_id != after.key_id
        for signer in (before, after):
            answer = await worker.http.post("/chat", content=BODY, headers=_headers(signer))
            assert answer.status_code == 200


async def test_an_unsigned_body_is_not_even_read(gateway: HeldKeys) -> None:
    async with guarded(gateway) as worker:
        call = RawCall("/chat", b"{")
        # The body never ends: whoever waits for it waits for ever.
        call.incoming.put_nowait({"type": "http.request", "body": b"{", "more_body": True})
        scope = {"type": "http", "method": "POST", "path": "/chat", "headers": []}
        sent: list[Mapping[str, object]] = []

        async def send(message: Mapping[str, object]) -> None:
            sent.append(message)

        async def receive() -> dict[str, object]:
            raise AssertionError("the body was read")

        await worker.app(scope, receive, send)
        assert sent[0]["status"] == 401


class _Prefixed:
    """A proxy that publishes the worker under a prefix, and takes the prefix off again."""

    def __init__(self, app: "ASGIApp") -> None:
        self._app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        assert scope["path"].startswith("/models/one/")
        await self._app({**scope, "path": scope["path"][len("/models/one") :]}, receive, send)


async def test_a_proxys_prefix_is_no_part_of_what_is_signed(gateway: HeldKeys) -> None:
    async with guarded(gateway) as worker, over_loopback(_Prefixed(worker.app)) as url:
        remote = RemoteWorker(f"{url}/models/one/", key=None, public_keys=(), signer=gateway.signer)
        assert await remote.ready()
        assert (await remote.infer("chat", REQUEST, timeout_s=5)).text == "a cat"
        await remote.close()


async def test_a_streamed_request_is_signed_as_any_other(gateway: HeldKeys) -> None:
    body = msgspec.json.encode(msgspec.structs.replace(REQUEST, stream=True))
    async with guarded(gateway) as worker:
        headers = _headers(gateway.signer(), body=body)
        answer = await worker.http.post("/chat", content=body, headers=headers)
        assert answer.headers["content-type"].startswith("text/event-stream")
        again = await worker.http.post("/chat", content=body, headers=headers)
        await _refused(again, "replayed")


async def test_a_caller_who_hangs_up_stops_the_generation(gateway: HeldKeys) -> None:
    engine = ScriptedEngine([], gate=asyncio.Semaphore(0))
    engine.steps = [RuntimeError("never reached")]
    async with bench(engine) as worker, over_loopback(worker.app) as url:
        remote = RemoteWorker(url, key=None, public_keys=(), signer=gateway.signer)
        asking = asyncio.create_task(remote.infer("chat", REQUEST, timeout_s=30))
        await engine.started.wait()
        asking.cancel()
        async with asyncio.timeout(10):
            await engine.closed.wait()
        await asyncio.gather(asking, return_exceptions=True)
        await remote.close()
        async with asyncio.timeout(10):
            while worker.executor.running:  # noqa: ASYNC110 - nothing signals it
                await asyncio.sleep(0)
