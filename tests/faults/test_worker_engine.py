"""Starting llama.cpp on bad files, and what its own port gives to strangers."""

import asyncio
import http.client
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import pytest

from gguf_models import CHATML, write_tiny_gguf
from onbook.wire.worker_api import effective_sampling
from onbook.worker.engines.base import EngineError, EngineStartError
from onbook.worker.engines.llama_chunks import Chunks
from onbook.worker.engines.llama_cpp import LlamaCppEngine, start_llama_cpp
from onbook.worker.model_file import PACKAGED_SHA256, file_sha256, packaged_model
from support_worker import packaged_llama, user

pytestmark = pytest.mark.model

ORIGIN = {"Origin": "https://evil.example", "Content-Type": "application/json"}
ROUTES: tuple[tuple[str, str, object], ...] = (
    ("GET", "/props", None),
    ("POST", "/props", {}),
    ("GET", "/v1/models", None),
    ("GET", "/slots", None),
    ("GET", "/metrics", None),
    ("POST", "/tokenize", {"content": "a"}),
    ("POST", "/detokenize", {"tokens": [1]}),
    ("POST", "/apply-template", {"messages": [{"role": "user", "content": "a"}]}),
    ("POST", "/completion", {"prompt": "a", "n_predict": 1}),
    ("POST", "/completions", {"prompt": "a", "n_predict": 1}),
    ("POST", "/v1/completions", {"prompt": "a", "max_tokens": 1}),
    ("POST", "/v1/chat/completions", {"messages": [], "max_tokens": 1}),
    ("POST", "/infill", {}),
    ("POST", "/embedding", {"content": "a"}),
    ("GET", "/lora-adapters", None),
)


@pytest.fixture(scope="module")
def model() -> Path:
    path = packaged_model()
    if path is None:
        pytest.skip("the packaged model is not installed")
    return path


@pytest.fixture(scope="module")
def engine() -> Iterator[LlamaCppEngine]:
    with packaged_llama(slots=1, context_size=256) as engine:
        yield engine


def _start(path: Path, sha256: str | None = None) -> LlamaCppEngine:
    return start_llama_cpp(
        path, context_size=256, slots=1, threads=1, prompt_cache_mib=0, expected_sha256=sha256
    )


def _refusal(path: Path, sha256: str | None = None) -> str:
    with pytest.raises(EngineStartError) as caught:
        _start(path, sha256)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    assert text.endswith(".")
    return text


def _cut(model: Path, target: Path, size: int) -> Path:
    with model.open("rb") as source:
        target.write_bytes(source.read(size))
    return target


def test_a_missing_file(tmp_path: Path) -> None:
    assert "no model file" in _refusal(tmp_path / "absent.gguf")


@pytest.mark.parametrize("size", [0, 3, 24, 5_000, 1_000_000])
def test_a_file_cut_off_within_the_header(model: Path, tmp_path: Path, size: int) -> None:
    assert "damaged" in _refusal(_cut(model, tmp_path / "cut.gguf", size))


def test_a_file_cut_off_within_the_tensors(model: Path, tmp_path: Path) -> None:
    assert "cannot load" in _refusal(_cut(model, tmp_path / "cut.gguf", 4_000_000))


def test_a_file_of_random_bytes(tmp_path: Path) -> None:
    path = tmp_path / "random.gguf"
    path.write_bytes(os.urandom(100_000))
    assert "not a GGUF" in _refusal(path)


def test_a_file_with_an_architecture_that_does_not_exist(model: Path, tmp_path: Path) -> None:
    path = _cut(model, tmp_path / "strange.gguf", 4_000_000)
    data = path.read_bytes()
    assert data.count(b"llama", 0, 200) >= 1
    path.write_bytes(data.replace(b"llama", b"lamma", 1))
    _refusal(path)


