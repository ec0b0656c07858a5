import json
from hashlib import sha256
from pathlib import Path
from typing import cast

import pytest

from onbook.domain.errors import WorkerUnavailable
from server import query
from support import FakeWorker, completion, metadata, running, settings_for

ROW = (
    "SELECT output_steps, output_sha256, salt, raw_output, enhanced FROM enhancement_logs"
    " JOIN enhancement_texts USING (request_id)"
)


def _salted(salt: object, text: object) -> str:
    return sha256(bytes.fromhex(str(salt)) + str(text).encode()).hexdigest()


@pytest.mark.parametrize(
    ("raw", "steps"),
    [
        ("Sure! Here is the prompt: soft light, film grain", ["clean", "merge"]),
        ("a red fox, soft light, film grain", []),
        ("a red fox, soft\x00 light, film grain", ["clean"]),
        ("a red fox, " + ", ".join(f"pale lantern {n}" for n in range(60)), ["fit"]),
    ],
)
async def test_each_stage_that_changed_the_text_is_in_the_row(
    tmp_path: Path, raw: str, steps: list[str]
) -> None:
    worker = FakeWorker(lambda _endpoint, _request: completion(raw))
    async with running(settings_for(tmp_path), worker) as started:
        assert metadata(await started.enhance({"prompt": "a red fox"}))["fallback_level"] != 3
    ((stored, output, salt, kept, enhanced),) = query(tmp_path, ROW)
    found = cast("list[dict[str, str]]", json.loads(str(stored)))
    # What no database of ours keeps has a picture in the texts and in their digests.
    assert kept == raw.replace("\x00", "\u2400")
    names = [step["step"] for step in found]
    assert set(steps) <= set(names) <= {"clean", "merge", "fit"}
    assert bool(found) == (kept != enhanced)
    # An unbroken line from what the model said to what was answered.
    line = [_salted(salt, kept), *(step["after_sha256"] for step in found)]
    assert [step["before_sha256"] for step in found] == line[:-1]
    assert line[-1] == output == _salted(salt, enhanced)


async def test_without_a_models_text_there_are_no_steps(tmp_path: Path) -> None:
    worker = FakeWorker(lambda _endpoint, _request: WorkerUnavailable("away"))
    async with running(settings_for(tmp_path), worker) as started:
        assert metadata(await started.enhance({"prompt": "a red fox"}))["fallback_level"] == 3
        failed = await started.enhance({"prompt": "a red fox", "allow_fallback": False})
        assert failed.status_code == 503
    assert query(tmp_path, "SELECT output_steps FROM enhancement_logs") == [(None,), (None,)]
