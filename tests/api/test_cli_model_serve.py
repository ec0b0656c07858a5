import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from model_hub import Hub, Stored, model_hub
from onbook.cli.main import app
from onbook.worker.model_file import PACKAGED_SHA256, packaged_model
from onbook.worker.models import find_model
from server import ended, enhance, served

FILE = "pulled-model-q4_1.gguf"
ENGINE = {"ONBOOK_WORKER_ENGINE": None, "ONBOOK_SLOTS": "1", "ONBOOK_CONTEXT_SIZE": "2048"}


@pytest.fixture
def hub() -> Iterator[Hub]:
    packaged = packaged_model()
    if packaged is None:
        pytest.skip("the packaged model is not installed")
    with model_hub() as made:
        made.files[FILE] = Stored(packaged.read_bytes())
        yield made


@pytest.mark.model
def test_a_pulled_model_runs_by_its_name(hub: Hub, tmp_path: Path) -> None:
    # Once broken off on the way, as a real network does it.
    hub.cuts = [40_000_000]
    done = CliRunner().invoke(
        app,
        ["model", "pull", f"{hub.repository}:Q4_1", "--data-dir", str(tmp_path)],
        env=hub.environment(),
    )
    assert done.exit_code == 0, done.output
    assert len(hub.asked("storage")) == 2
    path = find_model(FILE, tmp_path)
    assert path == tmp_path / "models" / FILE
    with served("serve", tmp_path, "--model", "Pulled-Model-Q4_1", **ENGINE) as server:
        with urllib.request.urlopen(server.url + "/worker/info", timeout=30) as response:  # noqa: S310 - our own server on loopback
            model = json.loads(response.read())["model"]
        answer = enhance(server.url)
        assert "  model     pulled-model-q4_1" in server.output
    assert (model["name"], model["file_sha256"]) == ("pulled-model-q4_1", PACKAGED_SHA256)
    assert answer["success"] is True
    assert answer["enhancement_metadata"]["fallback_level"] == 0
    # The manifest's digest is held against the file at every start.
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    options = {name: value for name, value in ENGINE.items() if value is not None}
    code, sentence, _ = ended(
        tmp_path, "--port", "0", "--model", FILE, ONBOOK_WORKER_ENGINE="llama_cpp", **options
    )
    assert code == 1
    assert "not the expected one" in sentence


def test_a_name_that_means_nothing_ends_with_one_sentence(tmp_path: Path) -> None:
    code, sentence, lines = ended(
        tmp_path,
        *("--port", "0"),
        ONBOOK_WORKER_ENGINE="llama_cpp",
        ONBOOK_MODEL_PATH="no-such-model",
    )
    assert (code, len(lines)) == (1, 1)
    assert "no model no-such-model" in sentence
    assert "'onbook model list'" in sentence
