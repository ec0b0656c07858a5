"""A worker in front of a real llama-server, with a gateway before it: what its answers claim."""

import asyncio
import json
import urllib.request
from pathlib import Path

import httpx
import pytest

from llama_server import llama_server
from onbook.settings import Settings, UpstreamApi
from onbook.worker.model_file import PACKAGED_SHA256
from onbook.worker.start import build_worker
from server import enhance, served
from support import metadata, running, settings_for

MESSAGES = [{"role": "user", "content": "a fox"}]

pytestmark = pytest.mark.model


@pytest.mark.parametrize(
    ("api", "status", "verification"),
    [("llama_server", "verified", "token_ids"), ("chat", "unverified", "request_only")],
)
async def test_what_an_answer_claims_is_what_the_upstream_allows(
    tmp_path: Path, api: str, status: str, verification: str
) -> None:
    with llama_server(chat_template="chatml") as server:
        settings = settings_for(
            tmp_path,
            worker_engine="openai_upstream",
            upstream_url=server.url,
            upstream_api=api,
            context_size=2048,
        )
        async with running(settings) as started:
            response = await started.enhance(
                {"prompt": "a cat in a garden", "seed": 1, "allow_fallback": False}
            )
            standing = started.service.worker.standing()
            info = started.worker.app.info
    answered = metadata(response)
    integrity = answered["integrity"]
    assert isinstance(integrity, dict)
    assert (integrity["status"], answered["fallback_level"]) == (status, 0)
    assert not standing.quarantine.in_force
    assert info.purity.verification == verification


@pytest.mark.parametrize("api", ["llama_server", "chat"])
async def test_what_a_worker_offers_is_what_its_upstream_takes(
    tmp_path: Path, api: UpstreamApi
) -> None:
    with llama_server(chat_template="chatml") as server:
        settings = Settings(
            data_dir=tmp_path,
            worker_engine="openai_upstream",
            upstream_url=server.url,
            upstream_api=api,
            context_size=2048,
        )
        worker = await asyncio.to_thread(build_worker, settings, progress=lambda _text: None)
        transport = httpx.ASGITransport(app=worker.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
            raw = await http.post("/generate", json={"messages": MESSAGES, "max_tokens": 2})
            endpoints = (await http.get("/worker/info")).json()["endpoints"]
        await worker.close()
    assert worker.engine.model.family == "chatml"
    assert ("/generate" in endpoints) == (api == "llama_server")
    if api == "llama_server":
        assert raw.status_code == 200, raw.text
    else:
        assert (raw.status_code, raw.json()["error_code"]) == (400, "INVALID_PAYLOAD")
        assert "takes chats only" in raw.json()["error"]
        assert "/chat or /enhance" in raw.json()["suggested_action"]


def test_a_worker_process_before_a_llama_server_serves_a_gateway(tmp_path: Path) -> None:
    with (
        llama_server() as server,
        served(
            "worker",
            tmp_path / "worker",
            "--engine",
            "openai_upstream",
            "--upstream-url",
            server.url,
        ) as worker,
        served("gateway", tmp_path / "gateway", "--worker-url", worker.url) as gateway,
    ):
        answer = enhance(gateway.url, seed=1, allow_fallback=False)
        with urllib.request.urlopen(f"{worker.url}/worker/info", timeout=30) as said:  # noqa: S310 - our own server on loopback
            info = json.loads(said.read())
    told = answer["enhancement_metadata"]
    assert told["fallback_level"] == 0
    assert told["integrity"]["status"] == "verified"
    assert told["integrity"]["receipt_id"]
    assert info["model"]["file_sha256"] == PACKAGED_SHA256
    assert info["purity"]["verification"] == "token_ids"
