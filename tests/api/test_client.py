import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from onbook.client import (
    AsyncOnbook,
    Onbook,
    OnbookAnswerError,
    OnbookAPIError,
    OnbookClientError,
    OnbookConnectionError,
    OnbookTimeoutError,
)
from onbook.client.exchange import parse_address
from onbook.wire.gateway_api import EnhanceResponse
from server import ADMIN_KEY, Server, served

PROMPT = "a red kite over the dunes"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served("serve", tmp_path_factory.mktemp("data")) as started:
        yield started


class Asked:
    """Both clients behind one call, so that every test is of both."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def enhance(
        self,
        url: str,
        key: str | None,
        prompt: str,
        *,
        timeout_s: float = 10.0,
        seed: int | None = None,
        job_type: str | None = None,
    ) -> EnhanceResponse:
        if self.kind == "sync":
            with Onbook(url, key, timeout_s=timeout_s) as client:
                return client.enhance(prompt, seed=seed, job_type=job_type)

        async def call() -> EnhanceResponse:
            async with AsyncOnbook(url, key, timeout_s=timeout_s) as client:
                return await client.enhance(prompt, seed=seed, job_type=job_type)

        return asyncio.run(call())


@pytest.fixture(params=["sync", "async"])
def asked(request: pytest.FixtureRequest) -> Asked:
    return Asked(request.param)


@contextmanager
def answering(status: int, body: bytes, **headers: str) -> Iterator[tuple[str, list[str]]]:
    """A server that is not ours; gives its URL and the paths that were asked for."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            paths.append(self.path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_address[1]}", paths
        finally:
            http.shutdown()
            thread.join()


def test_an_answer_is_the_struct_of_the_wire(server: Server, asked: Asked) -> None:
    answer = asked.enhance(server.url, ADMIN_KEY, PROMPT, seed=7, job_type="wan_video")

    assert isinstance(answer, EnhanceResponse)
    assert answer.original_prompt == PROMPT
    assert answer.enhanced_prompt.lower().startswith(PROMPT)
    assert answer.enhancement_metadata.seed == 7
    assert answer.enhancement_metadata.target == "wan"
    assert answer.enhancement_metadata.integrity.status == "verified"


@pytest.mark.parametrize(
    ("key", "job_type", "status", "code"),
    [
        (None, None, 401, "AUTH_REQUIRED"),
        ("wrong-key", None, 401, "AUTH_REQUIRED"),
        (ADMIN_KEY, "portrait", 400, "INVALID_JOB_TYPE"),
    ],
)
def test_an_error_body_is_a_typed_error(
    server: Server, asked: Asked, key: str | None, job_type: str | None, status: int, code: str
) -> None:
    with pytest.raises(OnbookAPIError) as raised:
        asked.enhance(server.url, key, PROMPT, job_type=job_type)

    assert raised.value.status == status
    assert raised.value.problem.error_code == code
    assert raised.value.problem.suggested_action
    assert PROMPT not in repr(raised.value)
    assert str(key) not in repr(raised.value)


def test_a_wrong_prompt_is_not_repeated(server: Server, asked: Asked) -> None:
    with pytest.raises(OnbookAPIError) as raised:
        asked.enhance(server.url, ADMIN_KEY, "kite" * 3000)

    assert raised.value.problem.details is not None
    assert raised.value.problem.details["fields"] == ["prompt"]
    assert "kite" not in f"{raised.value} {raised.value!r} {raised.value.problem}"


def test_nobody_there(asked: Asked) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        with pytest.raises(OnbookConnectionError):
            asked.enhance(f"http://127.0.0.1:{probe.getsockname()[1]}", None, PROMPT)


def test_no_answer_in_time(asked: Asked) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(OnbookTimeoutError, match=r"within 0\.2 s"):
            asked.enhance(url, None, PROMPT, timeout_s=0.2)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"<html>hello</html>"),
        (200, b'{"success": true}'),
        (200, b"\xff"),
        (502, b"<html>bad gateway</html>"),
        (404, b'{"detail": "Not Found"}'),
    ],
)
def test_an_answer_that_is_not_ours(asked: Asked, status: int, body: bytes) -> None:
    with answering(status, body) as (url, _), pytest.raises(OnbookAnswerError) as raised:
        asked.enhance(url, None, PROMPT)
    assert raised.value.status == status
    assert raised.value.__suppress_context__


