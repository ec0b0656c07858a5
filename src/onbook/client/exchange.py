"""What both clients send, and how they read what comes back."""

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import msgspec

from onbook import __version__
from onbook.client.errors import OnbookAnswerError, OnbookAPIError
from onbook.client.fields import EnhanceFields
from onbook.wire.gateway_api import EnhanceResponse
from onbook.wire.problem import Problem

ENHANCE_PATH: Final = "/functions/v1/enhance-prompt"
MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
DEFAULT_TIMEOUT_S: Final = 60.0

_encoder: Final = msgspec.json.Encoder()
_answer_decoder: Final = msgspec.json.Decoder(EnhanceResponse)
_problem_decoder: Final = msgspec.json.Decoder(Problem)


@dataclass(frozen=True, slots=True)
class Address:
    """Where the service is: ``path`` is the prefix in front of its routes."""

    scheme: str
    host: str
    port: int | None
    path: str

    def url(self, route: str) -> str:
        """Return the URL of ``route``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}{route}"


def parse_address(base_url: str) -> Address:
    """Return the address in ``base_url``.

    Raises:
        ValueError: it is not an http(s) URL, or it carries a user, a query or a fragment; the
            message does not repeat it, for it may hold a password.
    """
    try:
        parts = urlsplit(base_url)
        port = parts.port
    except ValueError:
        raise ValueError("The base URL is not a URL.") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("The base URL must start with http:// or https:// and name a host.")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("The base URL must have no user, no query and no fragment.")
    if not base_url.isascii() or not base_url.isprintable() or " " in base_url:
        raise ValueError("The base URL must be plain ASCII without spaces.")
    return Address(parts.scheme, parts.hostname, port, parts.path.rstrip("/"))


def request_headers(api_key: str | None) -> dict[str, str]:
    """Return the headers of a call.

    Raises:
        ValueError: the key has characters that no header can carry; the message does not
            repeat it.
    """
    headers = {
        "Accept": "application/json",
        "Content-Type": "application/json",
        "User-Agent": f"onbook-python/{__version__}",
    }
    if api_key is not None:
        if not api_key.isascii() or not api_key.isprintable() or " " in api_key or not api_key:
            raise ValueError("The access key has characters that no access key has.")
        headers["Authorization"] = f"Bearer {api_key}"
    return headers


def enhance_body(prompt: str, fields: EnhanceFields) -> bytes:
    """Return the request's body.

    Raises:
        ValueError: a text is not valid Unicode; the message does not repeat it.
    """
    body: dict[str, object] = {"prompt": prompt}
    body.update((name, value) for name, value in fields.items() if value is not None)
    try:
        return _encoder.encode(body)
    except UnicodeEncodeError:
        raise ValueError("The prompt or a field has a lone surrogate, so it is no text.") from None


def read_answer(status: int, body: bytes) -> EnhanceResponse:
    """Return the answer in ``body``.

    Raises:
        OnbookAPIError: it is an error body.
        OnbookAnswerError: it is neither.
    """
    # The decoder's own message may repeat a value, so it is not chained.
    try:
        if status == 200:
            return _answer_decoder.decode(body)
        problem = _problem_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise OnbookAnswerError(status) from None
    raise OnbookAPIError(status, problem)
