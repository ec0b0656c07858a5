"""The gateway's ASGI application."""

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import structlog
from starlette.middleware.cors import CORSMiddleware

from onbook.bootstrap import Service
from onbook.gateway.errors import as_onbook_error, problem_of
from onbook.gateway.functions import Function
from onbook.gateway.openapi import openapi_document
from onbook.gateway.routes.enhance_prompt import enhance_prompt_route
from onbook.gateway.routes.health import Healthz, Metrics, Readyz
from onbook.gateway.routes.health_check_workers import health_check_workers_route
from onbook.gateway.routes.refresh_prompt_cache import refresh_prompt_cache_route
from onbook.gateway.routes.templates import template_routes
from onbook.wire.asgi import request_id_of, send_json
from onbook.wire.routing import Lifespan, PathRouter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

CORS_HEADERS: Final = (
    "authorization",
    "x-client-info",
    "apikey",
    "content-type",
    "idempotency-key",
)
FUNCTIONS: Final = "/functions/v1/"
WORKER_PATHS: Final = frozenset(
    {"/chat", "/enhance", "/generate", "/worker/info", "/model/info", "/chat/health"}
)
_log = structlog.get_logger("onbook.gateway")


def build_gateway(
    service: Service,
    *,
    worker_app: "ASGIApp | None" = None,
    pages: "Mapping[str, ASGIApp] | None" = None,
) -> "ASGIApp":
    """Return the application.

    Args:
        service: The wired parts; started and closed with the application's lifespan.
        worker_app: The embedded worker, whose own paths are served on the same port.
        pages: Pages for people, by path.
    """
    enhance = Function("enhance-prompt", "enhance", service, enhance_prompt_route)
    refresh = Function("refresh-prompt-cache", "admin", service, refresh_prompt_cache_route)
    workers = Function("health-check-workers", "admin", service, health_check_workers_route)
    router = PathRouter(
        {
            "/functions/v1/enhance-prompt": {"POST": enhance},
            "/functions/v1/refresh-prompt-cache": {"POST": refresh},
            "/functions/v1/health-check-workers": {"GET": workers},
            "/healthz": {"GET": Healthz()},
            "/readyz": {"GET": Readyz(service)},
            "/health": {"GET": Readyz(service)},
            "/metrics": {"GET": Metrics(service)},
            "/openapi.json": {"GET": _OpenApi()},
            **template_routes(service),
            **{path: {"GET": page} for path, page in (pages or {}).items()},
        },
        lifespan=_lifespan(service),
    )
    functions = CORSMiddleware(
        router,
        allow_origins=service.settings.cors_origins,
        allow_methods=["GET", "POST", "OPTIONS"],
        allow_headers=CORS_HEADERS,
        expose_headers=["x-request-id", "retry-after"],
        max_age=86_400,
    )
    return _Dispatch(router, functions, worker_app)


class _Dispatch:
    """Sends the worker's paths to the embedded worker; only edge functions are open to pages."""

    def __init__(
        self, gateway: "ASGIApp", functions: "ASGIApp", worker_app: "ASGIApp | None"
    ) -> None:
        self._gateway = gateway
        self._functions = functions
        self._worker_app = worker_app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        path = scope["path"] if scope["type"] == "http" else ""
        if self._worker_app is not None and path in WORKER_PATHS:
            await self._worker_app(scope, receive, send)
        elif path.startswith(FUNCTIONS):
            await _guarded(self._functions, scope, receive, send)
        else:
            await _guarded(self._gateway, scope, receive, send)


async def _guarded(app: "ASGIApp", scope: "Scope", receive: "Receive", send: "Send") -> None:
    """Serve, and answer a bug in a thin route with the one error body too."""
    started = False

    async def watched(message: "Message") -> None:
        nonlocal started
        started = True
        await send(message)

    try:
        await app(scope, receive, watched)
    except Exception as error:
        if scope["type"] != "http":
            raise
        request_id = request_id_of(scope)
        known = as_onbook_error(error, request_id)
        if started:
            # Raised further, the error's own words would be printed, and they may be a caller's.
            return
        await send_json(send, known.status, problem_of(known, request_id))


class _OpenApi:
    """``GET /openapi.json``."""

    async def __call__(self, _scope: "Scope", _receive: "Receive", send: "Send") -> None:
        await send_json(send, 200, openapi_document())


def _lifespan(service: Service) -> Lifespan:
    @asynccontextmanager
    async def lifespan() -> "AsyncIterator[None]":
        try:
            await service.start()
            yield
        finally:
            await service.close()
            _log.info("service.stopped")

    return lifespan
