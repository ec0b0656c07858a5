"""An upstream that runs another model than at the worker's start: no answer claims the old one."""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from llama_server import llama_server
from onbook.settings import Settings
from onbook.wire.worker_api import Message, Sampling, effective_sampling
from onbook.worker.engines.base import Piece, UpstreamChangedError, UpstreamUnavailableError
from onbook.worker.engines.openai_upstream import (
    ChatUpstream,
    TokenUpstream,
    start_openai_upstream,
    watch,
)
from onbook.worker.model_file import PACKAGED_SHA256, packaged_model
from onbook.worker.start import build_worker
from scripted_upstream import CHATML, Request, ScriptedUpstream, scripted_upstream

APIS = ("llama_server", "chat")
SAMPLING = effective_sampling(Sampling(max_tokens=4, seed=1), "chat")
REQUEST = {"messages": [{"role": "user", "content": "a fox"}], "max_tokens": 4, "seed": 3}


def props(**changed: object) -> dict[str, object]:
    defaults = {"n_ctx": 512, "params": {"lora": []}}
    told: dict[str, object] = {
        "default_generation_settings": defaults,
        "total_slots": 1,
        "chat_template": CHATML,
        "model_path": "/models/a.gguf",
    }
    return told | changed


@dataclass(slots=True)
class Bench:
    """An engine on a scripted server, whose clock stands still unless it is moved."""

    upstream: ScriptedUpstream
    engine: TokenUpstream | ChatUpstream
    now: float = 100.0

    async def ask(self) -> list[Piece]:
        if isinstance(self.engine, ChatUpstream):
            pieces = self.engine.chat([Message("user", "hi")], SAMPLING, None)
        else:
            pieces = self.engine.generate([20, 21], SAMPLING, None)
        return [piece async for piece in pieces]

    def say(self, path: str, told: object) -> None:
        async def answer(asked: Request) -> None:
            await asked.whole(200, told)

        self.upstream.routes[path] = answer

    def looks(self) -> int:
        return sum(asked.path == "/props" for asked in self.upstream.requests)

    async def changed(self) -> str:
        """Ask, expect the refusal that stays, and return its sentence."""
        with pytest.raises(UpstreamChangedError) as caught:
            await self.ask()
        assert not await self.engine.ready()
        assert self.engine.why_away() == str(caught.value)
        assert "restart the worker" in str(caught.value)
        assert self.upstream.url in str(caught.value)
        return str(caught.value)


async def generates(asked: Request) -> None:
    await asked.head()
    if asked.path == "/completion":
        prompt = asked.body["prompt"]
        assert isinstance(prompt, list)
        await asked.events(
            {"content": "a"},
            {
                "content": "",
                "stop": True,
                "stop_type": "eos",
                "tokens_predicted": 1,
                "tokens_evaluated": len(prompt),
                "generation_settings": asked.body,
            },
        )
        return
    choice = {"delta": {"content": "a"}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 2, "completion_tokens": 1}
    await asked.events({"choices": [choice]}, {"choices": [], "usage": usage}, "[DONE]")


@asynccontextmanager
async def bench_of(api: str, path: str = "/models/a.gguf") -> AsyncIterator[Bench]:
    async with scripted_upstream("llama") as upstream:
        upstream.script = generates
        settings = Settings(upstream_url=upstream.url, upstream_api=api, upstream_timeout_s=5)

        async def told(asked: Request) -> None:
            await asked.whole(200, props(model_path=path))

        upstream.routes["/props"] = told
        engine = await asyncio.to_thread(
            start_openai_upstream, settings, progress=lambda _text: None
        )
        bench = Bench(upstream, engine)
        engine._watch._now = lambda: bench.now
        try:
            yield bench
        finally:
            await engine.close()


@pytest.fixture(params=APIS)
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    async with bench_of(request.param) as made:
        yield made


async def test_the_server_is_asked_every_few_seconds_of_use_and_not_more(bench: Bench) -> None:
    await bench.ask()
    before = bench.looks()
    await asyncio.gather(*(bench.ask() for _ in range(8)))
    bench.now += watch.CHECK_S - 0.1
    await bench.ask()
    assert bench.looks() == before
    bench.now += 0.1
    await asyncio.gather(*(bench.ask() for _ in range(8)))
    assert bench.looks() == before + 1


