"""What every edge function has in common: who calls, the body, the errors, the canonical line."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from onbook.adapters.telemetry.logs import canonical_fields
from onbook.bootstrap import Service
from onbook.domain.enhancement import Caller
from onbook.domain.errors import WorkerUnavailable
from onbook.gateway.auth import authenticate, require
from onbook.gateway.errors import as_onbook_error, problem_of
from onbook.wire.asgi import ClientDisconnectedError, read_body, send_json, sent_request_id

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

_log = structlog.get_logger("onbook.gateway")


@dataclass(frozen=True, slots=True)
class Call:
    """One authenticated call with its whole body, the path's parameters and the query string."""

    caller: Caller
    body: bytes
    request_id: str
    send: "Send"
    parameters: Mapping[str, str] = field(default_factory=dict)
    query: bytes = b""

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers that every answer carries."""
        return [(b"x-request-id", self.request_id.encode())]


@dataclass(frozen=True, slots=True)
class Function:
    """An edge function as an ASGI application.

    ``handler`` answers the call itself, and raises before it has begun to answer.
    """

    name: str
    scope_needed: str
    service: Service
    handler: Callable[[Call, Service], Awaitable[None]]

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Serve one request and write its canonical line."""
        started = time.perf_counter()
        # Made here and not taken from the caller: it is the audit log's key.
        request_id = self.service.enhance.ids.request_id()
        line: dict[str, object] = {}
        if (theirs := sent_request_id(scope)) is not None:
            line["caller_request_id"] = theirs
        token = canonical_fields.set(line)
        status, outcome = 499, "disconnected"
        begun, answered = False, 200

        async def watched(message: "Message") -> None:
            nonlocal begun, answered
            begun = True
            answered = message.get("status", answered)
            await send(message)

        try:
            caller = await authenticate(scope, self.service.keys)
            require(caller, self.scope_needed)
            body = await read_body(scope, receive)
            parameters = scope.get("path_params") or {}
            call = Call(
                caller, body, request_id, watched, parameters, scope.get("query_string", b"")
            )
            await self.handler(call, self.service)
            status, outcome = answered, "ok"
        except ClientDisconnectedError:
            pass
        except asyncio.CancelledError:
            stopping = WorkerUnavailable("The service is stopping.")
            status, outcome = stopping.status, stopping.code
            # Nothing above waits for this task, and the server would print a traceback.
            if not begun:
                await send_json(send, status, problem_of(stopping, request_id))
        except Exception as error:  # noqa: BLE001 - the last line before the caller
            known = as_onbook_error(error, request_id)
            status, outcome = known.status, known.code
            headers = [(b"x-request-id", request_id.encode())]
            if status == 401:
                headers.append((b"www-authenticate", b"Bearer"))
            await send_json(send, status, problem_of(known, request_id), headers)
        finally:
            canonical_fields.reset(token)
            self.service.metrics.requests.labels(self.name, outcome).inc()
            _log.info(
                "request",
                function=self.name,
                request_id=request_id,
                status=status,
                outcome=outcome,
                duration_ms=round((time.perf_counter() - started) * 1000, 2),
                **line,
            )