def test_the_key_does_not_follow_a_redirect(asked: Asked) -> None:
    with answering(200, b"{}") as (other, other_paths):
        target = f"{other}/elsewhere"
        with (
            answering(307, b"", location=target) as (url, _),
            pytest.raises(OnbookAnswerError) as raised,
        ):
            asked.enhance(url, ADMIN_KEY, PROMPT)
        assert raised.value.status == 307
        assert other_paths == []


def test_nothing_is_retried_and_a_path_in_front_is_kept(asked: Asked) -> None:
    with answering(503, b"busy") as (url, paths), pytest.raises(OnbookAnswerError):
        asked.enhance(f"{url}/onbook/", None, PROMPT)
    assert paths == ["/onbook/functions/v1/enhance-prompt"]


def test_a_broken_connection_is_an_error_of_the_client(asked: Asked) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(10)

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(OnbookConnectionError):
            asked.enhance(f"http://127.0.0.1:{listener.getsockname()[1]}", None, PROMPT)
        thread.join()


@pytest.mark.parametrize("key", ["", "two words", "line\nend", "schlüssel", "a\x7fb"])
@pytest.mark.parametrize("client", [Onbook, AsyncOnbook])
def test_a_key_that_no_header_can_carry(client: type[Onbook] | type[AsyncOnbook], key: str) -> None:
    with pytest.raises(ValueError, match="access key") as raised:
        client("http://localhost", key)
    assert not key or key not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8740",
        "ftp://localhost",
        "http://",
        "http://user:secret@localhost",
        "http://localhost?a=secret",
        "http://localhost/#secret",
        "http://localhost:secret",
        "http://[::1",
        "http://local host",
        "http://localhost/pfäd",
    ],
)
def test_a_url_that_cannot_be_used(url: str) -> None:
    with pytest.raises(ValueError, match="base URL") as raised:
        parse_address(url)
    assert "secret" not in str(raised.value)


def test_urls_are_put_together() -> None:
    assert parse_address("https://h.example").url("/x") == "https://h.example/x"
    assert parse_address("http://[::1]:8740/a/").url("/x") == "http://[::1]:8740/a/x"


def test_a_lone_surrogate_is_not_sent(asked: Asked) -> None:
    with pytest.raises(ValueError, match="lone surrogate") as raised:
        asked.enhance("http://localhost:1", None, "kite \ud800")
    assert "kite" not in str(raised.value)


def test_threads_share_one_client(server: Server) -> None:
    client = Onbook(server.url, ADMIN_KEY)
    prompts = [f"{PROMPT} {number}" for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(client.enhance, prompts))
    assert [answer.original_prompt for answer in answers] == prompts


async def test_tasks_share_one_client(server: Server) -> None:
    prompts = [f"{PROMPT} {number}" for number in range(24)]
    async with AsyncOnbook(server.url, ADMIN_KEY) as client:
        answers = await asyncio.gather(*(client.enhance(prompt) for prompt in prompts))
    assert [answer.original_prompt for answer in answers] == prompts


def test_neither_client_shows_its_key() -> None:
    assert ADMIN_KEY not in repr(Onbook("http://localhost", ADMIN_KEY))
    assert ADMIN_KEY not in repr(AsyncOnbook("http://localhost", ADMIN_KEY))


def test_every_error_is_one_of_the_client() -> None:
    for error in (OnbookAPIError, OnbookAnswerError, OnbookConnectionError, OnbookTimeoutError):
        assert issubclass(error, OnbookClientError)


def test_the_client_loads_nothing_but_the_wire(tmp_path: Path) -> None:
    code = (
        "import sys, onbook.client; "
        "print(*sorted({n.split('.')[1] for n in sys.modules if n.startswith('onbook.')}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["client", "wire"]
