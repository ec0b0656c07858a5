"""The client for asyncio, on aiohttp."""

from types import TracebackType
from typing import Self, Unpack

import aiohttp

from onbook.client.errors import OnbookAnswerError, OnbookConnectionError, OnbookTimeoutError
from onbook.client.exchange import (
    DEFAULT_TIMEOUT_S,
    ENHANCE_PATH,
    MAX_ANSWER_BYTES,
    enhance_body,
    parse_address,
    read_answer,
    request_headers,
)
from onbook.client.fields import EnhanceFields
from onbook.wire.gateway_api import EnhanceResponse


class AsyncOnbook:
    """Calls the service; for one event loop, and for any number of tasks in it.

    Connections are kept open between calls. Nothing is ever retried and no redirect is
    followed: a call that failed may have been served, and only the caller knows whether a
    second one is wanted.

    Args:
        base_url: As ``http://127.0.0.1:8740``; a path in front of the routes is kept.
        api_key: The access key, or None.
        timeout_s: Seconds for a whole call.

    Raises:
        ValueError: the URL or the key cannot be used; neither is repeated.
    """

    def __init__(
        self, base_url: str, api_key: str | None = None, *, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> None:
        self._url = parse_address(base_url).url(ENHANCE_PATH)
        self._headers = request_headers(api_key)
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def enhance(self, prompt: str, **fields: Unpack[EnhanceFields]) -> EnhanceResponse:
        """Enhance one prompt.

        Raises:
            OnbookAPIError: the service answered with an error.
            OnbookConnectionError: it could not be reached.
            OnbookTimeoutError: it did not answer in time.
            OnbookAnswerError: something else answered.
            ValueError: a text is not valid Unicode.
        """
        status, body = await self._post(enhance_body(prompt, fields))
        return read_answer(status, body)

    async def close(self) -> None:
        """Close the connections; the next call would open new ones."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _post(self, body: bytes) -> tuple[int, bytes]:
        if self._session is None:
            # A session belongs to the running loop, which a constructor need not have.
            self._session = aiohttp.ClientSession(
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=self._timeout_s),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        try:
            async with self._session.post(self._url, data=body, allow_redirects=False) as response:
                answer = bytearray()
                async for chunk in response.content.iter_any():
                    answer += chunk
                    if len(answer) > MAX_ANSWER_BYTES:
                        raise OnbookAnswerError(response.status)
                return response.status, bytes(answer)
        except TimeoutError:
            raise OnbookTimeoutError(f"No answer came within {self._timeout_s:g} s.") from None
        except (aiohttp.ClientError, OSError) as error:
            raise OnbookConnectionError(
                f"The service cannot be reached ({type(error).__name__})."
            ) from None
