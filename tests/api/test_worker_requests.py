"""The worker's three endpoints: what they do with good requests, and what they say of bad ones."""

import json
from collections.abc import AsyncIterator

import httpx
import msgspec
import pytest

from onbook.wire.canonical import sha256_of, sha256_of_text
from onbook.wire.receipt import request_sha256, signature_valid, token_ids_sha256
from onbook.wire.worker_api import InferenceRequest, Message
from onbook.worker.engines.base import GrammarError, Piece
from onbook.worker.rendering import RawCompletion, chat_renderer
from support_worker import DONE, Bench, ScriptedEngine, bench, over_loopback, receipt_of

OFF = {
    "temperature": 0.7,
    "top_p": 0.9,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "dry_multiplier": 0.0,
    "seed": -1,
    "stop": [],
    "grammar_sha256": None,
}
HELLO: dict[str, object] = {"messages": [{"role": "user", "content": "hello there"}]}
ALL_SET: dict[str, object] = {
    "max_tokens": 33,
    "temperature": 0.0,
    "top_p": 0.5,
    "top_k": 40,
    "min_p": 0.05,
    "repetition_penalty": 1.1,
    "frequency_penalty": -0.5,
    "presence_penalty": 0.5,
    "dry_multiplier": 0.8,
    "seed": 0,
    "stop": ["END"],
}


@pytest.fixture
async def worker() -> AsyncIterator[Bench]:
    async with bench() as started:
        yield started


def _problem(answer: httpx.Response, status: int, code: str) -> dict[str, object]:
    assert answer.status_code == status
    body: dict[str, object] = answer.json()
    assert set(body) == {
        "success", "error", "error_code", "details", "suggested_action", "request_id",
    }  # fmt: skip
    assert (body["success"], body["error_code"]) == (False, code)
    assert "SECRET" not in answer.text
    return body


async def test_the_pure_inference_check_of_the_operators_guide(worker: Bench) -> None:
    messages = [{"role": "system", "content": "Test"}, {"role": "user", "content": "Hello"}]
    answer = await worker.post("enhance", {"messages": messages, "max_tokens": 100})
    assert answer.status_code == 200
    body = answer.json()
    assert (body["success"], body["enhanced_prompt"]) == (True, "Hello")
    assert "response" not in body
    assert body["finish_reason"] == "stop"
    assert body["receipt"]["sampling"] == {"max_tokens": 100, **OFF}
    assert body["generation_time"] >= 0


@pytest.mark.parametrize(
    ("endpoint", "limit", "field"),
    [("chat", 512, "response"), ("enhance", 200, "enhanced_prompt"), ("generate", 512, "response")],
)
async def test_what_is_not_asked_for_is_off(
    worker: Bench, endpoint: str, limit: int, field: str
) -> None:
    answer = await worker.post(endpoint, HELLO)
    assert answer.json()["receipt"]["sampling"] == {"max_tokens": limit, **OFF}
    assert answer.json()[field] == "hello there"


async def test_what_is_asked_for_reaches_the_engine_and_the_receipt() -> None:
    engine = ScriptedEngine([DONE])
    async with bench(engine) as worker:
        answer = await worker.post("chat", {**HELLO, **ALL_SET, "grammar": "root ::= [a-z]"})
    grammar = sha256_of_text("root ::= [a-z]")
    assert answer.json()["receipt"]["sampling"] == {**ALL_SET, "grammar_sha256": grammar}
    [(ids, sampling, sent)] = engine.calls
    assert msgspec.to_builtins(sampling) == {**ALL_SET, "grammar_sha256": grammar}
    assert sent == "root ::= [a-z]"
    assert ids == chat_renderer(engine.text, None).render([Message("user", "hello there")])


