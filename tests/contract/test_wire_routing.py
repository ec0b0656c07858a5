"""The routers: paths, their parameters, methods and the application's life."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote, unquote

import httpx
import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.lifespan.on import LifespanOn

from onbook.wire.asgi import send_json
from onbook.wire.routing import ExactRouter, Lifespan, PathRouter


async def _hello(scope: Scope, _receive: Receive, send: Send) -> None:
    await send_json(send, 200, {"path": scope["path"], "method": scope["method"]})


ROUTER = ExactRouter(
    {"/a": {"GET": _hello, "POST": _hello}, "/b": {"POST": _hello}}, hint="Look at the map."
)


async def _ask(method: str, path: str, **headers: str) -> httpx.Response:
    return await _ask_of(ROUTER, method, path, **headers)


async def _ask_of(router: ExactRouter, method: str, path: str, **headers: str) -> httpx.Response:
    transport = httpx.ASGITransport(app=router)
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as http:
        return await http.request(method, path, headers=headers)


@pytest.mark.parametrize(("method", "path"), [("GET", "/a"), ("POST", "/a"), ("POST", "/b")])
async def test_a_route_is_served_by_its_application(method: str, path: str) -> None:
    answer = await _ask(method, f"{path}?x=1")
    assert (answer.status_code, answer.json()) == (200, {"path": path, "method": method})


async def test_head_is_served_as_get() -> None:
    answer = await _ask("HEAD", "/a")
    assert answer.status_code == 200
    assert int(answer.headers["content-length"]) > 0


@pytest.mark.parametrize("path", ["/", "/a/", "/A", "//a", "/a/b", "/%2561"])
async def test_any_other_path_is_404_with_the_one_error_body(path: str) -> None:
    given = str(uuid.uuid4())
    answer = await _ask("GET", path, **{"x-request-id": given})
    assert answer.status_code == 404
    assert answer.json() == {
        "success": False,
        "error": "There is no such route.",
        "error_code": "NOT_FOUND",
        "details": None,
        "suggested_action": "Look at the map.",
        "request_id": given,
    }


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("DELETE", "/a", "GET, OPTIONS, POST"),
        ("GET", "/b", "OPTIONS, POST"),
        ("BREW", "/b", "OPTIONS, POST"),
    ],
)
async def test_another_method_is_405_and_says_which_are_allowed(
    method: str, path: str, allow: str
) -> None:
    answer = await _ask(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allow)
    assert answer.json()["error_code"] == "METHOD_NOT_ALLOWED"


async def test_head_of_a_route_without_get_is_405() -> None:
    assert (await _ask("HEAD", "/b")).status_code == 405


async def test_options_is_answered_with_the_methods() -> None:
    answer = await _ask("OPTIONS", "/b")
    assert (answer.status_code, answer.headers["allow"]) == (204, "OPTIONS, POST")
    assert answer.content == b""
    assert (await _ask("OPTIONS", "/c")).status_code == 404


def _named(name: str) -> ASGIApp:
    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        await send_json(send, 200, {"app": name, "parameters": scope.get("path_params")})

    return app


BOOKS = PathRouter(
    {
        "/books": {"GET": _named("list")},
        "/books/import": {"POST": _named("import")},
        "/books/{name}": {"GET": _named("show")},
        "/books/{name}/pages": {"GET": _named("pages")},
        "/books/{name}/pages/{page}": {"GET": _named("page"), "DELETE": _named("tear out")},
        "/books/{name}/split/promote": {"POST": _named("promote")},
    }
)


@pytest.mark.parametrize(
    ("method", "path", "app", "parameters"),
    [
        ("GET", "/books", "list", None),
        ("HEAD", "/books", "list", None),
        ("POST", "/books/import", "import", None),
        # What is spelt out for one method hides nothing of another.
        ("GET", "/books/import", "show", {"name": "import"}),
        ("GET", "/books/ulysses", "show", {"name": "ulysses"}),
        ("GET", "/books/caf%C3%A9%20%E2%98%95", "show", {"name": "café ☕"}),
        ("GET", "/books/a%2Fb", "show", {"name": "a/b"}),
        ("GET", "/books/a%2Fpages/pages", "pages", {"name": "a/pages"}),
        ("GET", "/books/50%25", "show", {"name": "50%"}),
        ("GET", "/books/a%252Fb", "show", {"name": "a%2Fb"}),
        ("GET", "/books/a+b", "show", {"name": "a+b"}),
        ("GET", "/books/%ff", "show", {"name": "\ufffd"}),
        ("GET", "/books/{name}", "show", {"name": "{name}"}),
        ("GET", "/books/pages/pages", "pages", {"name": "pages"}),
        ("GET", "/books/x/pages/7", "page", {"name": "x", "page": "7"}),
        ("DELETE", "/books/x/pages/7", "tear out", {"name": "x", "page": "7"}),
        ("POST", "/books/x/split/promote", "promote", {"name": "x"}),
    ],
)
async def test_a_pattern_takes_whole_decoded_segments(
    method: str, path: str, app: str, parameters: dict[str, str] | None
) -> None:
    answer = await _ask_of(BOOKS, method, path)
    assert answer.status_code == 200
    if method != "HEAD":
        assert answer.json() == {"app": app, "parameters": parameters}


@pytest.mark.parametrize(
    "path",
    [
        "/books/",
        "/books//pages",
        "/books/x/",
        "/books/x/pages/",
        "/books/x/pages/7/lines",
        "/books/x/chapters",
        "/books/x/split/abort",
        "/Books/x",
        "/books%2Fx",
        "x/books/y",
    ],
)
async def test_a_path_that_fits_no_pattern_is_404(path: str) -> None:
    answer = await _ask_of(BOOKS, "GET", path)
    assert (answer.status_code, answer.json()["error_code"]) == (404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/books/x", "GET, OPTIONS"),
        ("DELETE", "/books/import", "GET, OPTIONS, POST"),
        ("PUT", "/books/x/pages/7", "DELETE, GET, OPTIONS"),
        ("GET", "/books/x/split/promote", "OPTIONS, POST"),
    ],
)
async def test_another_method_of_a_pattern_is_405_with_all_that_the_path_takes(
    method: str, path: str, allow: str
) -> None:
    answer = await _ask_of(BOOKS, method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allow)
    assert answer.json()["error_code"] == "METHOD_NOT_ALLOWED"
    options = await _ask_of(BOOKS, "OPTIONS", path)
    assert (options.status_code, options.headers["allow"]) == (204, allow)


async def test_a_server_without_raw_paths_is_served_by_the_decoded_one() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    scope = {"type": "http", "method": "GET", "path": "/books/café", "headers": []}
    await BOOKS(scope, receive, send)
    assert sent[0]["status"] == 200
    assert "café".encode() in sent[1]["body"]


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_name_comes_back_as_it_was(name: str) -> None:
    path = f"/books/{quote(name, safe='')}"
    scope = {"path": unquote(path), "raw_path": path.encode(), "method": "GET"}
    found = [parameters for methods, parameters in BOOKS._matches(scope) if "GET" in methods]
    assert found == [{"name": name}]


async def test_a_websocket_is_closed() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    await ROUTER({"type": "websocket", "path": "/a", "headers": []}, receive, send)
    assert [message["type"] for message in sent] == ["websocket.close"]


class Life:
    """A lifespan that says where it is, and fails where the test says."""

    def __init__(self, fails: str = "") -> None:
        self.fails = fails
        self.seen: list[str] = []

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[None]:
        self._reach("startup")
        try:
            yield
        finally:
            self._reach("shutdown")

    def _reach(self, stage: str) -> None:
        self.seen.append(stage)
        if stage == self.fails:
            raise ValueError(f"{stage} broke")


async def _live(lifespan: Lifespan | None) -> list[Message]:
    sent: list[Message] = []
    received = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive() -> Message:
        return {"type": next(received)}

    async def send(message: Message) -> None:
        sent.append(message)

    router = ExactRouter({}, lifespan=lifespan)
    try:
        await router({"type": "lifespan"}, receive, send)
    except ValueError:
        sent.append({"type": "raised"})
    return sent


async def test_a_life_without_a_lifespan() -> None:
    assert [message["type"] for message in await _live(None)] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]


async def test_a_life_is_bracketed_by_its_lifespan() -> None:
    life = Life()
    sent = await _live(life)
    assert [message["type"] for message in sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert life.seen == ["startup", "shutdown"]


async def test_a_failing_startup_is_reported_and_nothing_is_complete() -> None:
    life = Life("startup")
    failed, raised = await _live(life)
    assert failed == {"type": "lifespan.startup.failed", "message": "ValueError: startup broke"}
    assert raised["type"] == "raised"
    assert life.seen == ["startup"]


async def test_a_failing_shutdown_is_reported() -> None:
    complete, failed, raised = await _live(Life("shutdown"))
    assert complete["type"] == "lifespan.startup.complete"
    assert failed == {"type": "lifespan.shutdown.failed", "message": "ValueError: shutdown broke"}
    assert raised["type"] == "raised"


@pytest.mark.parametrize("mode", ["on", "auto"])
@pytest.mark.parametrize(("fails", "should_exit"), [("startup", True), ("", False)])
async def test_the_server_stops_where_startup_fails_in_either_of_its_modes(
    mode: str, fails: str, *, should_exit: bool
) -> None:
    app = ExactRouter({}, lifespan=Life(fails))
    config = uvicorn.Config(app, log_config=None)
    config.lifespan = mode  # type: ignore[assignment]  # the parameter is one of its literals
    server = LifespanOn(config)
    async with asyncio.timeout(5):
        await server.startup()
        assert server.should_exit is should_exit
        await server.shutdown()
