"""The embedded worker: its ASGI application, called in this process over the same contract."""

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from onbook.adapters.inference.answers import completion_from
from onbook.adapters.inference.known_keys import KnownWorker, note_refusal
from onbook.domain.errors import WorkerTimeout, WorkerUnavailable
from onbook.domain.worker_health import Trouble
from onbook.ports.inference import Completion, WorkerPromise
from onbook.wire.http_signatures import signed_headers
from onbook.wire.signing import PublishedKey, Signer
from onbook.wire.worker_api import Endpoint, InferenceRequest, WorkerInfo

if TYPE_CHECKING:
    from collections.abc import MutableMapping, Sequence

    from starlette.types import ASGIApp, Message

    Headers = Sequence[tuple[bytes, bytes]]

_JSON: Final = "application/json"
_encoder: Final = msgspec.json.Encoder()


class InProcessWorker:
    """Calls ``app`` as an HTTP client would: bytes in, bytes out, nothing shared.

    Args:
        app: The worker's application.
        info: What the worker says of itself; here it is known before the first call.
        key: Bearer key to send, or None.
        signer: Gives the signer that requests are signed with now; None signs nothing.
    """

    def __init__(
        self,
        app: "ASGIApp",
        info: WorkerInfo,
        *,
        key: str | None,
        signer: Callable[[], Signer] | None = None,
    ) -> None:
        self._app = app
        self._headers: list[tuple[bytes, bytes]] = []
        if key is not None:
            self._headers.append((b"authorization", f"Bearer {key}".encode()))
        self._signer = signer
        self._known = KnownWorker(())
        self._known.learn(info)

    @property
    def worker_id(self) -> str | None:
        """The worker's id."""
        return self._known.worker_id

    @property
    def public_keys(self) -> frozenset[str]:
        """The keys, base64, one of which must have signed a receipt."""
        return self._known.public_keys

    @property
    def published(self) -> "Sequence[PublishedKey]":
        """Those of ``public_keys`` that the worker has shown."""
        return self._known.published

    @property
    def model_sha256(self) -> str | None:
        """The digest of the model file, where the engine has one."""
        return self._known.model_sha256

    @property
    def promise(self) -> WorkerPromise | None:
        """What the worker said of its rendering when it was met; None while unknown."""
        return self._known.promise

    @property
    def trouble(self) -> Trouble | None:
        """Why its answers cannot be used, as far as the last contact showed."""
        return self._known.trouble

    async def infer(
        self, endpoint: Endpoint, request: InferenceRequest, *, timeout_s: float
    ) -> Completion:
        """Run ``request`` on the worker; see the port for what is raised."""
        started = time.perf_counter()
        path, sent = f"/{endpoint}", _encoder.encode(request)
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._call("POST", path, sent, self._signed(path, sent))
                elapsed_ms = (time.perf_counter() - started) * 1000
                completion = completion_from(
                    endpoint,
                    answer.status,
                    answer.body,
                    response_time_ms=elapsed_ms,
                    retry_after=answer.header(b"retry-after"),
                )
                self._known.let_in("key", "signature")
                receipt = completion.receipt
                if receipt is not None and not self._known.knows(receipt.key_id):
                    await self._follow_keys()
        except WorkerUnavailable as error:
            note_refusal(error, self._known)
            raise
        except TimeoutError:
            raise WorkerTimeout(f"The worker did not answer within {timeout_s:.1f} s.") from None
        return completion

    async def ready(self) -> bool:
        """Tell whether the worker says that it is healthy."""
        return (await self._call("GET", "/health", b"")).status == 200

    async def close(self) -> None:
        """Nothing to let go of: the worker is closed by whoever started it."""

    async def _follow_keys(self) -> None:
        answer = await self._call("GET", "/worker/info", b"")
        if answer.status == 200:
            self._known.learn(msgspec.json.decode(answer.body, type=WorkerInfo))

    def _signed(self, path: str, body: bytes) -> "Headers":
        if self._signer is None:
            return ()
        headers = signed_headers(
            self._signer(), method="POST", path=path, content_type=_JSON, body=body, now=time.time()
        )
        return [(name.lower().encode(), text.encode()) for name, text in headers.items()]

    async def _call(
        self, method: str, path: str, body: bytes, headers: "Headers" = ()
    ) -> "_Exchange":
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
            "headers": [(b"content-type", _JSON.encode()), *self._headers, *headers],
        }
        exchange = _Exchange(body)
        await self._app(scope, exchange.receive, exchange.send)
        if exchange.status == 0:
            raise WorkerUnavailable("The embedded worker gave no answer.")
        return exchange


class _Exchange:
    """One request and its answer. ``status`` is 0 before there is one."""

    def __init__(self, body: bytes) -> None:
        self._request: bytes | None = body
        self._chunks: list[bytes] = []
        self._headers: dict[bytes, bytes] = {}
        self.status = 0

    @property
    def body(self) -> bytes:
        return b"".join(self._chunks)

    def header(self, name: bytes) -> str | None:
        value = self._headers.get(name)
        return None if value is None else value.decode("latin-1")

    async def receive(self) -> "Message":
        if self._request is None:
            # A caller that stays: whoever gives up cancels the call instead.
            await asyncio.get_running_loop().create_future()
        body, self._request = self._request, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: "Message") -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._headers = dict(message["headers"])
        else:
            self._chunks.append(message.get("body", b""))
