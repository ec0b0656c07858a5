"""What the ceiling of a deployment and of a key mean for a template's own tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support import FakeWorker, Running, completion, running, settings_for
from support_templates import BookClient, answer, key_with, path_of, refused

NAME = "enhancement_sdxl_nsfw"
CASE = {"name": "figure", "input": "nude woman, boudoir photograph", "must_keep": ["nude"]}


def worker() -> FakeWorker:
    return FakeWorker(lambda _endpoint, _request: completion(f"{CASE['input']}, soft light"))


@pytest.fixture
async def adult(tmp_path: Path) -> AsyncIterator[tuple[Running, FakeWorker]]:
    writer = worker()
    async with running(settings_for(tmp_path, content_ceiling="nsfw"), writer) as started:
        yield started, writer


async def test_a_try_out_shows_no_more_than_the_key_may_be_served(
    adult: tuple[Running, FakeWorker],
) -> None:
    started, writer = adult
    editor = BookClient(started, await key_with(started, "templates:edit"))
    version = await BookClient(started).draft(NAME, tests=[CASE])
    path, body = path_of(NAME, "test"), {"version": version}
    error = refused(await editor.call("POST", path, body), 403, "CONTENT_MODE_NOT_ALLOWED")
    assert error["details"] == {"template_name": NAME, "fields": ["content_mode"]}
    assert writer.requests == []

    both = BookClient(started, await key_with(started, "templates:edit", "nsfw"))
    (case,) = (await both.post(path, body))["cases"]
    assert case["passed"] is True
    assert "nude woman" in case["output"]


async def test_who_may_activate_needs_no_nsfw_as_no_output_is_shown(
    adult: tuple[Running, FakeWorker],
) -> None:
    started, _ = adult
    version = await BookClient(started).draft(NAME, tests=[CASE])
    operator = BookClient(started, await key_with(started, "templates:activate"))
    done = answer(await operator.activate(version, NAME))
    assert done["gate"]["passed"] is True
    assert "nude woman" not in str(done)


async def test_an_sfw_deployment_runs_no_nsfw_test_for_anybody(tmp_path: Path) -> None:
    writer = worker()
    async with running(settings_for(tmp_path), writer) as started:
        book = BookClient(started)
        version = await book.draft(NAME, tests=[CASE])
        split = {"version": version, "percent": 5, "reason": "try it"}
        for response in (
            await book.call("POST", path_of(NAME, "test"), {"version": version}),
            await book.activate(version, NAME),
            await book.call("POST", path_of(NAME, "split"), split),
        ):
            error = refused(response, 403, "CONTENT_MODE_NOT_ALLOWED")
            assert "without the tests" in error["suggested_action"]
        assert (await book.get(path_of(NAME)))["row"]["version"] == 1
        done = answer(await book.activate(version, NAME, override_reason="tested elsewhere"))
    assert done["to_version"] == version
    assert writer.requests == []
