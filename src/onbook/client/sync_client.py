"""The client for plain code, on the standard library."""

import http.client
import ssl
from types import TracebackType
from typing import Self, Unpack

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


class Onbook:
    """Calls the service; safe to share between threads.

    Every call opens its own connection, so nothing is shared and nothing goes stale. Nothing is
    ever retried and no redirect is followed: a call that failed may have been served, and only
    the caller knows whether a second one is wanted.

    Args:
        base_url: As ``http://127.0.0.1:8740``; a path in front of the routes is kept.
        api_key: The access key, or None.
        timeout_s: Seconds for connecting, and for each wait for the answer.

    Raises:
        ValueError: the URL or the key cannot be used; neither is repeated.
    """

    def __init__(
        self, base_url: str, api_key: str | None = None, *, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> None:
        self._address = parse_address(base_url)
        self._headers = request_headers(api_key)
        self._timeout_s = timeout_s
        self._tls = ssl.create_default_context() if self._address.scheme == "https" else None

    def enhance(self, prompt: str, **fields: Unpack[EnhanceFields]) -> EnhanceResponse:
        """Enhance one prompt.

        Raises:
            OnbookAPIError: the service answered with an error.
            OnbookConnectionError: it could not be reached.
            OnbookTimeoutError: it did not answer in time.
            OnbookAnswerError: something else answered.
            ValueError: a text is not valid Unicode.
        """
        status, body = self._post(ENHANCE_PATH, enhance_body(prompt, fields))
        return read_answer(status, body)

    def close(self) -> None:
        """Do nothing: no connection outlives its call. Here so that both clients look alike."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _post(self, route: str, body: bytes) -> tuple[int, bytes]:
        connection = self._connection()
        try:
            connection.request("POST", self._address.path + route, body, self._headers)
            response = connection.getresponse()
            answer = response.read(MAX_ANSWER_BYTES + 1)
        except TimeoutError:
            raise OnbookTimeoutError(f"No answer came within {self._timeout_s:g} s.") from None
        except (OSError, http.client.HTTPException) as error:
            raise OnbookConnectionError(
                f"The service cannot be reached ({type(error).__name__})."
            ) from None
        finally:
            connection.close()
        if len(answer) > MAX_ANSWER_BYTES:
            raise OnbookAnswerError(response.status)
        return response.status, answer

    def _connection(self) -> http.client.HTTPConnection:
        address = self._address
        if self._tls is not None:
            return http.client.HTTPSConnection(
                address.host, address.port, timeout=self._timeout_s, context=self._tls
            )
        return http.client.HTTPConnection(address.host, address.port, timeout=self._timeout_s)
