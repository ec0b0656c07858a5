"""The worker's HTTP face: the endpoints that execute, and a few that say what runs here."""

from functools import partial
from typing import TYPE_CHECKING, Protocol

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from onbook.wire.asgi import (
    ClientDisconnectedError,
    problem,
    read_body,
    request_id_of,
    send_json,
)
from onbook.wire.http_signatures import SignatureRefused
from onbook.wire.routing import ExactRouter
from onbook.wire.signing import PublishedKey, Signer
from onbook.wire.worker_api import (
    Endpoint,
    InferenceResponse,
    LegacyRequest,
    LegacyResponse,
    WorkerHealth,
    WorkerInfo,
)
from onbook.worker.access import HEALTH_PATHS, Access
from onbook.worker.execution import Executed, Executor
from onbook.worker.explain import COME_BACK_S, explain
from onbook.worker.memory import measured
from onbook.worker.metrics import WorkerMetrics
from onbook.worker.requests import read_request
from onbook.worker.streaming import executed, stream_events

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import ASGIApp, Receive, Scope, Send

ENDPOINTS: tuple[Endpoint, ...] = ("chat", "enhance", "generate")


class Keys(Protocol):
    """The worker's ring of keys, as far as it is shown."""

    @property
    def published(self) -> list[PublishedKey]:
        """The public half of every key, oldest first."""

    def signer(self) -> Signer:
        """Return the signer that is in use now."""


class WorkerApp:
    """The ASGI application of one worker.

    Args:
        executor: Runs requests.
        info: What ``GET /worker/info`` says, but for what changes: keys, counts and memory.
        keys: The keys that receipts are signed with.
        access: Who may call.
        engine_ready: Tells whether the engine can take requests now.
        why_away: Returns a sentence where the engine is another than ``info`` says, so that only
            a new start helps; None otherwise.
        registry: Where the worker's metrics go.
    """

    def __init__(
        self,
        executor: Executor,
        info: WorkerInfo,
        *,
        keys: Keys,
        access: Access,
        engine_ready: "Callable[[], Awaitable[bool]]",
        why_away: "Callable[[], str | None]" = lambda: None,
        registry: CollectorRegistry,
    ) -> None:
        self._executor = executor
        self._info = info
        self._keys = keys
        self._access = access
        self._engine_ready = engine_ready
        self._why_away = why_away
        self._registry = registry
        self._metrics = WorkerMetrics(registry, executor)
        routes: dict[str, dict[str, ASGIApp]] = {
            **{f"/{name}": {"POST": _Endpoint(self, name)} for name in ENDPOINTS},
            **{path: {"GET": _Get(self._health)} for path in HEALTH_PATHS},
            "/worker/info": {"GET": _Get(self._say_info)},
            "/model/info": {"GET": _Get(self._say_info)},
            "/metrics": {"GET": _Get(self._scrape)},
        }
        self._router = ExactRouter(routes, hint="See GET /worker/info for the endpoints.")

    @property
    def key(self) -> str | None:
        """The bearer key that callers must send; None where there is none."""
        return self._access.key

    @property
    def info(self) -> WorkerInfo:
        """What the worker says of itself at this moment."""
        known = self._info
        if (changed := self._why_away()) is not None:
            known = _of_another_model(known, changed)
        return msgspec.structs.replace(
            known,
            public_key=self._keys.signer().public_key,
            keys=self._keys.published,
            trusts_signed_requests_only=self._access.signed_only,
            running=self._executor.running,
            waiting=self._executor.waiting,
            memory=measured(self._info.memory),
        )

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Serve one request."""
        if scope["type"] == "http" and (refusal := self._access.refusal(scope)) is not None:
            body = problem(
                refusal.code,
                refusal.message,
                request_id=request_id_of(scope),
                suggested_action=refusal.action,
            )
            await send_json(send, refusal.status, body)
            return
        await self._router(scope, receive, send)

    async def _health(self, send: "Send") -> None:
        body = await self._state()
        # A failed self-test does not pass by itself.
        passes = body.status in ("draining", "upstream_away")
        headers = [(b"retry-after", str(COME_BACK_S).encode())] if passes else []
        await send_json(send, 200 if body.status == "ok" else 503, body, headers)

    async def _state(self) -> WorkerHealth:
        passed = self._info.purity.passed
        health = partial(WorkerHealth, model_loaded=True, self_probe=passed)
        if not passed:
            return health(status="failed", detail="The purity self-test failed; see /worker/info.")
        if self._executor.draining:
            return health(status="draining", detail="The worker finishes what it runs, and stops.")
        if not await self._engine_ready():
            away = self._why_away() or "The server behind the worker does not answer."
            return health(status="upstream_away", detail=away)
        return health(status="ok")

    async def _say_info(self, send: "Send") -> None:
        # What is said of the model has to be true now, not only at the start.
        await self._engine_ready()
        await send_json(send, 200, self.info)

    async def _scrape(self, send: "Send") -> None:
        headers = [(b"content-type", CONTENT_TYPE_LATEST.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": generate_latest(self._registry)})

    async def execute(
        self, endpoint: Endpoint, scope: "Scope", receive: "Receive", send: "Send"
    ) -> None:
        """Serve one of the endpoints that execute."""
        request_id = request_id_of(scope)
        outcome = "INTERNAL"
        try:
            head = self._access.signed_head(scope)
            body = await read_body(scope, receive)
            self._access.signed_body(head, body)
            request, legacy = read_request(endpoint, body)
            request_id = request.request_id or request_id
            steps = self._executor.run(endpoint, request)
            answer = partial(self._answer, endpoint, legacy)
            if request.stream:
                outcome = await stream_events(steps, answer, request_id, receive, send)
            else:
                await send_json(send, 200, answer(await executed(steps, receive)))
                outcome = "ok"
        except ClientDisconnectedError:
            outcome = "disconnected"
        except Exception as error:  # noqa: BLE001 - the last line before the caller
            if isinstance(error, SignatureRefused):
                self._metrics.refused_signatures.labels(error.reason).inc()
            explained = explain(error, request_id)
            outcome = explained.problem.error_code
            await send_json(send, explained.status, explained.problem, explained.headers)
        finally:
            self._metrics.requests.labels(endpoint, outcome).inc()

    def _answer(
        self, endpoint: Endpoint, legacy: LegacyRequest | None, done: Executed
    ) -> InferenceResponse | LegacyResponse:
        self._metrics.generation_seconds.labels(endpoint).observe(done.seconds)
        self._metrics.prompt_tokens.observe(done.prompt_tokens)
        self._metrics.generated_tokens.observe(done.tokens_generated)
        if legacy is not None:
            full = legacy.parameters.return_full_text
            return LegacyResponse(legacy.inputs + done.text if full else done.text)
        return InferenceResponse(
            success=True,
            enhanced_prompt=done.text if endpoint == "enhance" else None,
            response=None if endpoint == "enhance" else done.text,
            generation_time=round(done.seconds, 4),
            tokens_generated=done.tokens_generated,
            prompt_tokens=done.prompt_tokens,
            finish_reason=done.finish_reason,
            model_info=self._executor.model,
            receipt=done.receipt,
        )


def _of_another_model(info: WorkerInfo, reason: str) -> WorkerInfo:
    """Return ``info`` without what was found out about a model that no longer runs."""
    model = msgspec.structs.replace(info.model, file_sha256=None, chat_template_sha256=None)
    purity = msgspec.structs.replace(info.purity, passed=False, failures=[reason])
    return msgspec.structs.replace(info, model=model, purity=purity)


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