@pytest.mark.parametrize("endpoint", ["chat", "enhance", "generate"])
async def test_a_receipt_can_be_checked_from_the_outside(endpoint: str) -> None:
    engine = ScriptedEngine([Piece("a fox"), Piece(" \n"), Piece("", "length", 4)])
    messages = [Message("system", "S "), Message("user", "hé<|im_end|>")]
    async with bench(engine) as worker:
        body = {"messages": msgspec.to_builtins(messages), "nonce": "n-1", "max_tokens": 4}
        answer = await worker.post(endpoint, body)
        public_key = (await worker.http.get("/worker/info")).json()["public_key"]
    receipt = receipt_of(answer)
    render = chat_renderer(engine.text, None).render
    if endpoint == "generate":
        render = RawCompletion(engine.text).render
    ids = render(messages)
    assert signature_valid(receipt, public_key)
    assert receipt.token_ids_sha256 == token_ids_sha256(ids) == sha256_of(ids)
    assert receipt.prompt_tokens == answer.json()["prompt_tokens"] == len(ids)
    assert receipt.request_sha256 == request_sha256(messages, receipt.sampling, "n-1")
    assert receipt.output_sha256 == sha256_of_text("a fox \n")
    assert (receipt.nonce, receipt.added_text, receipt.finish_reason) == ("n-1", "", "length")
    assert receipt.rendering == ("raw" if endpoint == "generate" else "chatml")
    assert (receipt.model_sha256, receipt.chat_template_sha256) == ("f" * 64, "c" * 64)
    assert answer.json()["tokens_generated"] == 4


async def test_empty_output_is_empty_output() -> None:
    async with bench(ScriptedEngine([Piece("", "stop", 1)])) as worker:
        answer = await worker.post("enhance", HELLO)
    assert (answer.json()["success"], answer.json()["enhanced_prompt"]) == (True, "")


def _with(**changes: object) -> dict[str, object]:
    return {**HELLO, **changes}


def _said(role: object, content: object, **more: object) -> dict[str, object]:
    return {"messages": [{"role": role, "content": content, **more}]}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "SECRET"}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": ["SECRET"]}, "messages[0]"),
        (_said("SECRET", "a"), "messages[0].role"),
        (_said("tool", "SECRET"), "messages[0].role"),
        (_said("user", 1), "messages[0].content"),
        (_said("user", None), "messages[0].content"),
        (_said("user", [{"type": "text", "text": "SECRET"}]), "messages[0].content"),
        (_said("user", "SECRET", name="SECRET-"), None),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        (_with(colour="SECRET"), "colour"),
        (_with(system_prompt="SECRET"), "system_prompt"),
        (_with(max_tokens=0), "max_tokens"),
        (_with(max_tokens=-1), "max_tokens"),
        (_with(max_tokens="SECRET"), "max_tokens"),
        (_with(max_tokens=1.5), "max_tokens"),
        (_with(max_tokens=True), "max_tokens"),
        (_with(temperature=-0.1), "temperature"),
        (_with(temperature=5.1), "temperature"),
        (_with(temperature=None), "temperature"),
        (_with(top_p=0), "top_p"),
        (_with(top_p=1.01), "top_p"),
        (_with(top_k=-1), "top_k"),
        (_with(min_p=2), "min_p"),
        (_with(repetition_penalty=0), "repetition_penalty"),
        (_with(frequency_penalty=3), "frequency_penalty"),
        (_with(presence_penalty=-3), "presence_penalty"),
        (_with(dry_multiplier=-1), "dry_multiplier"),
        (_with(seed=-1), "seed"),
        (_with(seed=2**32), "seed"),
        (_with(stop="SECRET"), "stop"),
        (_with(stop=["x"] * 17), "stop"),
        (_with(stop=[""]), "stop[0]"),
        (_with(stop=["x", "y" * 257]), "stop[1]"),
        (_with(grammar=1), "grammar"),
        (_with(grammar="x" * 65_537), "grammar"),
        (_with(stream="SECRET"), "stream"),
        (_with(seed=10**400), "seed"),
        ({"messages": [{"role": "user", "content": "a"}] * 10_000}, "messages"),
        (_with(nonce="x" * 129), "nonce"),
    ],
)
async def test_a_wrong_request_is_400_and_names_the_field(
    worker: Bench, body: object, field: str | None
) -> None:
    for endpoint in ("chat", "enhance", "generate"):
        answer = await worker.post(endpoint, body)
        if field is None:
            assert answer.json()["details"]["fields"] == ["messages[0].name"]
            continue
        assert _problem(answer, 400, "INVALID_PAYLOAD")["details"] == {"fields": [field]}
    assert worker.outcomes("chat", "INVALID_PAYLOAD") == 1
    assert worker.outcomes("chat", "ok") == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b'"SECRET"',
        b"\xff",
        json.dumps(HELLO).encode() + b"SECRET",
        b'{"messages":[{"role":"user","content":"SECRET\\ud800"}]}',
        b'{"messages":[{"role":"user","content":"SECRET\xff"}]}',
        b'{"messages":[{"role":"user","content":"SECRET\x00"}]}',
        b'{"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"inputs":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"SECRET":' * 100_000,
        b'{"inputs":"SECRET\\ud800"}',
        b'{"messages":[{"role":"user","content":"a"}],"temperature":NaN}',
        b'{"messages":[{"role":"user","content":"a"}],"temperature":Infinity}',
        b'{"messages":[{"role":"user","content":"a"}],"max_tokens":1' + b"0" * 100_000 + b"}",
        b'{"messages":[{"role":"user","content":"a"}],"temperature":1e999}',
        b'{"messages":[{"role":"user","content":"SECRET"}],"messages":[]}',
        b'{"messages":[{"role":"user","content":"a"}],"max_tokens":2,"max_tokens":3}',
        b'{"messages":[{"role":"user","content":"SECRET","content":"b"}]}',
        b'{"messages":[{"role":"user","content":"a"}],"stream":false,"str\\u0065am":false}',
        b'{"inputs":"a","inputs":"SECRET"}',
        b"messages=SECRET&max_tokens=1",
        b'\xef\xbb\xbf{"messages":[]}',
        "{}".encode("utf-16"),
    ],
    ids=lambda body: repr(body[:30]),
)
async def test_what_is_not_json_is_400(worker: Bench, body: bytes) -> None:
    for endpoint in ("chat", "enhance", "generate"):
        answer = await worker.http.post(f"/{endpoint}", content=body)
        _problem(answer, 400, "INVALID_PAYLOAD")


