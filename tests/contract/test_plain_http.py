"""The small HTTP client against a real socket server that says exactly what a test wants."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest

from onbook.adapters.inference.answers import MAX_ANSWER_BYTES
from onbook.adapters.inference.plain_http import AnswerTooLargeError, PlainHttpClient, supports
from onbook.adapters.inference.remote_worker import RemoteWorker
from onbook.domain.errors import WorkerAnswerInvalid, WorkerTimeout, WorkerUnavailable
from onbook.wire.worker_api import InferenceRequest, Message

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
REQUEST = InferenceRequest(messages=[Message("user", "a cat")])


class Server:
    """Answers each request with the next of ``answers``; None leaves it unanswered."""

    def __init__(self, answers: list[bytes | None], *, close: bool = False) -> None:
        self.answers = answers
        self.close = close
        self.connections = 0
        self.requests: list[bytes] = []
        self.gone = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while self.answers:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                answer = self.answers.pop(0)
                if answer is None:
                    await reader.read()
                    return
                writer.write(answer)
                await writer.drain()
                if self.close:
                    return
            await reader.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            self.gone.set()


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[str]:
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    finally:
        listener.close()


@asynccontextmanager
async def client_of(url: str, limit: int = 1000) -> AsyncIterator[PlainHttpClient]:
    client = PlainHttpClient(url, {"X-Test": "yes"}, connect_timeout_s=5, limit=limit)
    try:
        yield client
    finally:
        client.close()


async def test_sends_the_request_and_reads_the_answer() -> None:
    server = Server([OK])
    async with serving(server) as url, client_of(url + "/prefix") as client:
        assert await client.post("/enhance", b"body") == (200, b"hi", None)
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /prefix/enhance HTTP/1.1"
    assert f"Host: {url.removeprefix('http://')}".encode() in lines
    assert b"X-Test: yes" in lines
    assert body == b"body"


async def test_headers_of_one_request_are_not_sent_with_the_next() -> None:
    server = Server([OK, OK])
    async with serving(server) as url, client_of(url) as client:
        await client.post("/", b"", {"X-Once": "1"})
        await client.post("/", b"")
    assert server.connections == 1
    assert [b"X-Once: 1\r\n" in request for request in server.requests] == [True, False]


async def test_the_answer_says_when_to_come_back() -> None:
    busy = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 7\r\nContent-Length: 0\r\n\r\n"
    async with serving(Server([busy, OK])) as url, client_of(url) as client:
        assert await client.post("/", b"") == (429, b"", "7")
        assert await client.post("/", b"") == (200, b"hi", None)


async def test_a_connection_is_used_again() -> None:
    server = Server([OK, OK, OK])
    async with serving(server) as url, client_of(url) as client:
        for _ in range(3):
            assert await client.post("/", b"") == (200, b"hi", None)
    assert server.connections == 1


async def test_requests_at_once_do_not_share_a_connection() -> None:
    server = Server([OK, OK])
    async with serving(server) as url, client_of(url) as client:
        answers = await asyncio.gather(client.post("/", b"1"), client.post("/", b"2"))
    assert list(answers) == [(200, b"hi", None), (200, b"hi", None)]
    assert server.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n1\r\ni\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
    ],
    ids=["chunked", "interim"],
)
async def test_reads_every_framing(answer: bytes) -> None:
    server = Server([answer])
    async with serving(server) as url, client_of(url) as client:
        assert await client.post("/", b"") == (200, b"hi", None)


async def test_a_body_may_end_with_the_connection() -> None:
    server = Server([b"HTTP/1.0 200 OK\r\n\r\nhi", OK], close=True)
    async with serving(server) as url, client_of(url) as client:
        assert await client.post("/", b"") == (200, b"hi", None)
        # The next request takes a connection of its own.
        assert await client.post("/", b"") == (200, b"hi", None)
    assert server.connections == 2


async def test_a_connection_that_the_server_closes_is_not_used_again() -> None:
    answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi"
    server = Server([answer, OK])
    async with serving(server) as url, client_of(url) as client:
        await client.post("/", b"")
        await client.post("/", b"")
    assert server.connections == 2


async def test_an_answer_that_nobody_asked_for_is_never_the_next_answer() -> None:
    server = Server([OK + OK.replace(b"hi", b"no"), OK])
    async with serving(server) as url, client_of(url) as client:
        assert await client.post("/", b"") == (200, b"hi", None)
        assert await client.post("/", b"") == (200, b"hi", None)
    assert server.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n",
        b"HTTP/1.1 200 OK\r\nContent-",
        b"SSH-2.0-server\r\n",
        b"",
    ],
    ids=["short", "chunk missing", "head cut off", "not HTTP", "nothing"],
)
async def test_half_an_answer_is_an_error(answer: bytes) -> None:
    server = Server([answer], close=True)
    async with serving(server) as url, client_of(url) as client:
        with pytest.raises(ConnectionError):
            await client.post("/", b"")


async def test_an_endless_head_is_an_error() -> None:
    server = Server([b"HTTP/1.1 200 OK\r\n" + b"X-Filler: 1\r\n" * 100_000])
    async with serving(server) as url, client_of(url) as client:
        with pytest.raises(ConnectionError):
            await client.post("/", b"")


@pytest.mark.parametrize("size", [1000, 1001])
async def test_the_body_has_a_limit(size: int) -> None:
    server = Server([b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (size, b"x" * size)])
    async with serving(server) as url, client_of(url, limit=1000) as client:
        if size == 1000:
            assert await client.post("/", b"") == (200, b"x" * size, None)
        else:
            with pytest.raises(AnswerTooLargeError):
                await client.post("/", b"")


async def test_giving_up_closes_the_connection() -> None:
    server = Server([None])
    async with serving(server) as url, client_of(url) as client:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.post("/", b""), 0.05)
        await asyncio.wait_for(server.gone.wait(), 5)


@pytest.mark.parametrize(
    ("url", "headers", "expected"),
    [
        ("http://worker:8741", {}, True),
        ("http://[::1]:8741/prefix", {"A": "b"}, True),
        ("https://worker:8741", {}, False),
        ("http://user:word@worker", {}, False),
        ("http://worker/?q=1", {}, False),
        ("http://worker/a b", {}, False),
        ("http://worker:99999", {}, False),
        ("http:///path", {}, False),
        ("http://worker", {"Authorization": "Bearer a\r\nX-Evil: 1"}, False),
        ("http://worker", {"Authorization": "Bearer ключ"}, False),
    ],
)
def test_anything_unusual_is_left_to_the_general_client(
    url: str, headers: dict[str, str], *, expected: bool
) -> None:
    assert supports(url, headers) is expected


def _answer(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


async def test_the_worker_port_reads_a_result() -> None:
    body = msgspec.json.encode({"success": True, "enhanced_prompt": "a cat, soft light"})
    server = Server([_answer(body)])
    async with serving(server) as url:
        worker = RemoteWorker(url, key="worker-key", public_keys=())
        completion = await worker.infer("enhance", REQUEST, timeout_s=5)
        await worker.close()
    assert completion.text == "a cat, soft light"
    assert b"Authorization: Bearer worker-key\r\n" in server.requests[0]
    sent = msgspec.json.decode(server.requests[0].partition(b"\r\n\r\n")[2], type=InferenceRequest)
    assert sent == REQUEST


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (lambda: None, WorkerTimeout),
        (lambda: b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi", WorkerUnavailable),
        (lambda: _answer(b"{}", b"307 Temporary Redirect"), WorkerUnavailable),
        (lambda: _answer(b"x" * (MAX_ANSWER_BYTES + 1)), WorkerAnswerInvalid),
        (lambda: _answer(b"no json"), WorkerAnswerInvalid),
        (lambda: _answer(b"[" * 100_000), WorkerAnswerInvalid),
    ],
    ids=["silent", "cut off", "redirect", "too large", "not JSON", "nested"],
)
async def test_the_worker_port_names_what_went_wrong(
    answer: Callable[[], bytes | None], error: type[Exception]
) -> None:
    said = answer()
    server = Server([said], close=said is not None)
    async with serving(server) as url:
        worker = RemoteWorker(url, key=None, public_keys=())
        with pytest.raises(error) as caught:
            await worker.infer("enhance", REQUEST, timeout_s=0.5)
        await worker.close()
    assert type(caught.value) is error


async def test_the_worker_port_says_when_nobody_listens() -> None:
    async with serving(Server([])) as url:
        pass
    worker = RemoteWorker(url, key=None, public_keys=())
    with pytest.raises(WorkerUnavailable):
        await worker.infer("enhance", REQUEST, timeout_s=5)
    await worker.close()
