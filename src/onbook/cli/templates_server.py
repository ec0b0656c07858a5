"""The routes of a running server that the commands use: ``/v1/templates/…``."""

import http.client
import ssl
from typing import Final, TypeVar
from urllib.parse import quote

import msgspec

from onbook.cli.options import fail
from onbook.client.exchange import MAX_ANSWER_BYTES, Address, parse_address, request_headers
from onbook.domain.errors import OnbookError
from onbook.wire.problem import Problem

Answer = TypeVar("Answer")

_NO_ANSWER: Final = "look at the server, or leave --url out to do it here"


class ServerRefused(OnbookError):
    """A running server answered with an error; code, details and next step are its own."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(
            problem.error,
            details=problem.details,
            suggested_action=problem.suggested_action,
        )
        # Beside the class's own code, which every instance would share.
        self.error_code = problem.error_code


def _route(name: str) -> str:
    # A name that is no Unicode is no template's; the server says so.
    return f"/v1/templates/{quote(name, safe='', errors='replace')}"


class Server:
    """A server at a URL.

    Ends the program with 2 if the URL or the key cannot be used, and with one sentence if nothing
    that is Onbook answers. No redirect is followed: the key goes where it was meant to go.
    """

    def __init__(self, url: str, key: str | None, *, timeout_s: float) -> None:
        try:
            self._address: Address = parse_address(url)
            self._headers = request_headers(key or None)
        except ValueError as error:
            fail(str(error), code=2)
        self._timeout_s = timeout_s

    def get(self, name: str, answer: type[Answer]) -> Answer:
        """Return what the server says about a template.

        Raises:
            ServerRefused: the server answered with an error.
        """
        return self._exchange("GET", _route(name), None, answer)

    def post(self, name: str, action: str, body: object, answer: type[Answer]) -> Answer:
        """Send ``body`` to the route ``action`` of a template and return its answer.

        Raises:
            ServerRefused: the server answered with an error.
        """
        return self._exchange("POST", f"{_route(name)}/{action}", msgspec.json.encode(body), answer)

    def _exchange(
        self, method: str, route: str, body: bytes | None, answer: type[Answer]
    ) -> Answer:
        connection = self._connection()
        try:
            connection.request(method, self._address.path + route, body, self._headers)
            response = connection.getresponse()
            status, data = response.status, response.read(MAX_ANSWER_BYTES + 1)
        except TimeoutError:
            fail(f"the server gave no answer within {self._timeout_s:g} s; {_NO_ANSWER}.")
        except (OSError, http.client.HTTPException) as error:
            fail(f"the server cannot be reached ({type(error).__name__}); {_NO_ANSWER}.")
        finally:
            connection.close()
        try:
            if 200 <= status < 300 and len(data) <= MAX_ANSWER_BYTES:
                return msgspec.json.decode(data, type=answer)
            problem = msgspec.json.decode(data, type=Problem)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            # The decoder's own message may repeat a value.
            fail(f"the answer (HTTP {status}) is not one of Onbook; check --url.")
        raise ServerRefused(problem)

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._address.host, self._address.port
        if self._address.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(host, port, timeout=self._timeout_s, context=context)
        return http.client.HTTPConnection(host, port, timeout=self._timeout_s)
