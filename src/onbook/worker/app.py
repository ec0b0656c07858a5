"""The worker's HTTP face: three endpoints that execute, and a few that say what runs here."""

import asyncio
import hmac
from collections.abc import AsyncGenerator
from contextlib import aclosing
from ipaddress import ip_address
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from onbook.wire.asgi import (
    BodyTooLargeError,
    ClientDisconnectedError,
    header,
    problem,
    read_body,
    request_id_of,
    send_event,
    send_json,
    start_events,
)
from onbook.wire.problem import Problem, place_of
from onbook.wire.routing import ExactRouter
from onbook.wire.worker_api import (
    Endpoint,
    InferenceResponse,
    LegacyRequest,
    LegacyResponse,
    WorkerHealth,
    WorkerInfo,
)
from onbook.worker.engines.base import EngineError, GrammarError
from onbook.worker.execution import BusyError, ContextOverflowError, Executed, Executor
from onbook.worker.metrics import WorkerMetrics
from onbook.worker.rendering import ContentNotPlainError
from onbook.worker.requests import BadRequestError, read_request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from starlette.types import ASGIApp, Receive, Scope, Send

ENDPOINTS: tuple[Endpoint, ...] = ("chat", "enhance", "generate")
T = TypeVar("T")
_log = structlog.get_logger("onbook.worker")


# Headers of browsers and of proxies.
_STRANGERS = (
    b"origin",
    b"forwarded",
    b"via",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-proto",
    b"x-real-ip",
)