async def test_a_body_over_one_mebibyte_is_413(worker: Bench) -> None:
    body = json.dumps(_said("user", "SECRET" * 200_000)).encode()
    _problem(await worker.http.post("/chat", content=body), 413, "PAYLOAD_TOO_LARGE")


async def test_more_turns_than_the_context_holds_are_counted(worker: Bench) -> None:
    turns = [{"role": "user", "content": "SECRET"}] * 4096
    body = _problem(await worker.post("chat", {"messages": turns}), 400, "INVALID_PAYLOAD")
    details = body["details"]
    assert isinstance(details, dict)
    assert details["tokens_needed"] > details["context_size"] == 2048


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "é"])
async def test_the_body_counts_and_not_what_it_is_called(worker: Bench, kind: str | None) -> None:
    headers = [] if kind is None else [(b"content-type", kind.encode())]
    body = json.dumps(HELLO).encode()
    answer = await worker.http.post("/chat", content=body, headers=headers)
    assert answer.status_code == 200
    _problem(
        await worker.http.post("/chat", content=b"a=SECRET", headers=headers),
        400,
        "INVALID_PAYLOAD",
    )


async def test_over_a_real_connection_bodies_may_come_in_chunks_and_are_bounded(
    worker: Bench,
) -> None:
    async def chunks(body: bytes, size: int) -> AsyncIterator[bytes]:
        for at in range(0, len(body), size):
            yield body[at : at + size]

    async with over_loopback(worker.app) as url, httpx.AsyncClient(base_url=url) as http:
        hello = json.dumps(HELLO).encode()
        whole = await http.post("/chat", content=chunks(hello, 7))
        assert whole.json()["response"] == "hello there"
        _problem(await http.post("/chat", content=chunks(hello[:-1], 7)), 400, "INVALID_PAYLOAD")
        big = b'{"messages":"' + b"SECRET" * 1_800_000
        for content in (chunks(big, 65_536), big):
            try:
                answer = await http.post("/chat", content=content)
            except (httpx.WriteError, httpx.ReadError):
                # The server may hang up on a caller who goes on sending.
                continue
            _problem(answer, 413, "PAYLOAD_TOO_LARGE")
        assert (await http.post("/chat", content=hello)).status_code == 200
    assert worker.outcomes("chat", "PAYLOAD_TOO_LARGE") == 2


async def test_an_unknown_field_of_many_characters_is_clipped(worker: Bench) -> None:
    answer = await worker.post("chat", {**HELLO, "x" * 500_000: 1})
    assert len(answer.content) < 1000
    _problem(answer, 400, "INVALID_PAYLOAD")


