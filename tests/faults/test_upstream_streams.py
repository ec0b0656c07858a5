"""An upstream that misbehaves while it generates: a coded error, and nothing is left open."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

import pytest

from onbook.settings import Settings
from onbook.wire.worker_api import Message, Sampling, effective_sampling
from onbook.worker.engines.base import (
    EngineError,
    GrammarError,
    Piece,
    UpstreamUnavailableError,
)
from onbook.worker.engines.openai_upstream import (
    ChatUpstream,
    TokenUpstream,
    start_openai_upstream,
)
from scripted_upstream import Request, Script, ScriptedUpstream, scripted_upstream

APIS = ("llama_server", "completions", "chat")
SECRET = "SECRET-words"
QUOTING = f"you said {SECRET}"


@dataclass(slots=True)
class Bench:
    api: str
    upstream: ScriptedUpstream
    engine: TokenUpstream | ChatUpstream
    ids: list[int]

    def stream(self, *, grammar: str | None = None, max_tokens: int = 8) -> AsyncGenerator[Piece]:
        sampling = effective_sampling(Sampling(max_tokens=max_tokens, seed=1), "chat")
        if isinstance(self.engine, ChatUpstream):
            return self.engine.chat([Message("user", SECRET)], sampling, grammar)
        return self.engine.generate(self.ids, sampling, grammar)

    async def ask(self, *, grammar: str | None = None) -> list[Piece]:
        async with asyncio.timeout(10), aclosing(self.stream(grammar=grammar)) as pieces:
            return [piece async for piece in pieces]

    def said(self, text: str) -> object:
        """Return the event that carries a piece of text."""
        if self.api == "llama_server":
            return {"content": text, "stop": False}
        if self.api == "chat":
            return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
        return {"choices": [{"index": 0, "text": text, "finish_reason": None}]}

    def ended(self, asked: Request, *, tokens: int = 3, read: int | None = None) -> list[object]:
        """Return the events that end a generation."""
        if self.api == "llama_server":
            prompt = asked.body["prompt"]
            assert isinstance(prompt, list)
            return [
                {
                    "content": "",
                    "stop": True,
                    "stop_type": "eos",
                    "tokens_predicted": tokens,
                    "tokens_evaluated": len(prompt) if read is None else read,
                    "generation_settings": asked.body,
                }
            ]
        count = len(SECRET) if read is None else read
        choice: dict[str, object] = {"index": 0, "finish_reason": "stop"}
        choice["delta" if self.api == "chat" else "text"] = {} if self.api == "chat" else ""
        usage = {"prompt_tokens": count, "completion_tokens": tokens}
        return [{"choices": [choice]}, {"choices": [], "usage": usage}, "[DONE]"]

    async def good(self, asked: Request) -> None:
        await asked.head()
        await asked.events(self.said("a "), self.said("fox"), *self.ended(asked))

    async def refusal(self, script: Script, *, grammar: str | None = None) -> EngineError:
        """Run ``script`` and return the error; check what it must not leave behind."""
        before = _tasks()
        self.upstream.script = script
        with pytest.raises(EngineError) as caught:
            await self.ask(grammar=grammar)
        assert "SECRET" not in str(caught.value)
        # No request is open any more: the server would notice, and free its slot.
        async with asyncio.timeout(5):
            await self.upstream.idle.wait()
        assert _tasks() <= before
        self.upstream.script = self.good
        assert "".join(piece.text for piece in await self.ask()) == "a fox"
        return caught.value


@asynccontextmanager
async def bench_of(api: str, *, timeout_s: float = 5.0) -> AsyncIterator[Bench]:
    async with scripted_upstream("llama") as upstream:
        settings = Settings(
            upstream_url=upstream.url, upstream_api=api, upstream_timeout_s=timeout_s
        )
        engine = await asyncio.to_thread(
            start_openai_upstream, settings, progress=lambda _text: None
        )
        try:
            yield Bench(api, upstream, engine, await asyncio.to_thread(_ids, engine))
        finally:
            await engine.close()


@pytest.fixture(params=APIS)
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    async with bench_of(request.param) as made:
        yield made


@pytest.fixture(params=APIS)
async def hasty(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """Gives a silent server up after 0.2 s."""
    async with bench_of(request.param, timeout_s=0.2) as made:
        yield made


def _ids(engine: TokenUpstream | ChatUpstream) -> list[int]:
    return [] if isinstance(engine, ChatUpstream) else engine.text.ids(SECRET)


def _tasks() -> int:
    """Count the tasks of the engine's side."""
    return sum("serve" not in repr(task.get_coro()) for task in asyncio.all_tasks())


