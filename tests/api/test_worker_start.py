"""A worker's start and stop: it listens first, loads, serves, drains; or ends with one sentence."""

import http.client
import json
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from onbook.adapters.files.signing_keys import load_or_create_gateway_ring
from onbook.settings import Settings
from onbook.wire.signing import signer_of
from onbook.wire.worker_api import WorkerInfo
from onbook.worker.engines.base import EngineStartError
from onbook.worker.loading import LoadingApp
from onbook.worker.model_file import packaged_model
from onbook.worker.start import build_worker, check_trusted_keys
from server import ONBOOK, Server, enhance, environment, killed, query, served, start

GATEWAY = signer_of(Ed25519PrivateKey.generate()).public_key
MESSAGES = {"messages": [{"role": "user", "content": "a fox"}]}


def _line(server: Server, wanted: str) -> str:
    """Wait for a line of the server's output."""
    pause = threading.Event()
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        for line in list(server.lines):
            if wanted in line:
                return line
        pause.wait(0.01)
    raise AssertionError(f"no line with {wanted!r}:\n{server.output}")


def _get(
    url: str, body: object = None, **headers: str
) -> tuple[int, dict[str, object], str | None]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers)  # noqa: S310 - our own server
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - as above
            return answer.status, json.loads(answer.read()), answer.headers["Retry-After"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read()), error.headers["Retry-After"]


