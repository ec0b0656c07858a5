"""A worker elsewhere, over HTTP with kept-alive connections."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import aiohttp
import msgspec

from onbook.adapters.inference.answers import MAX_ANSWER_BYTES, completion_from
from onbook.adapters.inference.known_keys import KnownWorker, note_refusal
from onbook.adapters.inference.plain_http import (
    Answer,
    AnswerTooLargeError,
    PlainHttpClient,
    supports,
)
from onbook.domain.errors import WorkerAnswerInvalid, WorkerTimeout, WorkerUnavailable
from onbook.domain.worker_health import Trouble
from onbook.ports.inference import Completion, WorkerPromise
from onbook.wire.http_signatures import signed_headers
from onbook.wire.receipt import Receipt
from onbook.wire.signing import PublishedKey, Signer
from onbook.wire.worker_api import Endpoint, InferenceRequest, WorkerInfo

_JSON: Final = "application/json"
_CONNECT_TIMEOUT_S: Final = 5.0
_PROBE_TIMEOUT_S: Final = 2.0
# How often a healthy worker is asked for its keys: a new one is known before it is in use, if it is
# announced at least this long before.
_FOLLOW_S: Final = 60.0
_encoder: Final = msgspec.json.Encoder()


class RemoteWorker:
    """Speaks the worker contract to ``url``. Redirects are not followed.

    Args:
        url: Base URL of the worker. A path prefix is a proxy's, and is not part of what is signed.
        key: Bearer key to send, or None.
        public_keys: Base64 keys, one of which must have signed a receipt or endorsed the one that
            has; none takes the one that the worker shows at its first contact and keeps to it.
        signer: Gives the signer that requests are signed with now; None signs nothing.
        shown: Gives the signer's ring, oldest key first, so that a worker that trusts an older key
            of it can follow a rotation.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None,
        public_keys: Iterable[str],
        signer: Callable[[], Signer] | None = None,
        shown: Callable[[], Sequence[PublishedKey]] = tuple,
    ) -> None:
        self._url = url.rstrip("/")
        self._headers = {"Content-Type": _JSON}
        if key is not None:
            self._headers["Authorization"] = f"Bearer {key}"
        self._signer, self._shown = signer, shown
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
        self._known = KnownWorker(public_keys)
        self._followed_at = float("-inf")
        self._following = asyncio.Lock()

    @property
    def worker_id(self) -> str | None:
        """The worker's id, once known."""
        return self._known.worker_id

    @property
    def public_keys(self) -> frozenset[str]:
        """The keys, base64, one of which must have signed a receipt; empty while unknown."""
        return self._known.public_keys

    @property
    def published(self) -> Sequence[PublishedKey]:
        """Those of ``public_keys`` that the worker has shown."""
        return self._known.published

    @property
    def model_sha256(self) -> str | None:
        """The digest of the model file that the worker showed first; None while unknown."""
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
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._post(f"/{endpoint}", _encoder.encode(request))
        except TimeoutError:
            raise WorkerTimeout(f"The worker did not answer within {timeout_s:.1f} s.") from None
        except (aiohttp.ClientError, OSError, ValueError):
            raise WorkerUnavailable("The worker cannot be reached.") from None
        try:
            completion = completion_from(
                endpoint,
                answer.status,
                answer.body,
                response_time_ms=(time.perf_counter() - started) * 1000,
                retry_after=answer.retry_after,
            )
        except WorkerUnavailable as error:
            note_refusal(error, self._known)
            raise
        self._known.let_in("key", "signature")
        if completion.receipt is not None and self._is_new(completion.receipt):
            async with self._following:
                # Answers that come at once share one look.
                if self._is_new(completion.receipt):
                    await self._follow_keys()
        return completion

    def _is_new(self, receipt: Receipt) -> bool:
        """Tell whether there is nothing, or not enough, to hold ``receipt`` against."""
        return not self._known.introduced or not self._known.knows(receipt.key_id)

    async def ready(self) -> bool:
        """Tell whether the worker says that it is healthy; learn its keys on the way."""
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT_S):
                async with self._open().get(
                    f"{self._url}/health", headers=self._headers, allow_redirects=False
                ) as response:
                    healthy = response.status == 200
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError):
            return False
        since = time.monotonic() - self._followed_at
        known = self._known
        if healthy and (since >= _FOLLOW_S or not known.introduced or known.trouble is not None):
            await self._follow_keys()
        return healthy

    async def close(self) -> None:
        """Close the connections."""
        if self._plain is not None:
            self._plain.close()
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _post(self, path: str, data: bytes) -> Answer:
        headers: dict[str, str] = {}
        if self._signer is not None:
            headers = signed_headers(
                self._signer(),
                method="POST",
                path=path,
                content_type=_JSON,
                body=data,
                now=time.time(),
                published=self._shown(),
            )
        if self._plain is None:
            return await self._post_over_tls(path, data, headers)
        try:
            return await self._plain.post(path, data, headers)
        except AnswerTooLargeError:
            raise WorkerAnswerInvalid("The worker's answer is too large.") from None

    async def _post_over_tls(self, path: str, data: bytes, headers: dict[str, str]) -> Answer:
        async with self._open().post(
            self._url + path, data=data, headers=self._headers | headers, allow_redirects=False
        ) as response:
            body = await _read(response)
            return Answer(response.status, body, response.headers.get("Retry-After"))

    async def _follow_keys(self) -> None:
        """Ask the worker for its keys."""
        try:
            async with (
                asyncio.timeout(_PROBE_TIMEOUT_S),
                self._open().get(
                    f"{self._url}/worker/info", headers=self._headers, allow_redirects=False
                ) as response,
            ):
                if response.status in (401, 403):
                    self._known.turned_away("key")
                    return
                info = msgspec.json.decode(await _read(response), type=WorkerInfo)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError, WorkerAnswerInvalid):
            # Whoever asked goes on with the keys that are known.
            return
        self._followed_at = time.monotonic()
        self._known.let_in("key")
        self._known.learn(info)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        return self._session


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = await response.content.read(MAX_ANSWER_BYTES + 1)
    while not response.content.at_eof() and len(body) <= MAX_ANSWER_BYTES:
        body += await response.content.read(MAX_ANSWER_BYTES + 1 - len(body))
    if len(body) > MAX_ANSWER_BYTES:
        raise WorkerAnswerInvalid("The worker's answer is too large.")
    return body
