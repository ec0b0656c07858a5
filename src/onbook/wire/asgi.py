"""Reading and writing HTTP bodies over bare ASGI, for the routes that must stay thin."""

import uuid
from typing import TYPE_CHECKING, Final

import msgspec

from onbook.wire.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import Receive, Scope, Send

MAX_BODY_BYTES: Final = 1024 * 1024
JSON_TYPE: Final = (b"content-type", b"application/json")

_LENGTH_DIGITS: Final = 18
_encoder: Final = msgspec.json.Encoder()


class BodyTooLargeError(Exception):
    """The body is over the limit; nothing beyond the limit was kept in memory."""


class ClientDisconnectedError(Exception):
    """The caller went away before the body was complete."""


def header(scope: "Scope", name: bytes) -> str | None:
    """Return the first header called ``name`` (lower case), or None."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value).decode("latin-1")
    return None


async def read_body(scope: "Scope", receive: "Receive", limit: int = MAX_BODY_BYTES) -> bytes:
    """Return the whole body.

    Raises:
        BodyTooLargeError: it is, or says that it is, longer than ``limit`` bytes.
        ClientDisconnectedError: the caller went away.
    """
    declared = (header(scope, b"content-length") or "").lstrip("0")
    # Compared by length first: Python refuses to read numbers of thousands of digits. A length
    # that is not a number says nothing; the chunks are counted all the same.
    if declared.isdecimal() and (len(declared) > _LENGTH_DIGITS or int(declared) > limit):
        raise BodyTooLargeError
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnectedError
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise BodyTooLargeError
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def send_json(
    send: "Send",
    status: int,
    body: object,
    headers: "Iterable[tuple[bytes, bytes]]" = (),
) -> None:
    """Answer with ``body`` (a struct or plain data) as JSON."""
    payload = body if isinstance(body, bytes) else _encoder.encode(body)
    start_headers = [JSON_TYPE, (b"content-length", str(len(payload)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": start_headers})
    await send({"type": "http.response.body", "body": payload})


async def send_text(
    send: "Send",
    status: int,
    text: str,
    headers: "Iterable[tuple[bytes, bytes]]" = (),
) -> None:
    """Answer with ``text`` as UTF-8 plain text."""
    payload = text.encode()
    start_headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(payload)).encode()),
        (b"x-content-type-options", b"nosniff"),
        *headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": start_headers})
    await send({"type": "http.response.body", "body": payload})


async def start_events(send: "Send", headers: "Iterable[tuple[bytes, bytes]]" = ()) -> None:
    """Begin a stream of server-sent events."""
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [
                (b"content-type", b"text/event-stream; charset=utf-8"),
                (b"cache-control", b"no-store"),
                (b"x-accel-buffering", b"no"),
                *headers,
            ],
        }
    )


async def send_event(send: "Send", event: str, body: object, *, last: bool = False) -> None:
    """Send one event with a JSON body, at once."""
    payload = b"event: " + event.encode() + b"\ndata: " + _encoder.encode(body) + b"\n\n"
    await send({"type": "http.response.body", "body": payload, "more_body": not last})


def sent_request_id(scope: "Scope") -> str | None:
    """Return the caller's ``x-request-id`` where it is a UUID, else None."""
    given = header(scope, b"x-request-id")
    if given is None:
        return None
    try:
        return str(uuid.UUID(given))
    except ValueError:
        return None


def request_id_of(scope: "Scope") -> str:
    """Return the caller's ``x-request-id`` where it is a UUID, else a new one."""
    return sent_request_id(scope) or str(uuid.uuid4())


def problem(
    code: str,
    error: str,
    *,
    request_id: str,
    suggested_action: str,
    details: dict[str, object] | None = None,
) -> Problem:
    """Build an error body."""
    return Problem(
        error=error,
        error_code=code,
        details=details,
        suggested_action=suggested_action,
        request_id=request_id,
    )