def _ended(tmp_path: Path, *arguments: str, **options: str) -> tuple[int, str]:
    """Run a start that must fail; return its code and its only line of errors."""
    done = subprocess.run(
        [ONBOOK, "worker", "--port", "0", "--data-dir", str(tmp_path), *arguments],
        env=environment(**{"ONBOOK_WORKER_ENGINE": None, **options}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    [line] = done.stderr.strip().splitlines()
    return done.returncode, line


@contextmanager
def silent_upstream() -> Iterator[tuple[str, Callable[[], None]]]:
    """Give a server that takes connections and says nothing, and what closes it."""
    listener = socket.create_server(("127.0.0.1", 0))
    held: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                held.append(listener.accept()[0])
            except OSError:
                return

    def close() -> None:
        if listener.fileno() >= 0:
            # Closing alone does not wake a thread that accepts.
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for connection in held:
            connection.close()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", close
    finally:
        close()
        thread.join(10)


async def test_before_it_has_its_model_a_worker_says_that_it_is_loading() -> None:
    face = LoadingApp()
    transport = httpx.ASGITransport(app=face)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        for path in ("/health", "/chat/health"):
            health = await http.get(path)
            assert (health.status_code, health.headers["retry-after"]) == (503, "5")
            assert health.json()["status"] == "loading"
            assert health.json()["model_loaded"] is False
        for path in ("/chat", "/worker/info", "/metrics", "/nowhere"):
            answer = await http.post(path, json=MESSAGES)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
            assert answer.json()["error_code"] == "WORKER_UNAVAILABLE"

        async def ready(_scope: object, _receive: object, send: Callable[..., object]) -> None:
            await send({"type": "http.response.start", "status": 204, "headers": []})  # type: ignore[misc]  # bare ASGI
            await send({"type": "http.response.body"})  # type: ignore[misc]  # bare ASGI

        face.hand_over(ready)
        assert (await http.get("/health")).status_code == 204


async def test_a_built_worker_states_what_it_is(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, worker_engine="echo", max_queue=7)
    said: list[str] = []
    worker = build_worker(settings, progress=said.append)
    info = worker.app.info
    assert isinstance(info, WorkerInfo)
    assert (info.max_queue, info.trusts_signed_requests_only) == (7, False)
    assert info.purity.passed
    assert info.memory.model_file_bytes is None
    assert said
    await worker.close()


@pytest.mark.parametrize(
    "key",
    [
        "",
        "AAAA",
        "no base64",
        # The key is made anew in every process, and a name of it would be another in each.
        pytest.param(GATEWAY[:-4], id="cut short"),
    ],
)
def test_a_list_of_gateways_with_something_else_in_it_is_refused(key: str) -> None:
    check_trusted_keys([GATEWAY])
    with pytest.raises(EngineStartError, match=r"^Key 2 of ONBOOK_WORKER_TRUST_KEYS"):
        check_trusted_keys([GATEWAY, key])


@pytest.mark.model
async def test_the_packaged_model_by_its_name(tmp_path: Path) -> None:
    path = packaged_model()
    if path is None:
        pytest.skip("the packaged model is not installed")
    settings = Settings(
        data_dir=tmp_path, model_path=Path(path.stem), slots=1, context_size=256, threads=1
    )
    worker = build_worker(settings, progress=lambda _: None)
    try:
        memory = worker.app.info.memory
        assert memory.model_file_bytes == path.stat().st_size
        assert memory.prompt_cache_limit_bytes == 128 * 1024 * 1024
        assert worker.model_file == path
    finally:
        await worker.close()


@pytest.mark.parametrize(
    ("arguments", "options", "code", "words"),
    [
        (["--model", "nothing-of-this-name"], {}, 1, "onbook model"),
        (["--model", "absent.gguf"], {}, 1, "absent.gguf"),
        (["--engine", "openai_upstream"], {}, 2, "--upstream-url"),
        (["--engine", "echo", "--upstream-url", "http://h"], {}, 2, "--upstream-url"),
        (["--engine", "echo", "--model", "m"], {}, 2, "--model"),
        (["--upstream-url", "ftp://host"], {}, 2, "valid: --upstream-url"),
        ([], {"ONBOOK_UPSTREAM_URL": "ftp://host"}, 2, "valid: ONBOOK_UPSTREAM_URL"),
        (["--engine", "vllm"], {}, 2, "--engine must be 'llama_cpp', 'openai_upstream' or 'echo'"),
        ([], {"ONBOOK_WORKER_ENGINE": "vllm"}, 2, "valid: ONBOOK_WORKER_ENGINE must be"),
        (["--port", "99999"], {}, 2, "--port must be"),
        (["--host", "0.0.0.0"], {}, 2, "ONBOOK_WORKER_KEY"),  # noqa: S104 - it must refuse
        ([], {"ONBOOK_WORKER_TRUST_KEYS": "AAAA"}, 2, "key 1 of ONBOOK_WORKER_TRUST_KEYS"),
        (
            ["--upstream-url", "http://127.0.0.1:1"],
            {"ONBOOK_UPSTREAM_TIMEOUT_S": "0.1"},
            1,
            "onbook: the upstream http://127.0.0.1:1 cannot be reached",
        ),
    ],
)
def test_a_worker_that_cannot_start_ends_with_one_sentence(
    tmp_path: Path, arguments: list[str], options: dict[str, str], code: int, words: str
) -> None:
    ended, line = _ended(tmp_path, *arguments, **options)
    assert (ended, line.startswith("onbook: ")) == (code, True)
    assert words in line


def test_damaged_keys_end_the_start_with_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "worker_keys.json").write_text("{}")
    (tmp_path / "worker_keys.json").chmod(0o600)
    code, line = _ended(tmp_path, "--engine", "echo")
    assert code == 1
    assert str(tmp_path / "worker_keys.json") in line


def test_the_welcome_says_who_may_call(tmp_path: Path) -> None:
    with served("worker", tmp_path) as server:
        assert "anything on this machine may call" in server.output
        info = _get(f"{server.url}/worker/info")[1]
        assert str(info["public_key"]) in server.output
    options = {"ONBOOK_WORKER_TRUST_KEYS": GATEWAY, "ONBOOK_WORKER_KEY": "a-worker-key"}
    with served("worker", tmp_path, **options) as server:
        assert "must be signed with a gateway's key" in server.output
        assert "must send ONBOOK_WORKER_KEY" in server.output
        bearer = {"Authorization": "Bearer a-worker-key"}
        status, problem, _ = _get(f"{server.url}/chat", MESSAGES, **bearer)
        assert (status, problem["details"]) == (401, {"signature": "unsigned"})
        # The same directory: the same worker.
        again = _get(f"{server.url}/worker/info", None, **bearer)[1]
        assert (again["worker_id"], again["public_key"]) == (info["worker_id"], info["public_key"])


def test_a_gateway_signs_for_a_worker_in_another_process(tmp_path: Path) -> None:
    trusted = load_or_create_gateway_ring(tmp_path / "g").published[0].public_key
    with (
        served("worker", tmp_path / "w", ONBOOK_WORKER_TRUST_KEYS=trusted) as worker,
        served("gateway", tmp_path / "g", "--worker-url", worker.url) as gateway,
    ):
        answer = enhance(gateway.url)["enhancement_metadata"]
        assert _get(f"{worker.url}/chat", MESSAGES)[0] == 401
    assert isinstance(answer, dict)
    assert (answer["fallback_level"], answer["integrity"]["status"]) == (0, "verified")


def test_an_embedded_worker_with_trusted_keys_trusts_its_own_gateway(tmp_path: Path) -> None:
    with served("serve", tmp_path, ONBOOK_WORKER_TRUST_KEYS=GATEWAY) as server:
        answer = enhance(server.url)["enhancement_metadata"]
        assert isinstance(answer, dict)
        assert answer["fallback_level"] == 0
        assert _get(f"{server.url}/chat", MESSAGES)[0] == 401
    assert query(tmp_path, "SELECT count(*) FROM enhancement_logs") == [(1,)]


def test_while_it_loads_it_answers_and_then_ends_with_one_sentence(tmp_path: Path) -> None:
    with silent_upstream() as (upstream, close):
        started = start(
            "worker",
            tmp_path,
            "--upstream-url",
            upstream,
            ONBOOK_WORKER_ENGINE=None,
            ONBOOK_UPSTREAM_TIMEOUT_S="2",
        )
        with killed(started) as server:
            found = re.search(r"http://\S+?(?=;)", _line(server, "listens at"))
            assert found is not None
            url = found.group()
            status, health, retry_after = _get(f"{url}/health")
            assert (status, health["status"], retry_after) == (503, "loading", "5")
            status, problem, retry_after = _get(f"{url}/chat", MESSAGES)
            assert (status, problem["error_code"]) == (503, "WORKER_UNAVAILABLE")
            assert retry_after == "5"
            close()
            assert server.process.wait(30) == 1
            server.reader.join(10)
            assert server.lines[-1].startswith("onbook: ")
            assert "Traceback" not in server.output


@pytest.mark.parametrize("with_signal", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_while_it_loads_does_not_wait_for_the_model(
    tmp_path: Path, with_signal: signal.Signals
) -> None:
    with silent_upstream() as (upstream, _):
        started = start("worker", tmp_path, "--upstream-url", upstream, ONBOOK_WORKER_ENGINE=None)
        with killed(started) as server:
            _line(server, "listens at")
            began = time.monotonic()
            assert server.stop(with_signal) in (0, -signal.SIGTERM)
            assert time.monotonic() - began < 20
            assert "Traceback" not in server.output


@contextmanager
def _generating(
    tmp_path: Path, **options: str
) -> Iterator[tuple[Server, http.client.HTTPResponse]]:
    """Give a worker with a real model and one stream of it that goes on for seconds."""
    if packaged_model() is None:
        pytest.skip("the packaged model is not installed")
    options = {"ONBOOK_WORKER_ENGINE": "llama_cpp", "ONBOOK_SLOTS": "1", **options}
    with served("worker", tmp_path, **options) as server:
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=60)
        try:
            # A grammar without an end: only the limit of tokens ends it.
            body = {**MESSAGES, "stream": True, "max_tokens": 120, "grammar": 'root ::= "a" root'}
            connection.request("POST", "/chat", json.dumps(body))
            stream = connection.getresponse()
            assert stream.readline().startswith(b"event: delta")
            yield server, stream
        finally:
            connection.close()


@pytest.mark.model
def test_a_stop_finishes_what_runs_and_refuses_what_comes(tmp_path: Path) -> None:
    with _generating(tmp_path) as (server, stream):
        server.process.send_signal(signal.SIGTERM)
        _line(server, "worker.draining")
        status, health, retry_after = _get(f"{server.url}/health")
        assert (status, health["status"], retry_after) == (503, "draining", "5")
        status, problem, retry_after = _get(f"{server.url}/chat", MESSAGES)
        assert (status, problem["error_code"], retry_after) == (503, "WORKER_UNAVAILABLE", "5")
        rest = stream.read()
        assert b"event: done" in rest
        assert b'"tokens_generated":120' in rest
        assert server.process.wait(30) in (0, -signal.SIGTERM)
        assert "Traceback" not in server.output


@pytest.mark.model
def test_a_stop_does_not_wait_longer_than_it_may(tmp_path: Path) -> None:
    with _generating(tmp_path, ONBOOK_SHUTDOWN_GRACE_S="0") as (server, stream):
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) in (0, -signal.SIGTERM)
        with pytest.raises(http.client.IncompleteRead):
            stream.read()