@pytest.mark.parametrize("sha256", ["0" * 64, "", PACKAGED_SHA256[:-1]])
def test_a_file_with_another_digest_is_not_even_loaded(
    model: Path, sha256: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onbook.worker.engines.llama_cpp._params", None)
    assert "SHA-256" in _refusal(model, sha256)


def test_the_packaged_model_has_its_digest(model: Path) -> None:
    assert file_sha256(model) == PACKAGED_SHA256


def _call(
    engine: LlamaCppEngine, method: str, path: str, body: object, headers: Mapping[str, str]
) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(engine._tokenizer._host, timeout=20)
    try:
        sent = None if body is None else msgspec.json.encode(body)
        connection.request(method, path, sent, dict(headers))
        response = connection.getresponse()
        response.read()
        return response
    finally:
        connection.close()


@pytest.mark.parametrize(("method", "path", "body"), ROUTES, ids=lambda value: str(value)[:24])
@pytest.mark.parametrize("key", [None, "", "wrong"])
def test_the_engines_own_port_refuses_without_its_key(
    engine: LlamaCppEngine, method: str, path: str, body: object, key: str | None
) -> None:
    headers = {**ORIGIN} if key is None else {**ORIGIN, "Authorization": f"Bearer {key}"}
    response = _call(engine, method, path, body, headers)
    assert response.status == 401
    assert not response.headers.get("Access-Control-Allow-Origin")


def test_the_engines_own_port_listens_on_loopback_and_shows_no_page(engine: LlamaCppEngine) -> None:
    assert engine._tokenizer._host.startswith("127.0.0.1:")
    assert _call(engine, "GET", "/", None, ORIGIN).status in (401, 404)


def test_no_web_page_is_allowed_to_read_the_engines_port(engine: LlamaCppEngine) -> None:
    headers = {**ORIGIN, "Access-Control-Request-Method": "POST"}
    response = _call(engine, "OPTIONS", "/v1/completions", None, headers)
    assert not response.headers.get("Access-Control-Allow-Origin")


def test_each_engine_has_a_long_key_of_its_own(engine: LlamaCppEngine) -> None:
    key = engine._tokenizer._headers["Authorization"].removeprefix("Bearer ")
    assert len(key) >= 40
    with packaged_llama(slots=1, context_size=256) as other:
        assert other._tokenizer._headers["Authorization"] != f"Bearer {key}"


def test_the_tokenizer_survives_a_dropped_connection(engine: LlamaCppEngine) -> None:
    tokenizer = engine._tokenizer
    first = tokenizer("a fox in the rain")
    [kept] = tokenizer._idle
    assert kept.sock is not None
    kept.sock.close()
    assert tokenizer("a fox in the snow") != first
    assert len(tokenizer._idle) == 1


def test_a_tokenizer_that_nobody_answers_is_an_engine_error(engine: LlamaCppEngine) -> None:
    tokenizer = type(engine._tokenizer)("http://127.0.0.1:1", "key")
    with pytest.raises(EngineError) as caught:
        tokenizer("SECRET")
    assert "SECRET" not in str(caught.value)


def test_the_tokenizers_cache_is_bounded_and_right(engine: LlamaCppEngine) -> None:
    tokenizer = engine._tokenizer
    assert tokenizer("cached text") == tokenizer("cached text")
    long = "x" * 20_000
    tokenizer(long)
    assert "cached text" in tokenizer._cache
    assert long not in tokenizer._cache


_LONG_TEXT = """
import asyncio, sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from gguf_models import MISTRAL_V7, tiny_engine
from onbook.worker.rendering import LongRunError, RawCompletion
from onbook.wire.worker_api import Message
with tiny_engine(Path(sys.argv[2]), replace(MISTRAL_V7, pre=sys.argv[3])) as engine:
    raw = RawCompletion(engine.text)
    for unit in ("a", "!", " ", "1", "\\n", "\u4e2d"):
        try:
            raw.render([Message("user", unit * 24_000)])
        except LongRunError:
            print("refused", flush=True)
        spaced = (unit * 1000 + ("x" if unit.isspace() else " ")) * 30
        assert len(raw.render([Message("user", spaced)])) > 1000
print("alive")
"""


@pytest.mark.parametrize("pre", ["tekken", "gpt-4o", "deepseek-llm", "viking"])
def test_a_text_that_would_overflow_the_tokenizers_stack_is_refused(
    tmp_path: Path, pre: str
) -> None:
    tests = str(Path(__file__).parents[1])
    # A process of its own: without the refusal it ends by a signal.
    done = subprocess.run(
        [sys.executable, "-c", _LONG_TEXT, tests, str(tmp_path / "m.gguf"), pre],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.split() == ["refused"] * 6 + ["alive"]


async def test_an_engine_that_says_nothing_for_a_minute_is_not_ready(tmp_path: Path) -> None:
    now = 1000.0
    heard, go_on = threading.Event(), threading.Event()

    engine = _start(write_tiny_gguf(tmp_path / "m.gguf", CHATML))
    try:
        engine.clock = lambda: now
        sampling = effective_sampling(user("a", max_tokens=8), "chat")
        assert await engine.ready()
        # The library calls back from its thread: held there, it is as a library that hangs.
        put = Chunks.put

        def held(chunks: Chunks, chunk: str | None) -> bool:
            heard.set()
            assert go_on.wait(20)
            return put(chunks, chunk)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Chunks, "put", held)
            pieces = engine.generate(engine.text.ids("the user"), sampling, None)
            first = asyncio.ensure_future(anext(pieces))
            assert await asyncio.to_thread(heard.wait, 20)
            now += 59
            assert await engine.ready()
            now += 2
            assert not await engine.ready()
            # Nobody waits for it any more, and it hangs all the same.
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            assert not await engine.ready()
            go_on.set()
    finally:
        go_on.set()
        await engine.close()