class WorkerApp:
    """The ASGI application of one worker.

    Args:
        executor: Runs requests.
        info: What ``GET /worker/info`` says.
        key: Bearer key that callers must send; None leaves the worker open, which is for
            loopback only.
        registry: Where the worker's metrics go.
    """

    def __init__(
        self,
        executor: Executor,
        info: WorkerInfo,
        *,
        key: str | None,
        registry: CollectorRegistry,
    ) -> None:
        self.info = info
        self._executor = executor
        self.key = key
        self._registry = registry
        self._metrics = WorkerMetrics(registry, executor)
        routes: dict[str, dict[str, ASGIApp]] = {
            **{f"/{name}": {"POST": _Endpoint(self, name)} for name in ENDPOINTS},
            "/health": {"GET": _Get(self._health)},
            "/chat/health": {"GET": _Get(self._health)},
            "/worker/info": {"GET": _Get(self._info)},
            "/model/info": {"GET": _Get(self._info)},
            "/metrics": {"GET": _Get(self._scrape)},
        }
        self._router = ExactRouter(routes, hint="See GET /worker/info for the endpoints.")

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Serve one request."""
        if scope["type"] == "http" and (refusal := self._refusal(scope)) is not None:
            status, code, message, action = refusal
            body = problem(code, message, request_id=request_id_of(scope), suggested_action=action)
            await send_json(send, status, body)
            return
        await self._router(scope, receive, send)

    def _refusal(self, scope: "Scope") -> tuple[int, str, str, str] | None:
        if self.key is None:
            # Without a key anything on this machine may call, but no web page and nobody
            # behind a proxy: a browser says where a request comes from,
            # and most proxies say that they forward.
            if all(header(scope, sign) is None for sign in _STRANGERS) and _on_loopback(scope):
                return None
            return (
                403,
                "FORBIDDEN",
                "A worker without a key takes no requests from web pages or through proxies.",
                "Call the gateway, or set ONBOOK_WORKER_KEY and send it.",
            )
        if scope["path"] in ("/health", "/chat/health"):
            return None
        sent = header(scope, b"authorization") or ""
        if hmac.compare_digest(sent.encode(), f"Bearer {self.key}".encode()):
            return None
        return (
            401,
            "AUTH_REQUIRED",
            "The worker key is missing or wrong.",
            "Send it as 'Authorization: Bearer <key>'.",
        )

    async def _health(self, send: "Send") -> None:
        passed = self.info.purity.passed
        body = WorkerHealth(
            status="ok" if passed else "failed",
            model_loaded=True,
            self_probe=passed,
            detail=None if passed else "The purity self-test failed; see /worker/info.",
        )
        await send_json(send, 200 if passed else 503, body)

    async def _info(self, send: "Send") -> None:
        await send_json(send, 200, self.info)

    async def _scrape(self, send: "Send") -> None:
        headers = [(b"content-type", CONTENT_TYPE_LATEST.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": generate_latest(self._registry)})

    async def execute(
        self, endpoint: Endpoint, scope: "Scope", receive: "Receive", send: "Send"
    ) -> None:
        """Serve one of the three endpoints."""
        request_id = request_id_of(scope)
        outcome = "INTERNAL"
        try:
            body = await read_body(scope, receive)
            request, legacy = read_request(endpoint, body)
            request_id = request.request_id or request_id
            steps = self._executor.run(endpoint, request)
            if request.stream:
                outcome = await self._stream(endpoint, steps, request_id, receive, send)
            else:
                executed = await _unless_disconnected(_last(steps), receive)
                self._observe(endpoint, executed)
                await send_json(send, 200, self._answer(endpoint, executed, legacy))
                outcome = "ok"
        except ClientDisconnectedError:
            outcome = "disconnected"
        except Exception as error:  # noqa: BLE001 - the last line before the caller
            status, answer, retry = _explain(error, request_id)
            outcome = answer.error_code
            headers = [(b"retry-after", b"1")] if retry else []
            await send_json(send, status, answer, headers)
        finally:
            self._metrics.requests.labels(endpoint, outcome).inc()

    async def _stream(
        self,
        endpoint: Endpoint,
        steps: AsyncGenerator[str | Executed, None],
        request_id: str,
        receive: "Receive",
        send: "Send",
    ) -> str:
        """Send the steps as events; return the outcome: ``ok`` or an error code."""

        async def forward() -> str:
            first = await anext(steps)
            await start_events(send)
            try:
                await self._send_step(endpoint, first, send)
                async for step in steps:
                    await self._send_step(endpoint, step, send)
            except Exception as error:  # noqa: BLE001 - the last line before the caller
                # The status is out already: the stream itself must say that it failed.
                answer = _explain(error, request_id)[1]
                await send_event(send, "error", answer, last=True)
                return answer.error_code
            return "ok"

        async with aclosing(steps):
            return await _unless_disconnected(forward(), receive)

    async def _send_step(self, endpoint: Endpoint, step: str | Executed, send: "Send") -> None:
        if isinstance(step, str):
            await send_event(send, "delta", {"text": step})
        else:
            self._observe(endpoint, step)
            await send_event(send, "done", self._answer(endpoint, step, None), last=True)

    def _observe(self, endpoint: Endpoint, executed: Executed) -> None:
        self._metrics.generation_seconds.labels(endpoint).observe(executed.seconds)
        self._metrics.prompt_tokens.observe(executed.prompt_tokens)
        self._metrics.generated_tokens.observe(executed.tokens_generated)

    def _answer(
        self, endpoint: Endpoint, executed: Executed, legacy: LegacyRequest | None
    ) -> InferenceResponse | LegacyResponse:
        if legacy is not None:
            full = legacy.parameters.return_full_text
            return LegacyResponse(legacy.inputs + executed.text if full else executed.text)
        return InferenceResponse(
            success=True,
            enhanced_prompt=executed.text if endpoint == "enhance" else None,
            response=None if endpoint == "enhance" else executed.text,
            generation_time=round(executed.seconds, 4),
            tokens_generated=executed.tokens_generated,
            prompt_tokens=executed.prompt_tokens,
            finish_reason=executed.finish_reason,
            model_info=self._executor.model,
            receipt=executed.receipt,
        )


class _Endpoint:
    """A route that executes."""

    def __init__(self, app: WorkerApp, name: Endpoint) -> None:
        self._app = app
        self._name: Endpoint = name

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        await self._app.execute(self._name, scope, receive, send)


class _Get:
    """A route that only says something."""

    def __init__(self, answer: "Callable[[Send], Awaitable[None]]") -> None:
        self._answer = answer

    async def __call__(self, _scope: "Scope", _receive: "Receive", send: "Send") -> None:
        await self._answer(send)


def _on_loopback(scope: "Scope") -> bool:
    """Tell whether the request names this machine: a page with a rebound name does not."""
    host = header(scope, b"host")
    if host is None:
        return True
    name = urlsplit(f"//{host}").hostname or ""
    try:
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False


async def _last(steps: AsyncGenerator[str | Executed, None]) -> Executed:
    async with aclosing(steps):
        async for step in steps:
            if isinstance(step, Executed):
                return step
    raise EngineError("The engine gave no result.")


async def _unless_disconnected(work: "Coroutine[None, None, T]", receive: "Receive") -> T:
    """Run ``work``; stop it as soon as the caller has gone away."""
    working = asyncio.ensure_future(work)
    listening = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({working, listening}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnectedError
    finally:
        for task in (working, listening):
            task.cancel()
        await asyncio.gather(working, listening, return_exceptions=True)


async def _disconnected(receive: "Receive") -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _problem(
    code: str, text: str, action: str, request_id: str, details: dict[str, object] | None
) -> Problem:
    return problem(code, text, request_id=request_id, suggested_action=action, details=details)


def _explain(error: Exception, request_id: str) -> tuple[int, Problem, bool]:
    """Return status, error body, and whether the caller should come back later."""
    match error:
        case BodyTooLargeError():
            status, code, retry = 413, "PAYLOAD_TOO_LARGE", False
            text, action = "The body is over 1 MiB.", "Send a smaller body."
        case BadRequestError():
            fields = {"fields": error.fields} if error.fields else {}
            answer = _problem(
                "INVALID_PAYLOAD", error.message, error.action, request_id, {**fields} or None
            )
            return 400, answer, False
        case ContextOverflowError():
            counts: dict[str, object] = {
                "tokens_needed": error.needed,
                "context_size": error.context_size,
            }
            text = (
                f"Prompt and output need {error.needed} tokens; "
                f"the context holds {error.context_size}."
            )
            action = "Shorten the messages or lower max_tokens; nothing is ever truncated."
            return 400, _problem("INVALID_PAYLOAD", text, action, request_id, counts), False
        case ContentNotPlainError():
            status, code, retry = 400, "INVALID_PAYLOAD", False
            text = "A content cannot be written in this model's plain tokens."
            action = "Remove the model's control tokens from the text."
        case GrammarError():
            status, code, retry = 400, "INVALID_PAYLOAD", False
            text, action = "The grammar is not valid GBNF.", "Correct 'grammar'."
        case BusyError():
            status, code, retry = 503, "WORKER_UNAVAILABLE", True
            text, action = "The worker's queue is full.", "Try again after Retry-After seconds."
        case EngineError():
            _log.error("worker.engine_failed", reason=str(error), request_id=request_id)
            status, code, retry = 500, "INTERNAL", False
            text, action = "The engine failed.", "Try again; see the worker's log."
        case _:
            _log.error("worker.bug", request_id=request_id, where=place_of(error))
            status, code, retry = 500, "INTERNAL", False
            text, action = "The worker failed.", "Report it with the request_id."
    return status, _problem(code, text, action, request_id, None), retry