def _unavailable(error: EngineError) -> bool:
    return isinstance(error, UpstreamUnavailableError)


def _text(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


async def test_a_good_answer_comes_in_pieces_with_the_servers_usage(bench: Bench) -> None:
    bench.upstream.script = bench.good
    pieces = await bench.ask()
    assert [piece.text for piece in pieces] == ["a ", "fox", ""]
    last = pieces[-1]
    assert (last.finish_reason, last.tokens_generated) == ("stop", 3)
    assert last.prompt_tokens == len(SECRET)
    assert all(piece.finish_reason is None for piece in pieces[:-1])


async def test_bytes_may_come_one_at_a_time(bench: Bench) -> None:
    text = "é\U0001f98a中\n\u2028 \x00end"

    async def script(asked: Request) -> None:
        await asked.head()
        events = [bench.said(text), *bench.ended(asked)]
        said = [e if isinstance(e, str) else json.dumps(e, ensure_ascii=False) for e in events]
        stream = ": a comment\r\n\r\n" + "".join(f"id: 1\r\ndata:{one}\r\n\r\n" for one in said)
        for byte in stream.encode():
            await asked.send(bytes([byte]))

    bench.upstream.script = script
    assert _text(await bench.ask()) == text


async def test_a_last_event_with_text_of_its_own_is_not_lost() -> None:
    async with bench_of("llama_server") as bench:

        async def script(asked: Request) -> None:
            [last] = bench.ended(asked)
            assert isinstance(last, dict)
            await asked.head()
            await asked.events(bench.said("a"), {**last, "content": "b"})

        bench.upstream.script = script
        assert _text(await bench.ask()) == "ab"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/html", b"<html><body>" + QUOTING.encode() + b"</body></html>"),
        ("application/json", b'{"content": "SECRET"}'),
        ("text/plain", b"data: {}\n\n"),
        ("x" * 500, b""),
    ],
)
async def test_another_content_type_is_refused(bench: Bench, kind: str, body: bytes) -> None:
    async def script(asked: Request) -> None:
        await asked.head(kind=kind)
        await asked.send(body)

    error = await bench.refusal(script)
    assert not _unavailable(error)
    assert len(str(error)) < 200


@pytest.mark.parametrize(
    ("status", "unavailable"),
    [(429, True), (502, True), (503, True), (504, True)]
    + [(status, False) for status in (201, 204, 400, 401, 403, 404, 413, 418, 500, 501)],
)
async def test_a_refusal_has_its_kind(bench: Bench, status: int, *, unavailable: bool) -> None:
    async def script(asked: Request) -> None:
        await asked.whole(status, {"error": {"code": status, "message": QUOTING}})

    assert _unavailable(await bench.refusal(script)) is unavailable


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(bench: Bench, status: int) -> None:
    async def script(asked: Request) -> None:
        await asked.send(
            f"HTTP/1.1 {status} X\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n".encode()
        )

    error = await bench.refusal(script)
    assert not _unavailable(error)
    assert "redirect" in str(error)
    assert all(asked.path != "/elsewhere" for asked in bench.upstream.requests)


async def test_a_refused_grammar_is_the_callers_mistake(bench: Bench) -> None:
    async def script(asked: Request) -> None:
        message = f"Failed to initialize samplers: failed to parse grammar {SECRET}"
        await asked.whole(400, {"error": {"code": 400, "message": message}})

    assert isinstance(await bench.refusal(script, grammar='root ::= "a"'), GrammarError)


async def test_an_invalid_grammar_is_never_sent(bench: Bench) -> None:
    bench.upstream.script = bench.good
    with pytest.raises(GrammarError):
        await bench.ask(grammar=f'root ::= "{SECRET}')
    assert not bench.upstream.generations()


@pytest.mark.parametrize("at", ["before the status", "before the first event", "after a piece"])
async def test_a_silent_server_is_given_up(hasty: Bench, at: str) -> None:
    async def script(asked: Request) -> None:
        if at != "before the status":
            await asked.head()
        if at == "after a piece":
            await asked.events(hasty.said("a"))
        await asked.hang()

    assert _unavailable(await hasty.refusal(script))


async def test_a_comment_is_a_sign_of_life(hasty: Bench) -> None:
    released = asyncio.Event()

    async def script(asked: Request) -> None:
        await asked.head()
        # Twelve pings take longer than the silence that is allowed, none alone does.
        for _ in range(12):
            await asked.send(b": ping\n\n")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(released.wait(), 0.03)
        await asked.events(hasty.said("late"), *hasty.ended(asked))

    hasty.upstream.script = script
    assert _text(await hasty.ask()) == "late"


