"""An upstream on a real socket whose streams the test scripts, byte by byte.

What the start asks for it answers as llama-server, vLLM, SGLang or an unknown server would, with
a tokenizer of one id per character and three special tokens.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal, cast

Kind = Literal["llama", "vllm", "sglang", "other"]

SPECIAL = {"<|im_start|>": 1, "<|im_end|>": 2, "<|own|>": 3}
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + "
    "message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_SPECIAL = re.compile("|".join(map(re.escape, SPECIAL)))
_FIRST_PLAIN = 16


def ids_of(text: str, *, special: bool) -> list[int]:
    ids: list[int] = []
    position = 0
    for match in _SPECIAL.finditer(text) if special else ():
        ids += [ord(sign) + _FIRST_PLAIN for sign in text[position : match.start()]]
        ids.append(SPECIAL[match.group()])
        position = match.end()
    return ids + [ord(sign) + _FIRST_PLAIN for sign in text[position:]]


def text_of(ids: list[int]) -> str:
    names = {token: name for name, token in SPECIAL.items()}
    return "".join(names.get(token) or chr(token - _FIRST_PLAIN) for token in ids)


def chatml(messages: list[dict[str, str]], default: str = "") -> str:
    turns = [f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in messages]
    if default and messages[0]["role"] != "system":
        turns.insert(0, f"<|im_start|>system\n{default}<|im_end|>\n")
    return "".join(turns) + "<|im_start|>assistant\n"


@dataclass(slots=True)
class Request:
    """One request as it came, and the way to answer it."""

    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, object]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    upstream: "ScriptedUpstream"

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()
        # Draining lets nobody else run while the socket takes everything.
        await asyncio.sleep(0)

    async def head(self, status: int = 200, kind: str = "text/event-stream") -> None:
        """Open an answer that ends with the connection."""
        await self.send(
            f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\n".encode()
        )

    async def events(self, *events: object) -> None:
        for event in events:
            said = event if isinstance(event, str) else json.dumps(event)
            await self.send(f"data: {said}\n\n".encode())

    async def whole(self, status: int, body: object, kind: str = "application/json") -> None:
        """Send a whole answer and keep the connection."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n\r\n"
        await self.send(head.encode() + data)

    async def hang(self) -> None:
        """Say nothing more until the caller goes away."""
        while await self.reader.read(65_536):
            pass


Script = Callable[[Request], Awaitable[None]]


@dataclass(slots=True)
class ScriptedUpstream:
    """The server. ``script`` answers the requests that generate; ``open`` counts those now."""

    kind: Kind
    url: str = ""
    script: Script | None = None
    requests: list[Request] = field(default_factory=list)
    routes: dict[str, Script] = field(default_factory=dict)
    open: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    version: str = "0.31.0"
    deterministic: bool = False
    default_text: str = ""
    always: str = ""
    extra_tokens: int = 0

    def generations(self) -> list[Request]:
        return [asked for asked in self.requests if asked.body.get("stream")]

    async def stream(self, asked: Request) -> None:
        assert self.script is not None
        self.open += 1
        self.idle.clear()
        try:
            await self.script(asked)
        finally:
            self.open -= 1
            if self.open == 0:
                self.idle.set()

    async def answer(self, asked: Request) -> None:
        path = asked.path
        if path in self.routes:
            await self.routes[path](asked)
        elif (answer := self._told(path, asked.body)) is not None:
            await asked.whole(200, answer)
        else:
            await asked.whole(404, {"error": {"message": "no such route", "code": 404}})

    def _told(self, path: str, body: dict[str, object]) -> object | None:
        llama = self.kind == "llama"
        owner = {"llama": "llamacpp", "other": "someone"}.get(self.kind, self.kind)
        defaults = {"n_ctx": 512, "params": {}}
        info = {"enable_deterministic_inference": self.deterministic, "context_length": 400}
        fixed: dict[str, tuple[bool, object]] = {
            "/v1/models": (
                True,
                {"data": [{"id": "m", "owned_by": owner, "max_model_len": 512}]},
            ),
            "/health": (True, {"status": "ok"}),
            "/props": (
                llama,
                {
                    "default_generation_settings": defaults,
                    "total_slots": 1,
                    "chat_template": CHATML,
                },
            ),
            "/version": (self.kind == "vllm", {"version": self.version}),
            "/server_info": (self.kind == "sglang", info),
        }
        there, told = fixed.get(path, (False, None))
        if there:
            return told
        if self.kind != "other" and path in ("/tokenize", "/detokenize", "/apply-template"):
            return self._text_route(path, body)
        return self._one_token(path, body)

    def _text_route(self, path: str, body: dict[str, object]) -> object | None:
        llama = self.kind == "llama"
        if path == "/detokenize":
            text = text_of(cast("list[int]", body["tokens"]))
            return {"content" if llama else "prompt": text}
        if "messages" in body:
            messages = cast("list[dict[str, str]]", body["messages"])
            said = self.always + chatml(messages, self.default_text)
            return {"prompt": said} if llama else {"tokens": ids_of(said, special=True)}
        given = body.get("content" if llama else "prompt")
        if not isinstance(given, str):
            return {"tokens": []} if llama else None
        return {"tokens": ids_of(given, special=not llama or bool(body.get("parse_special")))}

    def _one_token(self, path: str, body: dict[str, object]) -> object | None:
        if path == "/completion":
            settings = {**body, "n_predict": body["n_predict"]}
            read = len(cast("list[int]", body["prompt"])) + self.extra_tokens
            return {"tokens_evaluated": read, "generation_settings": settings}
        if path == "/v1/completions":
            read = len(cast("list[int]", body["prompt"])) + self.extra_tokens
            return {"usage": {"prompt_tokens": read}}
        if path == "/v1/chat/completions":
            turns = cast("list[dict[str, str]]", body["messages"])
            read = len(chatml(turns, self.default_text).split()) + self.extra_tokens
            return {"usage": {"prompt_tokens": read}}
        return None


@asynccontextmanager
async def scripted_upstream(kind: Kind = "llama") -> AsyncIterator[ScriptedUpstream]:
    upstream = ScriptedUpstream(kind)
    upstream.idle.set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (asked := await _request(reader, writer, upstream)) is not None:
                upstream.requests.append(asked)
                if asked.body.get("stream"):
                    await upstream.stream(asked)
                    break
                await upstream.answer(asked)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 20)
    upstream.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield upstream
    finally:
        server.close()
        async with asyncio.timeout(10):
            await upstream.idle.wait()
        await server.wait_closed()


async def _request(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, upstream: ScriptedUpstream
) -> Request | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.rstrip("\r\n").split("\r\n")
    headers = {line.split(":", 1)[0].lower(): line.split(":", 1)[1].strip() for line in lines}
    data = await reader.readexactly(int(headers.get("content-length", "0")))
    method, path, _ = first.split(" ")
    return Request(
        method, path, headers, json.loads(data) if data else {}, reader, writer, upstream
    )
