"""Routing by exact path, for applications whose paths hold no parameters.

One dictionary look-up per request, and every refusal is the one error body.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING

from onbook.wire.asgi import problem, request_id_of, send_json

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

Lifespan = Callable[[], AbstractAsyncContextManager[None]]


class ExactRouter:
    """Serves ``routes``: path to method to application.

    HEAD is served as GET, OPTIONS is answered here. ``lifespan`` brackets the application's life.
    """

    def __init__(
        self,
        routes: "Mapping[str, Mapping[str, ASGIApp]]",
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
        methods = self._routes.get(scope["path"])
        if methods is None:
            await self._refuse(scope, send, 404, "NOT_FOUND", "There is no such route.")
            return
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        app = methods.get(method)
        if app is not None:
            await app(scope, receive, send)
            return
        allow = (b"allow", ", ".join(sorted({*methods, "OPTIONS"})).encode())
        if method == "OPTIONS":
            await send({"type": "http.response.start", "status": 204, "headers": [allow]})
            await send({"type": "http.response.body", "body": b""})
        else:
            text = "The route does not take this method."
            await self._refuse(scope, send, 405, "METHOD_NOT_ALLOWED", text, allow)

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
