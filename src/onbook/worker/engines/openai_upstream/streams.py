"""Streams of events from the upstream, each over a connection that is closed when it is left."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final

import aiohttp
import msgspec

from onbook.worker.engines.base import (
    EngineError,
    GrammarError,
    UpstreamUnavailableError,
)
from onbook.worker.engines.openai_upstream.server import CONNECT_TIMEOUT_S, Server, refusal_of
from onbook.worker.engines.openai_upstream.sse import Event, EventReader

_READY_TIMEOUT_S: Final = 2.0
_READY_CACHE_S: Final = 1.0
_ERROR_BODY_BYTES: Final = 65_536
_DONE: Final = b"[DONE]"


class _Error(msgspec.Struct):
    code: int | str | None = None
    message: str | None = None


class _ErrorBody(msgspec.Struct):
    error: _Error | str | None = None
    message: str | None = None


class StreamClient:
    """Requests to one upstream. Its connections belong to the event loop that uses it.

    After ``close`` it can be used again, also in another loop.
    """

    def __init__(
        self, server: Server, *, health: str, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._server = server
        self._health = health
        self._now = now
        self._session: aiohttp.ClientSession | None = None
        self._asked_at: float | None = None
        self._was_ready = False
        self._asking: asyncio.Lock | None = None

    async def events(
        self, path: str, body: object, *, limit_bytes: int
    ) -> AsyncGenerator[bytes, None]:
        """Yield the data of each event until ``[DONE]`` or the end of the stream.

        Closing the generator closes the connection, so that the server frees its slot.

        Args:
            path: Of the request, behind the base URL.
            body: What is posted, as JSON.
            limit_bytes: How much the whole answer may have.

        Raises:
            GrammarError: the server does not accept the grammar.
            UpstreamUnavailableError: it is away, busy, silent, or hangs up.
            EngineError: it refuses, or answers with something else than events.
        """
        try:
            async with aclosing(self._exchange(path, body, limit_bytes)) as events:
                async for event in events:
                    if event.error:
                        raise error_in(event.data, 0)
                    yield event.data
        except TimeoutError:
            raise UpstreamUnavailableError("The upstream has fallen silent.") from None
        except aiohttp.ClientConnectorError:
            raise UpstreamUnavailableError("The upstream cannot be reached.") from None
        except aiohttp.ClientResponseError:
            raise EngineError("The upstream does not speak HTTP.") from None
        except (aiohttp.ClientError, OSError):
            raise UpstreamUnavailableError("The upstream hung up within its answer.") from None

    async def ready(self) -> bool:
        """Tell whether the server says that it can take requests; what it said holds a second."""
        if self._asking is None:
            self._asking = asyncio.Lock()
        async with self._asking:
            if self._asked_at is None or self._now() - self._asked_at >= _READY_CACHE_S:
                self._was_ready = await self._ask_health()
                self._asked_at = self._now()
            return self._was_ready

    async def close(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        self._asking = None
        if session is not None:
            await session.close()

    async def _exchange(
        self, path: str, body: object, limit_bytes: int
    ) -> AsyncGenerator[Event, None]:
        async with self._open().post(
            self._server.url + path, data=msgspec.json.encode(body), allow_redirects=False
        ) as response:
            await _check(response)
            async with aclosing(_events(response, limit_bytes)) as events:
                async for event in events:
                    yield event

    async def _ask_health(self) -> bool:
        try:
            async with (
                asyncio.timeout(_READY_TIMEOUT_S),
                self._open().get(
                    self._server.url + self._health, allow_redirects=False
                ) as response,
            ):
                return response.status == 200
        except (TimeoutError, aiohttp.ClientError, OSError):
            return False

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            self._session = aiohttp.ClientSession(
                # A request must not be sent twice, and one on a kept connection that the server
                # has just closed could not be told from one that failed.
                connector=aiohttp.TCPConnector(limit=0, force_close=True),
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    sock_connect=min(CONNECT_TIMEOUT_S, self._server.timeout_s),
                    sock_read=self._server.timeout_s,
                ),
                headers=self._server.headers(),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
            )
        return self._session


async def _events(
    response: aiohttp.ClientResponse, limit_bytes: int
) -> AsyncGenerator[Event, None]:
    reader = EventReader()
    size = 0
    async for piece in response.content.iter_any():
        size += len(piece)
        if size > limit_bytes:
            raise EngineError("The upstream's answer is too large.")
        for event in reader.feed(piece):
            if event.data == _DONE:
                return
            yield event
    if reader.within_event:
        raise UpstreamUnavailableError("The upstream hung up within its answer.")


async def _check(response: aiohttp.ClientResponse) -> None:
    if (refused := refusal_of(response.status)) is not None:
        if isinstance(refused, UpstreamUnavailableError) or response.status != 400:
            raise refused
        raise error_in(await response.content.read(_ERROR_BODY_BYTES), response.status)
    if response.content_type != "text/event-stream":
        # The type is the server's word, not the caller's text, and is bounded here.
        raise EngineError(
            f"The upstream answers with {response.content_type[:60]!r} instead of events."
        )


def error_in(data: bytes, status: int) -> EngineError:
    """Return the error that a server tells in ``data``; ``status`` is used where it names none.

    What it says may quote the prompt, and is not repeated.
    """
    try:
        body = msgspec.json.decode(data, type=_ErrorBody)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return EngineError("The upstream failed and does not say why.")
    told = body.error if isinstance(body.error, _Error) else _Error(message=body.error)
    if "grammar" in (told.message or body.message or "").lower():
        return GrammarError("The upstream does not accept the grammar.")
    code = told.code if isinstance(told.code, int) else status
    return (refusal_of(code) if code else None) or EngineError("The upstream failed.")
