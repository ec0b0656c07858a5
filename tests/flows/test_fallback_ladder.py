import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from onbook.domain.errors import (
    OnbookError,
    PurityViolation,
    WorkerAnswerInvalid,
    WorkerTimeout,
    WorkerUnavailable,
)
from onbook.ports.inference import Completion
from onbook.wire.worker_api import Endpoint, InferenceRequest
from server import query
from support import FakeWorker, completion, metadata, running, settings_for

PROMPT = "a cat in a garden"
Answer = Callable[[Endpoint, InferenceRequest], Completion | Exception]


def always(answer: Completion | Exception) -> Answer:
    return lambda _endpoint, _request: answer


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (WorkerUnavailable("The worker cannot be reached."), 503),
        (WorkerTimeout("The worker did not answer."), 504),
        (WorkerAnswerInvalid("The worker's answer holds no result."), 503),
        (PurityViolation("The receipt does not match."), 502),
    ],
)
async def test_a_worker_that_fails_gives_rules_and_says_so(
    tmp_path: Path, error: OnbookError, status: int
) -> None:
    worker = FakeWorker(always(error))
    # A quarantine that is over at once: the second request is answered by the worker too.
    async with running(settings_for(tmp_path, quarantine_s=1e-9), worker) as started:
        response = await started.enhance({"prompt": PROMPT})
        refused = await started.enhance({"prompt": PROMPT, "allow_fallback": False})
    data = metadata(response)
    assert response.json()["enhancement_strategy"] == "rules"
    assert response.json()["enhanced_prompt"].startswith(PROMPT)
    assert len(response.json()["enhanced_prompt"]) > len(PROMPT)
    assert data["fallback_level"] == 3
    assert data["model_used"] is None
    assert cast("dict[str, str]", data["integrity"])["status"] == "not_applicable"
    assert any(error.code in warning for warning in cast("list[str]", data["warnings"]))
    assert refused.status_code == status
    assert refused.json()["error_code"] == error.code


@pytest.mark.parametrize(
    "bad",
    [
        completion("a cat in a garden, soft light, and then it goes on", "length"),
        completion(""),
        completion("   \n"),
        completion("I'm sorry, but I can't help with that."),
    ],
    ids=["length", "empty", "blank", "refusal"],
)
async def test_a_bad_text_is_drawn_again_with_another_seed(tmp_path: Path, bad: Completion) -> None:
    answers = iter([bad, completion("a cat in a garden, soft light")])
    worker = FakeWorker(lambda _endpoint, _request: next(answers))
    async with running(settings_for(tmp_path), worker) as started:
        response = await started.enhance({"prompt": PROMPT, "seed": 5})
    data = metadata(response)
    assert response.json()["enhancement_strategy"] == "template_retry"
    assert response.json()["enhanced_prompt"] == "a cat in a garden, soft light"
    assert (data["attempts"], data["fallback_level"]) == (2, 0)
    assert [request.seed for request in worker.requests] == [5, 6]


async def test_two_bad_texts_give_rules(tmp_path: Path) -> None:
    worker = FakeWorker(always(completion("cut off", "length")))
    async with running(settings_for(tmp_path), worker) as started:
        response = await started.enhance({"prompt": PROMPT})
    assert response.json()["enhancement_strategy"] == "rules"
    assert metadata(response)["attempts"] == 2
    assert len(worker.requests) == 2


async def test_an_output_above_the_requests_mode_is_never_served(tmp_path: Path) -> None:
    worker = FakeWorker(always(completion("a naked woman in a garden, nude")))
    async with running(settings_for(tmp_path), worker) as started:
        response = await started.enhance({"prompt": "a woman in a garden"})
    assert response.json()["enhancement_strategy"] == "rules"
    assert "nude" not in response.json()["enhanced_prompt"]


async def test_rules_are_deterministic_by_seed_and_hold_no_system_prompt(tmp_path: Path) -> None:
    worker = FakeWorker(always(WorkerUnavailable("The worker cannot be reached.")))
    async with running(settings_for(tmp_path), worker) as started:
        texts = [
            (await started.enhance({"prompt": PROMPT, "seed": seed})).json()["enhanced_prompt"]
            for seed in (1, 1, 2, 3, 4)
        ]
        dry = (await started.enhance({"prompt": PROMPT, "dry_run": True})).json()
    assert texts[0] == texts[1]
    assert len(set(texts)) > 2
    first_sentence = dry["messages"][0]["content"].split(".")[0]
    assert not any(first_sentence in text for text in texts)


async def test_a_slow_worker_is_given_up_within_the_deadline(tmp_path: Path) -> None:
    class Hanging(FakeWorker):
        async def infer(
            self,
            endpoint: Endpoint,
            request: InferenceRequest,
            *,
            timeout_s: float,
        ) -> Completion:
            try:
                async with asyncio.timeout(timeout_s):
                    await asyncio.Event().wait()
            except TimeoutError:
                raise WorkerTimeout("The worker did not answer.") from None
            raise AssertionError

    worker = Hanging(always(completion("never")))
    settings = settings_for(tmp_path, worker_timeout_s=0.05)
    async with running(settings, worker) as started:
        response = await started.enhance({"prompt": PROMPT})
    assert response.json()["enhancement_strategy"] == "rules"
    assert metadata(response)["attempts"] == 1


async def test_without_the_database_the_last_good_set_serves_and_rows_are_spooled(
    tmp_path: Path,
) -> None:
    async with running(settings_for(tmp_path)) as started:
        await started.enhance({"prompt": PROMPT})
        database = tmp_path / "onbook.db"
        away = tmp_path / "away"
        away.mkdir()
        for file in tmp_path.glob("onbook.db*"):
            shutil.move(file, away / file.name)
        # Something that is no database stands in its place.
        database.mkdir()
        await started.service.book.refresh()
        response = await started.enhance({"prompt": PROMPT})
        ready = (await started.http.get("/readyz")).json()
        database.rmdir()
        for file in away.iterdir():
            shutil.move(file, tmp_path / file.name)
        await started.service.book.refresh()
        await started.service.log.drain()
        back = await started.enhance({"prompt": PROMPT})
    data = metadata(response)
    assert (data["template_source"], data["fallback_level"]) == ("system_cache", 1)
    assert any("snapshot" in warning for warning in cast("list[str]", data["warnings"]))
    assert (ready["database"], ready["spooled_rows"]) == ("unreachable", 1)
    assert (metadata(back)["template_source"], metadata(back)["fallback_level"]) == ("database", 0)


async def test_a_deactivated_default_falls_back_to_the_packaged_template(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path)) as started:
        query(
            tmp_path,
            "UPDATE prompt_templates SET is_active = false "
            "WHERE template_name = 'enhancement_sdxl_sfw'",
        )
        await started.service.book.refresh()
        data = metadata(await started.enhance({"prompt": PROMPT}))
        named = await started.enhance({"prompt": PROMPT, "template_name": "enhancement_sdxl_sfw"})
    assert (data["template_source"], data["fallback_level"]) == ("hardcoded", 2)
    assert data["content_mode"] == "sfw"
    assert any("packaged" in warning for warning in cast("list[str]", data["warnings"]))
    assert (named.status_code, named.json()["error_code"]) == (404, "TEMPLATE_NOT_FOUND")
