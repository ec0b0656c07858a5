"""A worker elsewhere, over HTTP with kept-alive connections."""

import asyncio
import time
from typing import Final

import aiohttp
import msgspec

from onbook.adapters.inference.answers import MAX_ANSWER_BYTES, completion_from
from onbook.adapters.inference.plain_http import AnswerTooLargeError, PlainHttpClient, supports
from onbook.domain.errors import WorkerAnswerInvalid, WorkerTimeout, WorkerUnavailable
from onbook.ports.inference import Completion
from onbook.wire.worker_api import Endpoint, InferenceRequest, WorkerInfo

_CONNECT_TIMEOUT_S: Final = 5.0
_PROBE_TIMEOUT_S: Final = 2.0
_encoder: Final = msgspec.json.Encoder()


class RemoteWorker:
    """Speaks the worker contract to ``url``. Redirects are not followed.

    Args:
        url: Base URL of the worker.
        key: Bearer key to send, or None.
        public_key: Base64 key that receipts must be signed with; None takes the one that the
            worker shows at its first contact and keeps to it.
    """

    def __init__(self, url: str, *, key: str | None, public_key: str | None) -> None:
        self._url = url.rstrip("/")
        self._headers = {"Content-Type": "application/json"}
        if key is not None:
            self._headers["Authorization"] = f"Bearer {key}"
        self._session: aiohttp.ClientSession | None = None
        # TLS, and what else the small client leaves out, goes through the general one.
        self._plain = (
            PlainHttpClient(
                self._url,
                self._headers,
                connect_timeout_s=_CONNECT_TIMEOUT_S,
                limit=MAX_ANSWER_BYTES,
            )
            if supports(self._url, self._headers)
            else None
        )
        self.public_key = public_key
        self.worker_id: str | None = None
        self.model_sha256: str | None = None

    async def infer(
        self, endpoint: Endpoint, request: InferenceRequest, *, timeout_s: float
    ) -> Completion:
        """Run ``request`` on the worker; see the port for what is raised."""
        started = time.perf_counter()
        try:
            async with asyncio.timeout(timeout_s):
                status, body = await self._post(f"/{endpoint}", _encoder.encode(request))
        except TimeoutError:
            raise WorkerTimeout(f"The worker did not answer within {timeout_s:.1f} s.") from None
        except (aiohttp.ClientError, OSError, ValueError):
            raise WorkerUnavailable("The worker cannot be reached.") from None
        elapsed_ms = (time.perf_counter() - started) * 1000
        return completion_from(endpoint, status, body, response_time_ms=elapsed_ms)

    async def ready(self) -> bool:
        """Tell whether the worker says that it is healthy; learn its key on the way."""
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT_S):
                session = self._open()
                async with session.get(
                    f"{self._url}/health", headers=self._headers, allow_redirects=False
                ) as response:
                    healthy = response.status == 200
                if healthy and self.worker_id is None:
                    await self._introduce(session)
                return healthy
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError):
            return False

    async def close(self) -> None:
        """Close the connections."""
        if self._plain is not None:
            self._plain.close()
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _post(self, path: str, data: bytes) -> tuple[int, bytes]:
        if self._plain is None:
            return await self._post_over_tls(path, data)
        try:
            return await self._plain.post(path, data)
        except AnswerTooLargeError:
            raise WorkerAnswerInvalid("The worker's answer is too large.") from None

    async def _post_over_tls(self, path: str, data: bytes) -> tuple[int, bytes]:
        async with self._open().post(
            self._url + path, data=data, headers=self._headers, allow_redirects=False
        ) as response:
            body = await response.content.read(MAX_ANSWER_BYTES + 1)
            while not response.content.at_eof() and len(body) <= MAX_ANSWER_BYTES:
                body += await response.content.read(MAX_ANSWER_BYTES + 1 - len(body))
            if len(body) > MAX_ANSWER_BYTES:
                raise WorkerAnswerInvalid("The worker's answer is too large.")
            return response.status, body

    async def _introduce(self, session: aiohttp.ClientSession) -> None:
        async with session.get(
            f"{self._url}/worker/info", headers=self._headers, allow_redirects=False
        ) as response:
            try:
                info = msgspec.json.decode(await response.read(), type=WorkerInfo)
            except (msgspec.DecodeError, UnicodeDecodeError):
                return
        self.worker_id = info.worker_id
        self.model_sha256 = info.model.file_sha256
        # The first key is kept: a worker that changes its key later is not the same worker.
        self.public_key = self.public_key or info.public_key

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        return self._session
