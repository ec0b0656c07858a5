"""``GET health-check-workers``: who may ask, and what is said of a worker."""

from pathlib import Path

import msgspec
import pytest

from onbook.domain.errors import PurityViolation
from onbook.domain.worker_health import Trouble
from onbook.gateway.openapi import openapi_document
from onbook.wire.workers import WorkersResponse
from support import ADMIN_KEY, FakeWorker, Running, completion, running, settings_for

PATH = "/functions/v1/health-check-workers"
ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}


async def state_of(started: Running) -> WorkersResponse:
    answer = await started.http.get(PATH, headers=ADMIN)
    assert answer.status_code == 200
    assert answer.json()["success"] is True
    assert answer.headers["x-request-id"] == answer.json()["request_id"]
    return msgspec.json.decode(answer.content, type=WorkersResponse)


async def test_an_embedded_worker_is_described_as_it_was_last_seen(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path)) as started:
        (worker,) = (await state_of(started)).workers
        info = started.worker.app.info
    assert worker.worker_id == info.worker_id
    assert (worker.url, worker.model_sha256, worker.token_ids) == (None, None, "not_checked")
    assert len(worker.key_ids) == 1
    assert (worker.healthy, worker.usable, worker.state) == (True, True, "ok")
    assert worker.checked_at is not None
    assert worker.checked_at.endswith("+00:00")
    assert (worker.quarantined, worker.quarantined_since, worker.quarantine_ends_in_s) == (
        False,
        None,
        None,
    )
    assert (worker.violations, worker.mismatches) == (0, [])


async def test_a_quarantine_says_since_when_for_how_long_and_why(tmp_path: Path) -> None:
    def caught(_endpoint: object, _request: object) -> Exception:
        return PurityViolation("The worker found that its engine did not see what was sent.")

    settings = settings_for(tmp_path, quarantine_s=60)
    async with running(settings, FakeWorker(caught)) as started:
        await started.enhance({"prompt": "a cat"})
        (worker,) = (await state_of(started)).workers
        page = (await started.http.get("/readyz")).json()
    # What a worker says of itself is one thing, whether its answers are used another.
    assert (worker.healthy, worker.quarantined) == (True, True)
    assert (worker.usable, worker.state) == (False, "quarantined")
    assert worker.quarantined_since is not None
    assert worker.quarantine_ends_in_s is not None
    assert 30 < worker.quarantine_ends_in_s <= 60
    assert (worker.violations, worker.mismatches) == (1, ["engine"])
    assert page["worker"] == "quarantined"


@pytest.mark.parametrize("trouble", ["refused", "untrusted"])
async def test_a_worker_that_is_met_in_vain_does_not_look_well(
    tmp_path: Path, trouble: Trouble
) -> None:
    fake = FakeWorker(lambda _endpoint, _request: completion("x"))
    fake.trouble = trouble
    async with running(settings_for(tmp_path), fake) as started:
        (worker,) = (await state_of(started)).workers
        ready = (await started.http.get("/readyz")).json()
        assert (worker.healthy, worker.usable, worker.state) == (True, False, trouble)
        assert ready["worker"] == trouble
        fake.trouble = None
        # At once, and not only when the worker is next looked at.
        assert (await started.http.get("/readyz")).json()["worker"] == "ok"


async def test_it_takes_the_scope_admin(tmp_path: Path) -> None:
    worker = FakeWorker(lambda _endpoint, _request: completion("x"))
    async with running(settings_for(tmp_path), worker) as started:
        without = await started.http.get(PATH)
        wrong = await started.http.get(PATH, headers={"apikey": "onb_nobody_0123456789"})
        posted = await started.http.post(PATH, headers=ADMIN)
    for refused in (without, wrong):
        assert (refused.status_code, refused.json()["error_code"]) == (401, "AUTH_REQUIRED")
    assert posted.status_code == 405


async def test_pages_may_call_it_as_the_other_functions(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, cors_origins=["https://app.example"])
    async with running(settings) as started:
        allowed = await started.http.options(
            PATH,
            headers={
                "Origin": "https://app.example",
                "Access-Control-Request-Method": "GET",
                "Access-Control-Request-Headers": "authorization",
            },
        )
        answer = await started.http.get(PATH, headers={**ADMIN, "Origin": "https://app.example"})
    assert allowed.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://app.example"


def test_it_is_in_the_document() -> None:
    paths = openapi_document()["paths"]
    assert isinstance(paths, dict)
    answers = paths[PATH]["get"]["responses"]
    assert answers["200"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/WorkersResponse"
    }
