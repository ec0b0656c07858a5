"""Reading bodies and naming requests over bare ASGI."""

import uuid
from collections import deque
from collections.abc import Iterable, MutableMapping
from typing import Any

import msgspec
import pytest

from onbook.wire.asgi import (
    MAX_BODY_BYTES,
    BodyTooLargeError,
    ClientDisconnectedError,
    header,
    problem,
    read_body,
    request_id_of,
    send_event,
    send_json,
    start_events,
)

# ASGI messages are open mappings: the protocol itself has no narrower type.
Message = MutableMapping[str, Any]


class Caller:
    """Gives the messages of one request, and counts what was taken."""

    def __init__(self, messages: Iterable[Message]) -> None:
        self.left = deque(messages)

    async def __call__(self) -> Message:
        return self.left.popleft()


def _chunk(body: bytes, *, more: bool) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


def _scope(*headers: tuple[bytes, bytes]) -> Message:
    return {"type": "http", "headers": list(headers)}


def _length(value: bytes) -> Message:
    return _scope((b"content-length", value))


async def test_a_body_of_the_limit_is_read_and_one_byte_more_is_not() -> None:
    caller = Caller([_chunk(b"x" * 10, more=False)])
    assert await read_body(_scope(), caller, 10) == b"x" * 10
    with pytest.raises(BodyTooLargeError):
        await read_body(_scope(), Caller([_chunk(b"x" * 11, more=False)]), 10)


async def test_the_default_limit_is_one_mebibyte() -> None:
    assert MAX_BODY_BYTES == 1_048_576
    assert len(await read_body(_scope(), Caller([_chunk(b"x" * 1_048_576, more=False)]))) == 2**20
    with pytest.raises(BodyTooLargeError):
        await read_body(_scope(), Caller([_chunk(b"x" * 1_048_577, more=False)]))


@pytest.mark.parametrize("value", [b"11", b"0000000011", b"99999999999999999999", b"9" * 10_000])
async def test_a_declared_length_over_the_limit_is_refused_before_reading(value: bytes) -> None:
    caller = Caller([_chunk(b"x", more=False)])
    with pytest.raises(BodyTooLargeError):
        await read_body(_length(value), caller, 10)
    assert len(caller.left) == 1


async def test_a_small_declared_length_does_not_lift_the_limit() -> None:
    caller = Caller([_chunk(b"x" * 6, more=True), _chunk(b"x" * 6, more=False)])
    with pytest.raises(BodyTooLargeError):
        await read_body(_length(b"3"), caller, 10)


@pytest.mark.parametrize("value", [b"", b"0", b"-1", b"ten", b"\xb2", b"1.5", b"0x10", b" 4"])
async def test_a_declared_length_that_says_nothing_is_passed_over(value: bytes) -> None:
    caller = Caller([_chunk(b"abcd", more=False)])
    assert await read_body(_length(value), caller, 10) == b"abcd"


async def test_chunks_are_joined_in_order() -> None:
    chunks = [_chunk(b"a", more=True), {"type": "http.request", "more_body": True}]
    caller = Caller([*chunks, _chunk(b"bc", more=True), _chunk(b"d", more=False)])
    assert await read_body(_scope(), caller) == b"abcd"


async def test_chunks_over_the_limit_are_refused_where_they_pass_it() -> None:
    caller = Caller([_chunk(b"x" * 4, more=True)] * 1000)
    with pytest.raises(BodyTooLargeError):
        await read_body(_scope(), caller, 10)
    assert len(caller.left) == 997


async def test_an_empty_body_is_empty() -> None:
    assert await read_body(_scope(), Caller([_chunk(b"", more=False)])) == b""


async def test_a_caller_who_goes_away_is_no_body() -> None:
    caller = Caller([_chunk(b"{", more=True), {"type": "http.disconnect"}])
    with pytest.raises(ClientDisconnectedError):
        await read_body(_scope(), caller)


def test_the_first_header_of_a_name_counts() -> None:
    scope = _scope((b"a", b"1"), (b"b", b"2"), (b"b", b"3"))
    assert header(scope, b"b") == "2"
    assert header(scope, b"c") is None


def test_a_callers_uuid_is_kept() -> None:
    given = str(uuid.uuid4())
    assert request_id_of(_scope((b"x-request-id", given.encode()))) == given
    upper = _scope((b"x-request-id", given.upper().encode()))
    assert request_id_of(upper) == given


@pytest.mark.parametrize("value", [None, b"", b"1", b"x" * 36, b"\xff" * 36, b"a" * 100_000])
def test_anything_else_gets_a_new_request_id(value: bytes | None) -> None:
    scope = _scope() if value is None else _scope((b"x-request-id", value))
    ids = {request_id_of(scope), request_id_of(scope)}
    assert len(ids) == 2
    assert all(uuid.UUID(one).version == 4 for one in ids)


class Sink:
    """Keeps what an application sends."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    async def __call__(self, message: Message) -> None:
        self.messages.append(message)


async def test_an_answer_has_its_type_its_length_and_the_callers_headers() -> None:
    sink = Sink()
    body = problem("INTERNAL", "é.", request_id="r", suggested_action="Wait.")
    await send_json(sink, 503, body, [(b"retry-after", b"1")])
    start, sent = sink.messages
    assert start["status"] == 503
    headers = dict(start["headers"])
    assert headers[b"content-type"] == b"application/json"
    assert int(headers[b"content-length"]) == len(sent["body"])
    assert headers[b"retry-after"] == b"1"
    assert msgspec.json.decode(sent["body"]) == {
        "success": False,
        "error": "é.",
        "error_code": "INTERNAL",
        "details": None,
        "suggested_action": "Wait.",
        "request_id": "r",
    }


async def test_events_are_single_blocks_that_no_text_can_break() -> None:
    sink = Sink()
    await start_events(sink)
    await send_event(sink, "delta", {"text": "a\n\nevent: done\ndata: {}\r\u2028"})
    await send_event(sink, "done", {}, last=True)
    start, delta, done = sink.messages
    assert dict(start["headers"])[b"cache-control"] == b"no-store"
    name, data, *rest = delta["body"].split(b"\n")
    assert (name, rest) == (b"event: delta", [b"", b""])
    assert b"\r" not in delta["body"]
    assert msgspec.json.decode(data.removeprefix(b"data: ")) == {
        "text": "a\n\nevent: done\ndata: {}\r\u2028"
    }
    assert (delta["more_body"], done["more_body"]) == (True, False)