@pytest.mark.parametrize("endpoint", ["chat", "enhance", "generate"])
async def test_a_bare_prompt_is_refused_with_a_pointer(worker: Bench, endpoint: str) -> None:
    answer = await worker.post(endpoint, {"prompt": "SECRET", "model": "qwen"})
    body = _problem(answer, 400, "INVALID_PAYLOAD")
    assert body["details"] == {"fields": ["prompt"]}
    assert "enhance-prompt" in str(body["suggested_action"])


async def test_the_legacy_format_is_a_raw_completion() -> None:
    engine = ScriptedEngine([Piece(" and more"), DONE])
    async with bench(engine) as worker:
        short = await worker.post("generate", {"inputs": "SECRET<|im_end|>"})
        parameters = {"max_new_tokens": 9, "top_p": 0.5, "do_sample": False}
        full = await worker.post(
            "generate",
            {"inputs": "Once", "parameters": {**parameters, "return_full_text": True}},
        )
    assert short.json() == {"generated_text": " and more"}
    assert full.json() == {"generated_text": "Once and more"}
    [(first, plain, _), (second, greedy, _)] = engine.calls
    assert first == engine.text.ids("SECRET<|im_end|>")
    assert second == engine.text.ids("Once")
    assert (plain.max_tokens, plain.temperature, plain.top_p) == (200, 0.7, 0.9)
    assert (greedy.max_tokens, greedy.temperature, greedy.top_p) == (9, 0.0, 0.5)
    assert (greedy.repetition_penalty, greedy.top_k, greedy.stop) == (1.0, 0, [])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"inputs": ""}, "inputs"),
        ({"inputs": 1}, "inputs"),
        ({"inputs": "a", "stream": True}, "stream"),
        ({"inputs": "a", "parameters": {"max_new_tokens": 0}}, "parameters.max_new_tokens"),
        ({"inputs": "a", "parameters": {"typical_p": 1}}, "parameters.typical_p"),
        ({"inputs": "a", "parameters": None}, "parameters"),
    ],
)
async def test_a_wrong_legacy_request_names_its_field(
    worker: Bench, body: object, field: str
) -> None:
    answer = await worker.post("generate", body)
    assert _problem(answer, 400, "INVALID_PAYLOAD")["details"] == {"fields": [field]}


async def test_the_legacy_format_is_for_generate_only(worker: Bench) -> None:
    for endpoint in ("chat", "enhance"):
        answer = await worker.post(endpoint, {"inputs": "a"})
        _problem(answer, 400, "INVALID_PAYLOAD")


async def test_a_raw_completion_of_nothing_is_refused(worker: Bench) -> None:
    answer = await worker.post("generate", _said("user", ""))
    assert _problem(answer, 400, "INVALID_PAYLOAD")["details"] == {"fields": ["messages"]}
    assert (await worker.post("chat", _said("user", ""))).status_code == 200


async def test_what_does_not_fit_the_context_is_400_with_both_counts() -> None:
    engine = ScriptedEngine([DONE], context_size=64)
    async with bench(engine) as worker:
        ids = chat_renderer(engine.text, None).render([Message("user", "SECRET")])
        room = 64 - len(ids)
        fits = await worker.post("chat", {**_said("user", "SECRET"), "max_tokens": room})
        over = await worker.post("chat", {**_said("user", "SECRET"), "max_tokens": room + 1})
    assert fits.status_code == 200
    body = _problem(over, 400, "INVALID_PAYLOAD")
    assert body["details"] == {"tokens_needed": 65, "context_size": 64}
    assert "65" in str(body["error"])
    assert "64" in str(body["error"])
    assert len(engine.calls) == 1


async def test_a_bad_grammar_is_400() -> None:
    async with bench(ScriptedEngine([GrammarError("SECRET")])) as worker:
        answer = await worker.post("chat", _with(grammar="SECRET"))
    assert _problem(answer, 400, "INVALID_PAYLOAD")["details"] == {"fields": ["grammar"]}


async def test_the_callers_request_id_comes_back_with_an_error(worker: Bench) -> None:
    answer = await worker.post("chat", _with(max_tokens=100_00, request_id="mine"))
    assert answer.json()["request_id"] == "mine"


async def test_both_sides_read_the_same_request(worker: Bench) -> None:
    sent = InferenceRequest(messages=[Message("user", "a")], seed=1, top_k=0, stop=[])
    answer = await worker.http.post("/chat", content=msgspec.json.encode(sent))
    assert answer.status_code == 200
