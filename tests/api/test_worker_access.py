"""Who may call a worker."""

import pytest

from support_worker import Bench, bench

KEY = "worker-key-0123456789"
OPEN = ("/health", "/chat/health")
GUARDED = ("/worker/info", "/model/info", "/metrics", "/nowhere")


@pytest.mark.parametrize("path", GUARDED)
@pytest.mark.parametrize(
    "sent",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer "},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Bearer {KEY}x"},
        {"authorization": f"Bearer {KEY[:-1]}"},
        {"authorization": f"Basic {KEY}"},
        {"apikey": KEY},
    ],
)
async def test_without_the_key_a_worker_with_a_key_says_nothing(
    path: str, sent: dict[str, str]
) -> None:
    async with bench(key=KEY) as worker:
        answer = await worker.http.get(path, headers=sent)
        assert (answer.status_code, answer.json()["error_code"]) == (401, "AUTH_REQUIRED")
        assert KEY not in answer.text


@pytest.mark.parametrize("endpoint", ["chat", "enhance", "generate"])
async def test_executing_needs_the_key(endpoint: str) -> None:
    async with bench(key=KEY) as worker:
        assert (await worker.post(endpoint, worker.asked)).status_code == 401
        answer = await worker.post(endpoint, worker.asked, authorization=f"Bearer {KEY}")
        assert answer.status_code == 200


async def test_bytes_that_are_not_text_are_a_wrong_key() -> None:
    async with bench(key=KEY) as worker:
        headers = [(b"authorization", b"Bearer \xff\xfe")]
        answer = await worker.http.get("/worker/info", headers=headers)
        assert answer.status_code == 401


async def test_health_needs_no_key() -> None:
    async with bench(key=KEY) as worker:
        for path in OPEN:
            assert (await worker.http.get(path)).status_code == 200


async def test_with_the_key_pages_and_proxies_may_call() -> None:
    headers = {"origin": "https://app.example", "x-forwarded-for": "203.0.113.9"}
    async with bench(key=KEY) as worker:
        answer = await worker.post("chat", worker.asked, authorization=f"Bearer {KEY}", **headers)
        assert answer.status_code == 200
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"Origin": "http://localhost:3000"},
        {"x-forwarded-for": "203.0.113.9"},
        {"forwarded": "for=203.0.113.9"},
    ],
)
@pytest.mark.parametrize("path", ["/chat", "/enhance", "/generate", *OPEN, "/worker/info"])
async def test_an_open_worker_refuses_pages_and_proxies(path: str, headers: dict[str, str]) -> None:
    async with bench() as worker:
        method = "POST" if path in ("/chat", "/enhance", "/generate") else "GET"
        answer = await worker.http.request(method, path, json=worker.asked, headers=headers)
        assert (answer.status_code, answer.json()["error_code"]) == (403, "FORBIDDEN")
        assert "access-control-allow-origin" not in answer.headers


async def test_an_open_worker_answers_no_preflight() -> None:
    async with bench() as worker:
        headers = {"origin": "https://evil.example", "access-control-request-method": "POST"}
        answer = await worker.http.options("/chat", headers=headers)
        assert answer.status_code == 403


@pytest.fixture
def routes() -> dict[str, str]:
    return {"/chat": "GET", "/worker/info": "POST", "/health": "DELETE"}


async def test_other_methods_and_paths_are_the_one_error_body(routes: dict[str, str]) -> None:
    async with bench() as worker:
        for path, method in routes.items():
            answer = await worker.http.request(method, path)
            assert (answer.status_code, answer.json()["error_code"]) == (405, "METHOD_NOT_ALLOWED")
        answer = await worker.http.get("/admin")
        assert (answer.status_code, answer.json()["error_code"]) == (404, "NOT_FOUND")


async def _scrape(worker: Bench) -> str:
    return (await worker.http.get("/metrics")).text


async def test_metrics_count_requests_and_hold_no_text() -> None:
    async with bench() as worker:
        await worker.post("chat", worker.asked)
        await worker.post("chat", {"messages": [], "SECRET": 1})
        text = await _scrape(worker)
    assert 'onbook_worker_requests_total{endpoint="chat",outcome="ok"} 1.0' in text
    assert 'outcome="INVALID_PAYLOAD"} 1.0' in text
    assert "onbook_worker_running 0.0" in text
    assert "hello" not in text
    assert "SECRET" not in text
