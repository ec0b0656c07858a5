"""What a worker answers before it has its model: that it is there, and not ready yet."""

from typing import TYPE_CHECKING

from onbook.wire.asgi import problem, request_id_of, send_json
from onbook.wire.routing import ExactRouter
from onbook.wire.worker_api import WorkerHealth
from onbook.worker.access import HEALTH_PATHS
from onbook.worker.explain import COME_BACK_S

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_RETRY_AFTER = (b"retry-after", str(COME_BACK_S).encode())


class LoadingApp:
    """Answers 503 to everything until it is handed the application that can do more."""

    def __init__(self) -> None:
        self._app: ASGIApp | None = None
        self._lifespan = ExactRouter({})

    def hand_over(self, app: "ASGIApp") -> None:
        """Let ``app`` answer from now on."""
        self._app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Serve one request, or the lifespan."""
        if scope["type"] != "http":
            await self._lifespan(scope, receive, send)
        elif self._app is not None:
            await self._app(scope, receive, send)
        elif scope["path"] in HEALTH_PATHS:
            body = WorkerHealth(
                status="loading",
                model_loaded=False,
                self_probe=False,
                detail="The model is being loaded and tested.",
            )
            await send_json(send, 503, body, [_RETRY_AFTER])
        else:
            answer = problem(
                "WORKER_UNAVAILABLE",
                "The worker is loading its model.",
                request_id=request_id_of(scope),
                suggested_action="Try again after Retry-After seconds.",
            )
            await send_json(send, 503, answer, [_RETRY_AFTER])
