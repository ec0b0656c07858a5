import re
from collections.abc import Callable
from html.parser import HTMLParser

import httpx
import msgspec
import pytest

from onbook.adapters.files.packaged import packaged_templates
from onbook.adapters.inference.in_process import InProcessWorker
from onbook.adapters.memory.clock import FixedClock
from onbook.adapters.memory.templates import MemorySnapshots, MemoryTemplateStore
from onbook.admin.assets import load_assets
from onbook.admin.status import (
    DATABASE_WORDS,
    OVERALL_WORDS,
    SOURCE_WORDS,
    WORKER_WORDS,
    audit_words,
    fingerprint_of,
)
from onbook.bootstrap import Service
from onbook.flows.resolve_template import TemplateBook
from onbook.settings import Settings
from onbook.wire.signing import key_id_of
from onbook.wire.worker_api import InferenceRequest, Message, WorkerInfo
from onbook.worker.start import Worker

ClientOf = Callable[[Service, WorkerInfo | None], httpx.AsyncClient]


class Page(HTMLParser):
    """The page's elements: tag, attributes, and the text of those with an id."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._open: str | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.elements.append((tag, values))
        self._open = values.get("id")

    def handle_endtag(self, _tag: str) -> None:
        self._open = None

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self.texts[self._open] = self.texts.get(self._open, "") + data

    def attributes(self, name: str, value: str) -> dict[str, str | None]:
        return next(attrs for _, attrs in self.elements if attrs.get(name) == value)

    def state(self, part: str) -> str | None:
        return self.attributes("data-part", part)["data-state"]


async def page_of(client_of: ClientOf, service: Service, info: WorkerInfo | None) -> Page:
    async with client_of(service, info) as client:
        answer = await client.get("/")
    assert answer.status_code == 200
    return Page(answer.text)


async def test_every_page_and_asset_carries_the_strict_headers(
    service: Service, worker: Worker, client_of: ClientOf
) -> None:
    assets = load_assets().by_path
    async with client_of(service, worker.app.info) as client:
        answers = {path: await client.get(path) for path in ("/", *assets)}
    for path, answer in answers.items():
        assert answer.status_code == 200, path
        policy = dict(
            part.strip().split(" ", 1)
            for part in answer.headers["content-security-policy"].split(";")
        )
        assert policy == {
            "default-src": "'none'",
            "script-src": "'self'",
            "style-src": "'self'",
            "connect-src": "'self'",
            "img-src": "'self' data:",
            "base-uri": "'none'",
            "form-action": "'none'",
            "frame-ancestors": "'none'",
            "require-trusted-types-for": "'script'",
        }
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
    assert answers["/"].headers["cache-control"] == "no-store"
    assert answers["/"].headers["content-type"] == "text/html; charset=utf-8"
    for path in assets:
        assert answers[path].headers["cache-control"] == "public, max-age=31536000, immutable"
        assert re.fullmatch(r"/static/[0-9a-f]{16}/[a-z]+\.(css|js|svg)", path)


async def test_everything_that_the_page_loads_is_its_own_and_there(
    service: Service, worker: Worker, client_of: ClientOf
) -> None:
    page = await page_of(client_of, service, worker.app.info)
    assets = load_assets()
    loaded = {
        value
        for tag, attrs in page.elements
        for name, value in attrs.items()
        if name in {"src", "href"} and tag != "a" and value is not None
    }
    assert loaded
    assert loaded <= set(assets.by_path)
    for path, asset in assets.by_path.items():
        for name in re.findall(r'from "\./([a-z]+\.js)"', asset.body.decode()):
            assert f"{assets.base}/{name}" in assets.by_path, path
        hosts = re.findall(rb"//([a-z0-9-]+(?:\.[a-z0-9-]+)+)", asset.body)
        # The name of SVG's namespace is never fetched.
        assert set(hosts) <= {b"www.w3.org"}, path


async def test_nothing_is_inline_that_the_policy_would_forbid(
    service: Service, worker: Worker, client_of: ClientOf
) -> None:
    page = await page_of(client_of, service, worker.app.info)
    for tag, attrs in page.elements:
        assert tag != "style"
        assert "style" not in attrs
        assert not [name for name in attrs if name.startswith("on")]
        if tag == "script":
            assert attrs.get("src")


async def test_a_whole_service_reads_as_ready(
    service: Service, worker: Worker, client_of: ClientOf
) -> None:
    info = worker.app.info
    async with client_of(service, info) as client:
        html = (await client.get("/")).text
    page = Page(html)
    assert page.attributes("id", "status")["data-state"] == "ready"
    assert page.texts["overall"] == OVERALL_WORDS["ready"]
    assert page.texts["templates-count"] == str(len(packaged_templates()))
    assert page.texts["templates-source"] == SOURCE_WORDS["database"]
    assert page.texts["templates-age"] == "confirmed just now"
    assert page.texts["database"] == "Connected"
    assert page.texts["worker"] == "ready"
    assert {page.state(part) for part in ("templates", "database", "worker")} == {"ok"}
    assert ">echo<" in html
    assert "engine echo, purity self-test passed" in html
    # The name that receipts, 'onbook keys signing list' and health-check-workers have for it.
    assert f"key <code>{key_id_of(info.public_key)}</code>" in html
    assert "sfw only" in html


async def test_the_script_finds_a_word_for_every_state_of_readyz(
    service: Service, worker: Worker, client_of: ClientOf
) -> None:
    page = await page_of(client_of, service, worker.app.info)
    for name, words in {
        "overall": OVERALL_WORDS,
        "templates-source": SOURCE_WORDS,
        "database": DATABASE_WORDS,
        "worker": WORKER_WORDS,
    }.items():
        attrs = page.attributes("id", name)
        assert {key: attrs[f"data-{key}"] for key in words} == words
    async with client_of(service, None) as client:
        ready = (await client.get("/readyz")).json()
    assert ready["templates"]["source"] in SOURCE_WORDS
    assert ready["database"] in DATABASE_WORDS
    assert ready["worker"] in WORKER_WORDS


async def test_a_database_away_from_the_start_is_said(
    unprepared: Service, worker: Worker, client_of: ClientOf
) -> None:
    page = await page_of(client_of, unprepared, worker.app.info)
    assert page.attributes("id", "status")["data-state"] == "fallback"
    assert page.texts["database"] == "Unreachable"
    assert page.texts["templates-source"] == "as packaged with Onbook"
    assert page.texts.get("templates-age", "") == ""
    assert page.state("database") == "away"
    assert page.state("templates") == "away"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (1, "confirmed just now"),
        (59, "confirmed 59 s ago"),
        (60, "confirmed 1 min ago"),
        (7_300, "confirmed 2 h ago"),
        (200_000, "confirmed 2 d ago"),
    ],
)
async def test_a_database_lost_later_shows_how_old_the_templates_are(
    service: Service, worker: Worker, client_of: ClientOf, seconds: int, words: str
) -> None:
    clock, store = FixedClock(), MemoryTemplateStore(packaged_templates())
    service.book = TemplateBook(store, MemorySnapshots(), packaged_templates(), clock)
    await service.book.refresh()
    store.available = False
    clock.advance(seconds)
    await service.book.refresh()
    page = await page_of(client_of, service, worker.app.info)
    assert page.texts["templates-source"] == "from the last good snapshot"
    assert page.texts["templates-age"] == words
    assert page.attributes("id", "status")["data-state"] == "fallback"


async def test_a_worker_away_is_said_and_is_no_outage(
    service: Service, worker: Worker, client_of: ClientOf
) -> None:
    service.worker_ready = False
    page = await page_of(client_of, service, worker.app.info)
    assert page.texts["worker"] == "away, rules write instead"
    assert page.state("worker") == "away"
    assert page.attributes("id", "status")["data-state"] == "fallback"


async def test_a_worker_in_quarantine_is_said_and_is_no_outage(
    service: Service, worker: Worker, client_of: ClientOf
) -> None:
    answer = await service.worker.infer(
        "chat", InferenceRequest(messages=[Message("user", "hi")]), timeout_s=30
    )
    assert answer.judged is not None
    answer.judged(("nonce",))
    page = await page_of(client_of, service, worker.app.info)
    assert page.texts["worker"] == "in quarantine, rules write instead"
    assert page.state("worker") == "away"
    assert page.attributes("id", "status")["data-state"] == "fallback"


@pytest.mark.parametrize("trouble", ["refused", "untrusted"])
async def test_a_worker_whose_answers_cannot_be_used_is_said(
    service: Service,
    worker: Worker,
    client_of: ClientOf,
    monkeypatch: pytest.MonkeyPatch,
    trouble: str,
) -> None:
    monkeypatch.setattr(InProcessWorker, "trouble", trouble)
    page = await page_of(client_of, service, worker.app.info)
    assert page.texts["worker"] == WORKER_WORDS[trouble]
    assert page.state("worker") == "away"
    assert page.attributes("id", "status")["data-state"] == "fallback"
    async with client_of(service, worker.app.info) as client:
        assert (await client.get("/readyz")).json()["worker"] == trouble


async def test_without_a_template_the_page_says_not_ready(
    service: Service, worker: Worker, client_of: ClientOf
) -> None:
    service.book = TemplateBook(MemoryTemplateStore(), MemorySnapshots(), (), FixedClock())
    await service.book.refresh()
    page = await page_of(client_of, service, worker.app.info)
    assert page.attributes("id", "status")["data-state"] == "not_ready"
    assert page.texts["templates-count"] == "0"


async def test_a_worker_elsewhere_is_described_by_its_key(
    service: Service, worker: Worker, client_of: ClientOf
) -> None:
    async with client_of(service, None) as client:
        html = (await client.get("/")).text
    assert "Worker elsewhere" in html
    assert worker.app.info.worker_id in html
    assert str(fingerprint_of(worker.app.info.public_key)) in html


async def test_a_failed_self_test_never_looks_good(
    service: Service, worker: Worker, client_of: ClientOf
) -> None:
    purity = msgspec.structs.replace(worker.app.info.purity, passed=False)
    info = msgspec.structs.replace(worker.app.info, purity=purity)
    async with client_of(service, info) as client:
        html = (await client.get("/")).text
    assert "purity self-test failed" in html
    assert Page(html).state("worker") == "away"
    # The script must not turn it green at the next look.
    assert "data-impure" in Page(html).attributes("data-part", "worker")


async def test_names_from_outside_are_text(
    service: Service, worker: Worker, client_of: ClientOf
) -> None:
    model = msgspec.structs.replace(worker.app.info.model, name="<script>\"&'")
    info = msgspec.structs.replace(worker.app.info, model=model)
    async with client_of(service, info) as client:
        html = (await client.get("/", headers={"host": "x';reboot;'"})).text
    assert "&lt;script&gt;&#34;&amp;&#39;" in html
    assert '<script>"' not in html
    assert "reboot" not in html
    assert "http://onbook.test:8740/functions/v1/enhance-prompt" in html


async def test_the_page_tells_no_secret_and_no_path(
    service: Service, worker: Worker, settings: Settings, client_of: ClientOf
) -> None:
    async with client_of(service, worker.app.info) as client:
        html = (await client.get("/")).text
    assert settings.bootstrap_key is not None
    assert settings.key_pepper is not None
    for secret in (
        settings.bootstrap_key.get_secret_value(),
        settings.key_pepper.get_secret_value(),
        settings.data_dir.name,
        str(settings.data_dir.parent),
        "sqlite",
    ):
        assert secret not in html


async def test_only_get_and_head_are_served(service: Service, client_of: ClientOf) -> None:
    async with client_of(service, None) as client:
        assert (await client.head("/")).status_code == 200
        assert (await client.post("/")).status_code == 405
        assert (await client.get("/static/0/start.js")).status_code == 404


@pytest.mark.parametrize(
    ("pending", "words"),
    [
        (0, "all audit rows are written"),
        (1, "1 audit row waits on local disk"),
        (12, "12 audit rows wait on local disk"),
    ],
)
def test_waiting_audit_rows_are_counted(pending: int, words: str) -> None:
    assert audit_words(pending) == words


def test_a_key_that_is_not_there_has_no_fingerprint() -> None:
    assert fingerprint_of(None) is None