@pytest.mark.parametrize("sent", ["nothing", "the head", "a piece", "half an event", "[DONE]"])
async def test_a_server_that_hangs_up_is_unavailable(bench: Bench, sent: str) -> None:
    async def script(asked: Request) -> None:
        if sent != "nothing":
            await asked.head()
        if sent in ("a piece", "[DONE]"):
            await asked.events(bench.said("a"))
        if sent == "half an event":
            await asked.send(b'data: {"content": "a')
        if sent == "[DONE]":
            await asked.events("[DONE]")

    assert _unavailable(await bench.refusal(script))


async def test_a_chunked_answer_that_breaks_off_is_unavailable(bench: Bench) -> None:
    async def script(asked: Request) -> None:
        await asked.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        data = f"data: {json.dumps(bench.said('a'))}\n\n".encode()
        await asked.send(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    assert _unavailable(await bench.refusal(script))


@pytest.mark.parametrize(
    "data",
    [
        b"not json",
        b"{",
        b"[]",
        b"5",
        b'"text"',
        b'{"content": 5, "choices": 5}',
        b'{"content": "\xff\xfe", "choices": "\xff"}',
        b'{"content": "\\ud83d", "choices": [{"text": "\\ud83d"}]}',
        b"[" * 5000,
    ],
    ids=lambda data: repr(data[:24]),
)
async def test_an_event_that_cannot_be_read_is_an_error(bench: Bench, data: bytes) -> None:
    async def script(asked: Request) -> None:
        await asked.head()
        await asked.events(bench.said("a"))
        await asked.send(b"data: " + data + b"\n\n")
        await asked.events(*bench.ended(asked))

    assert not _unavailable(await bench.refusal(script))


@pytest.mark.parametrize(
    ("form", "unavailable"),
    [
        ('data: {"error": {"code": 500, "message": "%s"}}', False),
        ('data: {"error":{"code":503,"message":"%s"}}', True),
        ('data: {"error":{"code":429,"message":"%s"}}', True),
        ('data: {"error":{"message":"%s","type":"x","code":null}}', False),
        ('data: {"error":"%s"}', False),
        ('data: {"id": 1, "error": {"message": "%s"}}', False),
        ('error: {"code": 500, "message": "%s"}', False),
        ('event: error\ndata: {"message": "%s"}', False),
    ],
)
async def test_an_error_inside_the_stream_is_an_error(
    bench: Bench, form: str, *, unavailable: bool
) -> None:
    async def script(asked: Request) -> None:
        await asked.head()
        await asked.events(bench.said("a"))
        await asked.send((form % QUOTING).encode() + b"\n\n")
        await asked.events(*bench.ended(asked))

    assert _unavailable(await bench.refusal(script)) is unavailable


@pytest.mark.parametrize("shape", ["line", "event", "stream"])
async def test_what_never_ends_is_given_up(bench: Bench, shape: str) -> None:
    sent = 0
    one = {
        "line": b"data: " + b"x" * 65_536,
        "event": b"data: " + b"x" * 65_536 + b"\n",
        "stream": f"data: {json.dumps(bench.said('x' * 65_536))}\n\n".encode(),
    }[shape]

    async def script(asked: Request) -> None:
        nonlocal sent
        await asked.head()
        while True:
            await asked.send(one.removeprefix(b"data: ") if shape == "line" and sent else one)
            sent += len(one)

    error = await bench.refusal(script)
    assert not _unavailable(error)
    assert sent < 32 * 1024 * 1024


@pytest.mark.parametrize(
    "answer",
    [
        b"220 mail.example ESMTP\r\n",
        b"HTTP/1.1 OK fine\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    ],
    ids=["another protocol", "no status", "a giant header", "two lengths"],
)
async def test_what_is_not_http_is_an_error(bench: Bench, answer: bytes) -> None:
    async def script(asked: Request) -> None:
        await asked.send(answer)
        await asked.hang()

    await bench.refusal(script)


async def test_what_the_server_read_is_told_as_it_says_it() -> None:
    # Another number of tokens than it was given is a violation, which the executor finds.
    for api in ("llama_server", "completions"):
        async with bench_of(api) as bench:

            async def script(asked: Request, bench: Bench = bench) -> None:
                await asked.head()
                await asked.events(*bench.ended(asked, read=len(SECRET) + 1))

            bench.upstream.script = script
            pieces = await bench.ask()
            assert pieces[-1].prompt_tokens == len(SECRET) + 1


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"generation_settings": {"temperature": 0.1}}, "temperature"),
        ({"generation_settings": {"samplers": ["temperature"]}}, "samplers"),
        ({"generation_settings": {"stop": ["x"]}}, "stop"),
        ({"generation_settings": {"seed": 2}}, "seed"),
        ({"generation_settings": {"grammar": "root ::= [a]"}}, "grammar"),
        ({"generation_settings": {"ignore_eos": True}}, "ignore_eos"),
        ({"truncated": True}, "cut"),
        ({"stop_type": "none"}, "ended"),
        ({"tokens_predicted": None}, "ended"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_llama_server_that_did_otherwise_is_an_error(
    change: dict[str, object], word: str
) -> None:
    async with bench_of("llama_server") as bench:

        async def script(asked: Request) -> None:
            [last] = bench.ended(asked)
            assert isinstance(last, dict)
            await asked.head()
            await asked.events({**last, **change})

        assert word in str(await bench.refusal(script))


@pytest.mark.parametrize("api", ["completions", "chat"])
@pytest.mark.parametrize("reason", ["content_filter", "abort", "tool_calls", SECRET])
async def test_another_finish_reason_is_an_error(api: str, reason: str) -> None:
    async with bench_of(api) as bench:

        async def script(asked: Request) -> None:
            await asked.head()
            await asked.events({"choices": [{"index": 0, "finish_reason": reason}]}, "[DONE]")

        assert not _unavailable(await bench.refusal(script))


@pytest.mark.parametrize("api", ["completions", "chat"])
async def test_a_usage_that_breaks_off_is_unavailable(api: str) -> None:
    async with bench_of(api) as bench:

        async def script(asked: Request) -> None:
            await asked.head()
            await asked.events(bench.said("a"), bench.ended(asked)[0])
            await asked.send(b'data: {"choices": [], "usa')

        assert _unavailable(await bench.refusal(script))


@pytest.mark.parametrize("api", ["completions", "chat"])
async def test_an_answer_without_usage_is_an_error(api: str) -> None:
    async with bench_of(api) as bench:

        async def script(asked: Request) -> None:
            await asked.head()
            await asked.events(bench.said("a"), bench.ended(asked)[0], "[DONE]")

        assert "usage" in str(await bench.refusal(script))


@pytest.mark.parametrize("part", ["reasoning", "reasoning_content", "refusal"])
async def test_a_text_that_was_taken_apart_is_an_error(part: str) -> None:
    async with bench_of("chat") as bench:

        async def script(asked: Request) -> None:
            await asked.head()
            await asked.events({"choices": [{"index": 0, "delta": {part: SECRET}}]})
            await asked.events(*bench.ended(asked))

        assert "apart" in str(await bench.refusal(script))


@pytest.mark.parametrize("how", ["closed", "cancelled"])
async def test_leaving_a_stream_closes_its_connection(bench: Bench, how: str) -> None:
    async def script(asked: Request) -> None:
        await asked.head()
        await asked.events(bench.said("a"))
        await asked.hang()

    bench.upstream.script = script
    begun = asyncio.Event()

    async def read() -> None:
        async with aclosing(bench.stream()) as pieces:
            async for _ in pieces:
                begun.set()
                if how == "closed":
                    return

    reading = asyncio.create_task(read())
    async with asyncio.timeout(5):
        await begun.wait()
        if how == "cancelled":
            reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await bench.upstream.idle.wait()


async def test_a_server_that_is_gone_is_unavailable_and_not_ready(bench: Bench) -> None:
    assert await bench.engine.ready()
    stream = bench.engine._stream
    stream._server = type(stream._server)("http://127.0.0.1:1", None, 1.0)
    stream._asked_at = None
    assert not await bench.engine.ready()
    with pytest.raises(UpstreamUnavailableError):
        await bench.ask()


async def test_health_is_asked_once_a_second_at_most(bench: Bench) -> None:
    now = 100.0
    bench.engine._stream._now = lambda: now
    bench.upstream.requests.clear()
    await asyncio.gather(*(bench.engine.ready() for _ in range(20)))
    now = 100.9
    assert await bench.engine.ready()
    asked = [request for request in bench.upstream.requests if request.path == "/health"]
    assert len(asked) == 1

    async def loading(request: Request) -> None:
        await request.whole(503, {"error": {"message": "Loading model"}})

    bench.upstream.routes["/health"] = loading
    assert await bench.engine.ready()
    now = 101.0
    assert not await bench.engine.ready()
