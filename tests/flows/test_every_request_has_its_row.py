import asyncio
import json
from pathlib import Path
from typing import cast

import pytest

from onbook.domain.errors import WorkerAnswerInvalid
from onbook.ports.inference import Completion
from onbook.wire.worker_api import Endpoint, InferenceRequest
from server import query
from support import ADMIN_KEY, FakeWorker, completion, metadata, running, settings_for

PROMPT = "a secret cat in a garden"
ROW = "SELECT error_code, attempts, template_name, integrity_status FROM enhancement_logs"


def broken(_endpoint: Endpoint, _request: InferenceRequest) -> Completion:
    raise KeyError(PROMPT)


async def test_a_bug_gets_a_row_and_one_clean_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running(settings_for(tmp_path), FakeWorker(broken)) as started:
        plain = await started.enhance({"prompt": PROMPT})
        stream = await started.enhance({"prompt": PROMPT, "stream": True})
    assert (plain.status_code, plain.json()["error_code"]) == (500, "INTERNAL")
    assert [part.split("\n")[0] for part in stream.text.strip().split("\n\n")] == [
        "event: meta",
        "event: error",
    ]
    assert query(tmp_path, ROW) == [("INTERNAL", 0, "enhancement_sdxl_sfw", "not_applicable")] * 2
    printed = capsys.readouterr()
    lines = [line for line in (printed.out + printed.err).splitlines() if "debug" not in line]
    assert not any("secret" in line for line in lines)
    assert PROMPT not in plain.text


@pytest.mark.parametrize("stream", [False, True])
async def test_a_cancelled_request_gets_a_row_and_says_that_the_service_stops(
    tmp_path: Path, *, stream: bool
) -> None:
    entered = asyncio.Event()

    class Hanging(FakeWorker):
        async def infer(
            self,
            endpoint: Endpoint,
            request: InferenceRequest,
            *,
            timeout_s: float,
        ) -> Completion:
            entered.set()
            await asyncio.Event().wait()
            raise AssertionError

    async with running(settings_for(tmp_path), Hanging(broken)) as started:
        call = asyncio.ensure_future(started.enhance({"prompt": PROMPT, "stream": stream}))
        # The call may also end before the worker is asked: the rest of the test then says why.
        waiting = asyncio.ensure_future(entered.wait())
        await asyncio.wait([waiting, call], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        call.cancel()
        stopped = await call
        metrics = (await started.http.get("/metrics")).text
    assert stopped.status_code == (200 if stream else 503)
    assert stopped.text.count("WORKER_UNAVAILABLE") == 1
    assert ("event: error" in stopped.text) is stream
    assert [row[0] for row in query(tmp_path, ROW)] == ["WORKER_UNAVAILABLE"]
    assert 'outcome="WORKER_UNAVAILABLE"} 1.0' in metrics
    assert 'outcome="ok"' not in metrics


async def test_the_row_of_a_failure_tells_what_was_tried(tmp_path: Path) -> None:
    worker = FakeWorker(lambda _endpoint, _request: completion(""))
    async with running(settings_for(tmp_path), worker) as started:
        refused = await started.enhance({"prompt": PROMPT, "allow_fallback": False})
    assert refused.json()["error_code"] == WorkerAnswerInvalid.code
    assert query(tmp_path, ROW) == [
        ("WORKER_UNAVAILABLE", 2, "enhancement_sdxl_sfw", "not_applicable")
    ]


async def test_a_callers_request_id_is_not_the_key_of_the_log(tmp_path: Path) -> None:
    theirs = "7b0e6f0a-6a0e-4f39-9a63-0d4d8a6a7c11"
    async with running(settings_for(tmp_path)) as started:
        answers = [
            await started.enhance({"prompt": PROMPT}, **{"X-Request-ID": theirs}) for _ in range(2)
        ]
    ids = {answer.json()["request_id"] for answer in answers}
    assert len(ids) == 2
    assert theirs not in ids
    assert len(query(tmp_path, ROW)) == 2


@pytest.mark.parametrize(("reason", "strategy"), [(None, "template"), ("content_filter", "rules")])
async def test_what_a_worker_does_not_tell_is_not_made_up(
    tmp_path: Path, reason: str | None, strategy: str
) -> None:
    from onbook.adapters.inference.answers import completion_from  # noqa: PLC0415 - used here only

    body = {"success": True, "enhanced_prompt": f"{PROMPT}, soft light", "finish_reason": reason}
    raw = json.dumps({key: value for key, value in body.items() if value is not None}).encode()

    def answer(_endpoint: Endpoint, _request: InferenceRequest) -> Completion:
        return completion_from("enhance", 200, raw, response_time_ms=1.0)

    async with running(settings_for(tmp_path), FakeWorker(answer)) as started:
        response = await started.enhance({"prompt": PROMPT})
    data = metadata(response)
    assert response.json()["enhancement_strategy"] == strategy
    assert (data["finish_reason"], data["queue_time_ms"]) == (None, None)


async def test_an_endless_answer_is_not_worked_on(tmp_path: Path) -> None:
    worker = FakeWorker(lambda _endpoint, _request: completion("( " * 100_000))
    async with running(settings_for(tmp_path), worker) as started:
        response = await started.enhance({"prompt": PROMPT})
    assert response.json()["enhancement_strategy"] == "rules"


async def test_without_a_single_active_template_the_packaged_ones_serve(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path)) as started:
        snapshot = tmp_path / "templates.snapshot.json"
        before = snapshot.read_bytes()
        assert b"enhancement_sdxl_sfw" in before
        query(tmp_path, "UPDATE prompt_templates SET is_active = 0")
        await started.service.book.refresh()
        response = await started.enhance({"prompt": PROMPT})
        ready = await started.http.get("/readyz")
        # Nor does what was put out of service come back in an outage.
        assert b"enhancement_sdxl_sfw" not in snapshot.read_bytes()
    assert metadata(response)["fallback_level"] == 2
    assert ready.status_code == 200


