"""Whether the gateway lives, whether it can serve, and what it counts."""

from typing import TYPE_CHECKING

from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from onbook import __version__
from onbook.bootstrap import Service
from onbook.gateway.auth import authenticate, require
from onbook.gateway.errors import as_onbook_error, problem_of
from onbook.wire.asgi import request_id_of, send_json

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send


class Healthz:
    """``GET /healthz``: the process answers."""

    async def __call__(self, _scope: "Scope", _receive: "Receive", send: "Send") -> None:
        """Answer 200."""
        await send_json(send, 200, {"status": "ok", "version": __version__})


class Readyz:
    """``GET /readyz`` and ``GET /health``: 200 when requests can be served.

    A worker that is away does not make a gateway unready: rules serve, labelled as such.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, _scope: "Scope", _receive: "Receive", send: "Send") -> None:
        """Answer 200 or 503, with what is behind it."""
        service = self._service
        state = service.book.state()
        # Without a single active template the packaged ones serve, so there is always one.
        ready = state.templates > 0 or state.packaged > 0
        body = {
            "status": "ready" if ready else "not_ready",
            "templates": {
                "source": state.source,
                "active": state.templates,
                # Equal on two gateways that serve the same.
                "sha256": state.active_sha256,
                "epoch": state.epoch,
                "age_seconds": round(state.age_seconds, 1),
                "stale": sorted(service.book.stale()),
            },
            "database": "ok" if state.reachable else "unreachable",
            "gateway": {"id": service.gateway.gateway_id, "name": service.gateway.name},
            "worker": service.worker_state(),
            "spooled_rows": service.log.pending,
        }
        await send_json(send, 200 if ready else 503, body)


class Metrics:
    """``GET /metrics``: for Prometheus. Beyond loopback it takes a key with ``logs:read``."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: "Scope", _receive: "Receive", send: "Send") -> None:
        """Answer the exposition text."""
        if not self._service.settings.on_loopback:
            request_id = request_id_of(scope)
            try:
                require(await authenticate(scope, self._service.keys), "logs:read")
            except Exception as error:  # noqa: BLE001 - the last line before the caller
                known = as_onbook_error(error, request_id)
                await send_json(send, known.status, problem_of(known, request_id))
                return
        headers = [(b"content-type", CONTENT_TYPE_LATEST.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        body = generate_latest(self._service.registry)
        await send({"type": "http.response.body", "body": body})
