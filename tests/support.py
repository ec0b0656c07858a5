"""What several test areas share: a real service on a temporary directory."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import httpx
from starlette.types import ASGIApp

from onbook.adapters.inference.in_process import InProcessWorker
from onbook.bootstrap import Service, build_service, ensure_first_key, prepare_database
from onbook.gateway.app import build_gateway
from onbook.ports.inference import Completion, InferenceWorker, WorkerPromise
from onbook.settings import Settings
from onbook.wire.worker_api import Endpoint, InferenceRequest
from onbook.worker.start import Worker, build_worker

if TYPE_CHECKING:
    from onbook.domain.worker_health import Trouble
    from onbook.wire.signing import PublishedKey

ADMIN_KEY = "test-admin-key-0123456789"


@dataclass(frozen=True, slots=True)
class Running:
    """A started gateway with its embedded echo worker, reached without a socket."""

    service: Service
    http: httpx.AsyncClient
    worker: Worker
    settings: Settings

    async def enhance(self, body: object, **headers: str) -> httpx.Response:
        sent = {"Authorization": f"Bearer {ADMIN_KEY}", **headers}
        return await self.http.post("/functions/v1/enhance-prompt", json=body, headers=sent)


class FakeWorker:
    """A worker that answers what the test says, through the same port as real ones."""

    def __init__(
        self, answer: Callable[[Endpoint, InferenceRequest], Completion | Exception]
    ) -> None:
        self._answer = answer
        self.worker_id: str | None = "fake"
        self.public_keys: frozenset[str] = frozenset()
        self.published: Sequence[PublishedKey] = ()
        self.model_sha256: str | None = None
        self.promise: WorkerPromise | None = None
        self.trouble: Trouble | None = None
        self.requests: list[InferenceRequest] = []
        self.endpoints: list[Endpoint] = []

    async def infer(
        self,
        endpoint: Endpoint,
        request: InferenceRequest,
        *,
        timeout_s: float,
    ) -> Completion:
        assert timeout_s > 0
        self.requests.append(request)
        self.endpoints.append(endpoint)
        answer = self._answer(endpoint, request)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def ready(self) -> bool:
        return True

    async def close(self) -> None:
        pass


def completion(text: str, finish_reason: str = "stop") -> Completion:
    return Completion(
        text=text,
        finish_reason="length" if finish_reason == "length" else "stop",
        model_used="fake-model",
        receipt=None,
        tokens_generated=5,
        prompt_tokens=5,
        response_time_ms=1.0,
        generation_time_ms=1.0,
    )


def settings_for(data_dir: Path, **options: object) -> Settings:
    given: dict[str, object] = {
        "data_dir": data_dir,
        "worker_engine": "echo",
        "bootstrap_key": ADMIN_KEY,
        "context_size": 8192,
        **options,
    }
    return Settings.model_validate(given)


def embedded_worker(settings: Settings) -> Worker:
    return build_worker(settings, progress=lambda _text: None)


@asynccontextmanager
async def running(
    settings: Settings, worker: InferenceWorker | None = None
) -> AsyncIterator[Running]:
    await prepare_database(settings)
    async with AsyncExitStack() as last_first:
        local = await asyncio.to_thread(embedded_worker, settings)
        last_first.push_async_callback(local.close)
        embedded = InProcessWorker(local.app, local.app.info, key=local.app.key)
        service = build_service(settings, worker or embedded)
        last_first.push_async_callback(service.close)
        await ensure_first_key(service)
        app = build_gateway(service, worker_app=local.app)
        await service.start()
        yield Running(
            service, await last_first.enter_async_context(client_of(app)), local, settings
        )


def client_of(app: ASGIApp) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=app)
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")


def metadata(response: httpx.Response) -> dict[str, object]:
    assert response.status_code == 200, response.text
    return cast("dict[str, object]", response.json()["enhancement_metadata"])