async def test_only_the_edge_functions_are_open_to_pages(tmp_path: Path) -> None:
    origin = {"Origin": "https://app.example"}
    async with running(settings_for(tmp_path)) as started:
        function = await started.enhance({"prompt": PROMPT}, **origin)
        others = [
            await started.http.get(path, headers=origin)
            for path in ("/metrics", "/readyz", "/openapi.json", "/healthz")
        ]
    assert function.headers["access-control-allow-origin"] == "*"
    assert not any("access-control-allow-origin" in other.headers for other in others)


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "rebound.example"},
        {"Host": "127.0.0.1", "X-Real-IP": "192.0.2.1"},
        {"Host": "127.0.0.1", "Via": "1.1 proxy"},
        {"Host": "127.0.0.1", "X-Forwarded-For": "192.0.2.1"},
        {"Host": "127.0.0.1", "Origin": "http://127.0.0.1"},
    ],
    ids=lambda headers: ",".join(cast("dict[str, str]", headers)),
)
async def test_an_open_worker_answers_only_who_is_on_this_machine(
    tmp_path: Path, headers: dict[str, str]
) -> None:
    async with running(settings_for(tmp_path)) as started:
        refused = await started.http.get("/worker/info", headers=headers)
        allowed = await started.http.get("/worker/info", headers={"Host": "localhost:8740"})
    assert (refused.status_code, allowed.status_code) == (403, 200)


async def test_a_key_that_cannot_be_checked_is_told_so(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path)) as started:
        await started.enhance({"prompt": PROMPT})
        (tmp_path / "onbook.db").rename(tmp_path / "away.db")
        known = await started.enhance({"prompt": PROMPT})
        unknown = await started.enhance(
            {"prompt": PROMPT}, Authorization=f"Bearer {ADMIN_KEY}-other"
        )
    assert known.status_code == 200
    assert (unknown.status_code, unknown.json()["error_code"]) == (503, "DATABASE_UNAVAILABLE")


@pytest.mark.parametrize(
    "prompt",
    ["I can't breathe, tattoo on an arm", "Sorry I missed you, note on a door", "Note: a red car"],
)
async def test_the_users_own_words_are_no_refusal(tmp_path: Path, prompt: str) -> None:
    worker = FakeWorker(lambda _endpoint, _request: completion(f"{prompt}, soft light, film grain"))
    async with running(settings_for(tmp_path), worker) as started:
        response = await started.enhance({"prompt": prompt})
    assert response.json()["enhancement_strategy"] == "template"
    assert response.json()["enhanced_prompt"] == f"{prompt}, soft light, film grain"
