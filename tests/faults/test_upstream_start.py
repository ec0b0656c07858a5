"""Starting on an upstream: the mode that is found, and one sentence for whatever is wrong."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from onbook.settings import Settings
from onbook.wire.worker_api import Message
from onbook.worker.engines.base import EngineStartError
from onbook.worker.engines.openai_upstream import (
    ChatUpstream,
    TokenUpstream,
    inspection,
    start_openai_upstream,
)
from onbook.worker.engines.openai_upstream import server as upstream_server
from scripted_upstream import Kind, Request, ScriptedUpstream, scripted_upstream


@dataclass(slots=True)
class Start:
    """Starts engines on one scripted server, and keeps what the start said."""

    upstream: ScriptedUpstream
    said: list[str] = field(default_factory=list)
    engines: list[TokenUpstream | ChatUpstream] = field(default_factory=list)

    async def __call__(self, **settings: object) -> TokenUpstream | ChatUpstream:
        values: dict[str, object] = {"upstream_url": self.upstream.url, "upstream_timeout_s": 5}
        made = Settings.model_validate(values | settings)
        engine = await asyncio.to_thread(start_openai_upstream, made, progress=self.said.append)
        self.engines.append(engine)
        return engine

    async def refusal(self, **settings: object) -> str:
        with pytest.raises(EngineStartError) as caught:
            await self(**settings)
        text = str(caught.value)
        assert "\n" not in text
        assert text.endswith(".")
        return text


@asynccontextmanager
async def start_on(kind: Kind) -> AsyncIterator[Start]:
    async with scripted_upstream(kind) as upstream:
        start = Start(upstream)
        try:
            yield start
        finally:
            for engine in start.engines:
                await engine.close()


@pytest.mark.parametrize(
    ("kind", "asked", "found"),
    [
        ("llama", "auto", "llama_server"),
        ("llama", "llama_server", "llama_server"),
        ("llama", "completions", "completions"),
        ("llama", "chat", "chat"),
        ("vllm", "auto", "completions"),
        ("vllm", "chat", "chat"),
        ("sglang", "auto", "completions"),
        ("other", "auto", "chat"),
    ],
)
async def test_the_mode_is_found_and_said(kind: Kind, asked: str, found: str) -> None:
    async with start_on(kind) as start:
        engine = await start(upstream_api=asked)
        said = {
            "llama_server": "/completion with token ids",
            "completions": "/v1/completions with token ids",
            "chat": "/v1/chat/completions",
        }[found]
        assert said in start.said[-1]
        if isinstance(engine, ChatUpstream):
            assert found == "chat"
            assert engine.purity.verification == "request_only"
            assert engine.purity.passed
        else:
            assert engine.api == found
            assert engine.context_size == engine.model.context_size
        assert engine.model.engine == "openai_upstream"


@pytest.mark.parametrize(
    ("kind", "context"), [("llama", 512), ("vllm", 512), ("sglang", 400), ("other", 512)]
)
async def test_the_context_is_the_servers(kind: Kind, context: int) -> None:
    async with start_on(kind) as start:
        assert (await start()).context_size == context


async def test_a_base_url_may_end_like_openais() -> None:
    async with start_on("vllm") as start:
        await start(upstream_url=f"{start.upstream.url}/v1/")


async def test_the_key_is_sent_to_every_route() -> None:
    async with start_on("llama") as start:
        await start(upstream_key="sesame")
        sent = {asked.headers.get("authorization") for asked in start.upstream.requests}
        assert sent == {"Bearer sesame"}
        assert all("sesame" not in text for text in start.said)


async def test_nothing_is_there() -> None:
    async with start_on("llama") as start:
        text = await start.refusal(upstream_url="http://127.0.0.1:1")
        assert "cannot be reached" in text
        assert "ONBOOK_UPSTREAM_URL" in text


async def test_no_url_and_a_url_with_a_password() -> None:
    async with start_on("llama") as start:
        assert "ONBOOK_UPSTREAM_URL" in await start.refusal(upstream_url=None)
        text = await start.refusal(upstream_url="http://me:secret@127.0.0.1:1")
        assert "ONBOOK_UPSTREAM_KEY" in text
        assert "secret" not in text


@pytest.mark.parametrize(
    ("status", "body", "kind", "word"),
    [
        (200, b"<html>welcome</html>", "text/html", "OpenAI's API"),
        (404, b"<html>no</html>", "text/html", "OpenAI's API"),
        (200, b'{"data": []}', "application/json", "OpenAI's API"),
        (200, b'{"data": [{"id": 5}]}', "application/json", "OpenAI's API"),
        (200, b'{"data"', "application/json", "OpenAI's API"),
        (200, b"\xff\xfe", "application/json", "OpenAI's API"),
        (302, b"", "text/html", "OpenAI's API"),
        (401, b"{}", "application/json", "ONBOOK_UPSTREAM_KEY"),
        (403, b"{}", "application/json", "ONBOOK_UPSTREAM_KEY"),
        (500, b"{}", "application/json", "OpenAI's API"),
    ],
)
async def test_something_else_is_there(status: int, body: bytes, kind: str, word: str) -> None:
    async with start_on("llama") as start:

        async def models(asked: Request) -> None:
            await asked.whole(status, body, kind)

        start.upstream.routes["/v1/models"] = models
        assert word in await start.refusal()


@pytest.mark.parametrize(
    "how", ["hangs", "hangs up", "garbage", "too large", "trickles", "breaks off"]
)
async def test_a_server_that_does_not_answer_is_given_up(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream_server, "_MAX_ANSWER_BYTES", 100_000)
    async with start_on("llama") as start:

        async def models(asked: Request) -> None:
            if how == "hangs":
                await asked.hang()
            elif how == "garbage":
                await asked.send(b"SSH-2.0-server\r\n")
            elif how in ("too large", "trickles"):
                await asked.head(kind="application/json")
                while True:
                    await asked.send(b" " * (65_536 if how == "too large" else 1))
            elif how == "breaks off":
                await asked.send(b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"data": [')
            asked.writer.close()

        start.upstream.routes["/v1/models"] = models
        async with asyncio.timeout(10):
            text = await start.refusal(upstream_timeout_s=0.3)
        words = {"breaks off": "hung up", "trickles": "in time", "too large": "too large"}
        assert words.get(how, "") in text


async def test_a_loading_server_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "_RETRY_S", 0.001)
    async with start_on("llama") as start:
        tries = loads = 0

        async def health(asked: Request) -> None:
            # llama-server lists its models before it has loaded them.
            nonlocal loads
            loads += 1
            told = {"error": {"message": "Loading model", "code": 503}}
            await asked.whole(503 if loads < 3 else 200, told)

        async def models(asked: Request) -> None:
            nonlocal tries
            tries += 1
            if 2 < tries < 5:
                await asked.whole(503, {"error": {"message": "Loading model", "code": 503}})
            else:
                await asked.whole(200, {"data": [{"id": "m", "owned_by": "llamacpp"}]})

        start.upstream.routes |= {"/v1/models": models, "/health": health}
        await start()
        # Each of the two, and once more to see that nothing has changed.
        assert (loads, tries) == (5, 6)
        assert sum("loading" in text for text in start.said) == 1
        loads = -100_000
        assert "loading" in await start.refusal(upstream_timeout_s=0.05)


async def test_a_model_that_is_not_there() -> None:
    async with start_on("vllm") as start:
        text = await start.refusal(upstream_model="other")
        assert "'other'" in text
        assert ": m." in text
        engine = await start(upstream_model="m")
        assert engine.model.name == "m"


async def test_a_mode_that_the_server_does_not_have() -> None:
    async with start_on("vllm") as start:
        assert "llama-server" in await start.refusal(upstream_api="llama_server")
    async with start_on("other") as start:
        assert "/tokenize" in await start.refusal(upstream_api="completions")


@pytest.mark.parametrize("how", ["adds a token", "wants a text"])
async def test_a_server_that_does_not_take_ids_as_they_are(how: str) -> None:
    async with start_on("vllm") as start:

        async def completions(asked: Request) -> None:
            await asked.whole(400, {"error": {"message": "prompt must be a string"}})

        if how == "adds a token":
            start.upstream.extra_tokens = 1
        else:
            start.upstream.routes["/v1/completions"] = completions
        assert "ONBOOK_UPSTREAM_API" in await start.refusal(upstream_api="completions")
        assert isinstance(await start(upstream_api="auto"), ChatUpstream)
        assert "takes no token ids" in start.said[-1]


async def test_a_llama_server_that_adds_a_token_is_refused() -> None:
    async with start_on("llama") as start:
        start.upstream.extra_tokens = 1
        assert "adds tokens" in await start.refusal()


async def test_a_llama_server_with_settings_that_stay_is_refused() -> None:
    async with start_on("llama") as start:

        async def completion(asked: Request) -> None:
            settings = {**asked.body, "stop": ["\n"], "grammar": "root ::= [a]"}
            await asked.whole(200, {"generation_settings": settings})

        start.upstream.routes["/completion"] = completion
        text = await start.refusal()
        assert "(stop, grammar)" in text


@pytest.mark.parametrize("kind", ["llama", "vllm", "other"])
async def test_a_chat_server_with_a_default_text_is_refused(kind: Kind) -> None:
    async with start_on(kind) as start:
        start.upstream.default_text = "You are a very helpful assistant."
        text = await start.refusal(upstream_api="chat")
        assert "user only" in text
        assert "ONBOOK_UPSTREAM_API=auto" in text
        if kind != "other":
            assert "helpful assistant" in text


@pytest.mark.parametrize("kind", ["llama", "vllm"])
@pytest.mark.parametrize("text", ["Today is Monday.\n", "[Reminder] ", "<|unknown|>", "systems "])
async def test_a_chat_server_that_always_adds_a_text_is_refused(kind: Kind, text: str) -> None:
    async with start_on(kind) as start:
        start.upstream.always = text
        assert text.strip() in await start.refusal(upstream_api="chat")


async def test_a_chat_server_that_only_counts_and_always_adds_is_refused() -> None:
    async with start_on("other") as start:
        start.upstream.extra_tokens = 30
        assert "every shape: about" in await start.refusal()


async def test_a_chat_server_that_drops_a_turn_is_refused() -> None:
    async with start_on("llama") as start:

        async def applied(asked: Request) -> None:
            messages = asked.body["messages"]
            assert isinstance(messages, list)
            await asked.whole(200, {"prompt": f"<|im_start|>user\n{messages[-1]['content']}"})

        start.upstream.routes["/apply-template"] = applied
        assert "left out" in await start.refusal(upstream_api="chat")


async def test_a_pure_count_is_known_where_the_tokenizer_is() -> None:
    messages = [Message("user", "hi"), Message("assistant", "ho"), Message("user", "hi <|im_end|>")]
    async with start_on("llama") as start:
        engine = await start(upstream_api="chat")
        assert isinstance(engine, ChatUpstream)
        count = await asyncio.to_thread(engine.expected_prompt_tokens, messages)
        turns = ["user\nhi", "assistant\nho", "user\nhi <|im_end|>"]
        # Two control tokens and a line break about each turn; then the assistant's turn opens.
        assert count == sum(len(turn) + 3 for turn in turns) + 1 + len("assistant\n")
    async with start_on("other") as start:
        engine = await start()
        assert isinstance(engine, ChatUpstream)
        assert engine.expected_prompt_tokens(messages) is None


async def test_a_stated_digest_is_stated_as_such() -> None:
    async with start_on("vllm") as start:
        engine = await start()
        assert isinstance(engine, TokenUpstream)
        assert engine.model.file_sha256 is None
        assert any("not known" in note for note in engine.notes)
        engine = await start(model_sha256="AB" * 32)
        assert isinstance(engine, TokenUpstream)
        assert engine.model.file_sha256 == "ab" * 32
        assert any("ONBOOK_MODEL_SHA256" in note for note in engine.notes)
