"""The embedded worker: its ASGI application, called in this process over the same contract."""

import asyncio
import time
from typing import TYPE_CHECKING, Final

import msgspec

from onbook.adapters.inference.answers import completion_from
from onbook.domain.errors import WorkerTimeout, WorkerUnavailable
from onbook.ports.inference import Completion
from onbook.wire.worker_api import Endpoint, InferenceRequest, WorkerInfo

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from starlette.types import ASGIApp, Message

_encoder: Final = msgspec.json.Encoder()


class InProcessWorker:
    """Calls ``app`` as an HTTP client would: bytes in, bytes out, nothing shared.

    Args:
        app: The worker's application.
        info: What the worker says of itself; here it is known before the first call.
        key: Bearer key to send, or None.
    """

    def __init__(self, app: "ASGIApp", info: WorkerInfo, *, key: str | None) -> None:
        self._app = app
        self._headers = [(b"content-type", b"application/json")]
        if key is not None:
            self._headers.append((b"authorization", f"Bearer {key}".encode()))
        self.worker_id: str | None = info.worker_id
        self.public_key: str | None = info.public_key
        self.model_sha256: str | None = info.model.file_sha256

    async def infer(
        self, endpoint: Endpoint, request: InferenceRequest, *, timeout_s: float
    ) -> Completion:
        """Run ``request`` on the worker; see the port for what is raised."""
        started = time.perf_counter()
        try:
            async with asyncio.timeout(timeout_s):
                status, body = await self._call("POST", f"/{endpoint}", _encoder.encode(request))
        except TimeoutError:
            raise WorkerTimeout(f"The worker did not answer within {timeout_s:.1f} s.") from None
        elapsed_ms = (time.perf_counter() - started) * 1000
        return completion_from(endpoint, status, body, response_time_ms=elapsed_ms)

    async def ready(self) -> bool:
        """Tell whether the worker says that it is healthy."""
        status, _ = await self._call("GET", "/health", b"")
        return status == 200

    async def close(self) -> None:
        """Nothing to let go of: the worker is closed by whoever started it."""

    async def _call(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        scope: MutableMapping[str, object] = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": self._headers,
        }
        exchange = _Exchange(body)
        await self._app(scope, exchange.receive, exchange.send)
        if exchange.status is None:
            raise WorkerUnavailable("The embedded worker gave no answer.")
        return exchange.status, b"".join(exchange.chunks)


class _Exchange:
    """One request and its answer."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body
        self.status: int | None = None
        self.chunks: list[bytes] = []

    async def receive(self) -> "Message":
        if self._body is None:
            # A caller that stays: whoever gives up cancels the call instead.
            await asyncio.get_running_loop().create_future()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: "Message") -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.chunks.append(message.get("body", b""))
