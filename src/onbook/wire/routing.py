"""Routing: by exact path, and for the paths that hold parameters by their pattern.

An exact path costs one dictionary look-up, and every refusal is the one error body.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from onbook.wire.asgi import problem, request_id_of, send_json

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

Lifespan = Callable[[], AbstractAsyncContextManager[None]]
Methods = Mapping[str, "ASGIApp"]
Parameters = Mapping[str, str]
# What is served at a pattern, and the names of its parameters.
_Pattern = tuple[Methods, tuple[str, ...]]


class ExactRouter:
    """Serves ``routes``: path to method to application.

    HEAD is served as GET, OPTIONS is answered here. ``lifespan`` brackets the application's life.
    """

    def __init__(
        self,
        routes: Mapping[str, Methods],
        *,
        lifespan: Lifespan | None = None,
        hint: str = "See GET /openapi.json for the routes.",
    ) -> None:
        self._routes = routes
        self._lifespan = lifespan
        self._hint = hint

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Serve one request, or the lifespan."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if scope["type"] != "http":
            # There are no WebSocket routes: refuse the handshake.
            await send({"type": "websocket.close", "code": 1000})
            return
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        methods = self._routes.get(scope["path"], {})
        app = methods.get(method)
        if app is not None:
            await app(scope, receive, send)
            return
        known = set(methods)
        for patterned, parameters in self._matches(scope):
            app = patterned.get(method)
            if app is not None:
                await app({**scope, "path_params": parameters}, receive, send)
                return
            known |= patterned.keys()
        if not known:
            await self._refuse(scope, send, 404, "NOT_FOUND", "There is no such route.")
            return
        allow = (b"allow", ", ".join(sorted({*known, "OPTIONS"})).encode())
        if method == "OPTIONS":
            await send({"type": "http.response.start", "status": 204, "headers": [allow]})
            await send({"type": "http.response.body", "body": b""})
        else:
            text = "The route does not take this method."
            await self._refuse(scope, send, 405, "METHOD_NOT_ALLOWED", text, allow)

    def _matches(self, _scope: "Scope") -> Iterator[tuple[Methods, Parameters]]:
        """Yield what is served at a path that is not spelt out: here, nothing."""
        yield from ()

    async def _refuse(
        self,
        scope: "Scope",
        send: "Send",
        status: int,
        code: str,
        text: str,
        *headers: tuple[bytes, bytes],
    ) -> None:
        body = problem(code, text, request_id=request_id_of(scope), suggested_action=self._hint)
        await send_json(send, status, body, headers)

    async def _live(self, receive: "Receive", send: "Send") -> None:
        await receive()
        started = False
        try:
            async with self._lifespan() if self._lifespan is not None else nullcontext():
                await send({"type": "lifespan.startup.complete"})
                started = True
                await receive()
        except Exception as error:
            # A server that is not told may take the application for one without a lifespan, and
            # serve it half started.
            stage = "shutdown" if started else "startup"
            message = f"{type(error).__name__}: {error}"
            await send({"type": f"lifespan.{stage}.failed", "message": message})
            raise
        await send({"type": "lifespan.shutdown.complete"})


class PathRouter(ExactRouter):
    """An exact router that also serves paths like ``/books/{name}/pages/{page}``.

    A parameter is one whole, non-empty segment. The application finds it, percent-decoded, in
    ``scope["path_params"]``. A path that is spelt out wins over a pattern, method by method: a
    POST route ``/books/import`` does not hide ``GET /books/{name}`` for a book called "import".
    """

    def __init__(
        self,
        routes: Mapping[str, Methods],
        *,
        lifespan: Lifespan | None = None,
        hint: str = "See GET /openapi.json for the routes.",
    ) -> None:
        exact = {path: methods for path, methods in routes.items() if "{" not in path}
        super().__init__(exact, lifespan=lifespan, hint=hint)
        # By number of segments, then by the places of the parameters: a look-up each.
        self._shapes: dict[int, dict[tuple[int, ...], dict[tuple[str, ...], _Pattern]]]
        self._shapes = defaultdict(lambda: defaultdict(dict))
        for path, methods in routes.items():
            if path not in exact:
                segments = path.split("/")
                places = tuple(i for i, text in enumerate(segments) if text.startswith("{"))
                names = tuple(segments[place][1:-1] for place in places)
                fixed = _without(segments, places)
                self._shapes[len(segments)][places][fixed] = methods, names

    def _matches(self, _scope: "Scope") -> Iterator[tuple[Methods, Parameters]]:
        segments = _segments(_scope)
        for places, patterns in self._shapes.get(len(segments), {}).items():
            found = patterns.get(_without(segments, places))
            if found is not None and all(segments[place] for place in places):
                methods, names = found
                yield methods, dict(zip(names, (segments[i] for i in places), strict=True))


def _without(segments: list[str], places: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(text for i, text in enumerate(segments) if i not in places)


def _segments(scope: "Scope") -> list[str]:
    """Return the decoded segments: an encoded slash is part of a name and divides nothing."""
    raw: bytes | None = scope.get("raw_path")
    if raw is None:
        return str(scope["path"]).split("/")
    return [unquote_to_bytes(part).decode("utf-8", "replace") for part in raw.split(b"/")]