@pytest.mark.parametrize(
    ("path", "told", "word"),
    [
        ("/props", props(model_path="/models/b.gguf"), "its path"),
        ("/props", props(chat_template=CHATML + " "), "its chat template"),
        (
            "/props",
            props(default_generation_settings={"n_ctx": 256, "params": {"lora": []}}),
            "its context",
        ),
        (
            "/props",
            props(default_generation_settings={"n_ctx": 512, "params": {"lora": [{"id": 0}]}}),
            "its adapters",
        ),
        ("/v1/models", {"data": [{"id": "other", "max_model_len": 512}]}, "its name"),
        (
            "/v1/models",
            {"data": [{"id": "m", "max_model_len": 512, "meta": {"size": 7}}]},
            "its size",
        ),
    ],
)
async def test_whatever_is_another_is_noticed_and_stays(
    bench: Bench, path: str, told: object, word: str
) -> None:
    await bench.ask()
    was = bench.upstream.routes.get(path)
    bench.say(path, told)
    bench.now += watch.CHECK_S
    assert f"changed: {word}" in await bench.changed()
    sent = len(bench.upstream.generations())
    # The old model comes back, but what was learnt of the other one's tokenizer stays.
    bench.upstream.routes.pop(path)
    if was is not None:
        bench.upstream.routes[path] = was
    bench.now += watch.CHECK_S
    await bench.changed()
    assert len(bench.upstream.generations()) == sent


async def test_a_failure_is_a_reason_to_look(bench: Bench) -> None:
    await bench.ask()

    async def hangs_up(asked: Request) -> None:
        await asked.head()
        bench.say("/props", props(model_path="/models/b.gguf"))

    bench.upstream.script = hangs_up
    with pytest.raises(UpstreamUnavailableError):
        await bench.ask()
    bench.upstream.script = generates
    await bench.changed()


async def test_no_last_piece_over_a_change_within_a_generation(bench: Bench) -> None:
    await bench.ask()

    async def changes(asked: Request) -> None:
        bench.say("/props", props(model_path="/models/b.gguf"))
        bench.now += watch.CHECK_S
        await generates(asked)

    bench.upstream.script = changes
    await bench.changed()
    assert len(bench.upstream.generations()) == 2


async def test_a_kept_connection_that_ends_is_a_reason_to_look(bench: Bench) -> None:
    """A restart ends it, so also a quick one is seen at once."""
    await bench.ask()
    before = bench.looks()
    await bench.ask()
    assert bench.looks() == before
    for asked in bench.upstream.requests:
        asked.writer.close()
        await asked.writer.wait_closed()
    bench.say("/v1/models", {"data": [{"id": "other"}]})
    await bench.changed()


async def test_a_server_that_is_away_is_not_called_another(bench: Bench) -> None:
    async def loading(asked: Request) -> None:
        await asked.whole(503, {"error": {"message": "Loading model"}})

    was = bench.upstream.routes["/props"]
    bench.upstream.routes["/props"] = loading
    with pytest.raises(UpstreamUnavailableError) as caught:
        await bench.ask()
    assert not isinstance(caught.value, UpstreamChangedError)
    assert not await bench.engine.ready()
    assert bench.engine.why_away() is None
    bench.upstream.routes["/props"] = was
    assert (await bench.ask())[-1].finish_reason == "stop"


async def test_a_file_that_was_replaced_in_place_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF and more")
    async with bench_of("llama_server", str(file)) as bench:
        await bench.ask()
        other = tmp_path / "other"
        other.write_bytes(b"GGUF and less")
        os.utime(other, ns=(1, file.stat().st_mtime_ns))
        other.replace(file)
        bench.now += watch.CHECK_S
        assert "changed: its file" in await bench.changed()


@pytest.mark.model
async def test_a_real_server_started_again_with_another_model(tmp_path: Path) -> None:
    packaged = packaged_model()
    if packaged is None:
        pytest.skip("the packaged model is not installed")
    other = tmp_path / "other.gguf"
    shutil.copyfile(packaged, other)
    with other.open("r+b") as file:
        file.seek(-1_000_000, os.SEEK_END)
        file.write(b"\x11" * 1000)
    with llama_server() as first:
        settings = Settings(
            worker_engine="openai_upstream",
            upstream_url=first.url,
            data_dir=tmp_path / "data",
            upstream_timeout_s=20,
        )
        worker = await asyncio.to_thread(build_worker, settings, progress=lambda _text: None)
        transport = httpx.ASGITransport(app=worker.app)
        http = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")
        answered = await http.post("/chat", json=REQUEST)
        assert answered.status_code == 200, answered.text
        good = answered.json()
        assert good["receipt"]["model_sha256"] == PACKAGED_SHA256
    with llama_server(model=other, port=urlsplit(first.url).port or 0) as second:
        assert second.url == first.url
        # No time to lose: the answer before was a moment ago.
        refused = await http.post("/chat", json=REQUEST)
        assert (refused.status_code, "receipt" in refused.json()) == (503, False)
        assert "another model" in refused.json()["error"]
        assert "Restart the worker" in refused.json()["suggested_action"]
        health = await http.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "upstream_away")
        assert "runs another model now" in health.json()["detail"]
        info = await http.get("/worker/info")
        assert PACKAGED_SHA256 not in info.text
        assert json.loads(info.text)["purity"]["passed"] is False
    await http.aclose()
    await worker.close()
