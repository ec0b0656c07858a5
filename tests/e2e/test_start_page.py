"""The start page in a real browser, on a real server with the echo worker."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, Queue

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

KEY = "a-key-for-the-browser-test"
START_S = 60.0
CHROMIUM_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
XSS = "<img src=x onerror=alert(1)> a cat in a garden"

pytestmark = pytest.mark.browser

Opener = Callable[..., Page]


def _lines(stream: Iterator[str], found: "Queue[str | None]") -> None:
    for line in stream:
        match = re.search(r"ready at (http://\S+)", line)
        if match:
            found.put(match[1])
    found.put(None)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    inherited = {name: value for name, value in os.environ.items() if "ONBOOK_" not in name}
    environment = {**inherited, "ONBOOK_BOOTSTRAP_KEY": KEY, "ONBOOK_WORKER_ENGINE": "echo"}
    data = tmp_path_factory.mktemp("data")
    server = subprocess.Popen(
        [Path(sys.executable).with_name("onbook"), "serve", "--port", "0", "--data-dir", data],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert server.stdout is not None
    found: Queue[str | None] = Queue()
    reader = threading.Thread(target=_lines, args=(server.stdout, found))
    reader.start()
    try:
        try:
            address = found.get(timeout=START_S)
        except Empty:
            address = None
        assert address is not None, "the server did not print its URL"
        yield address
    finally:
        server.terminate()
        server.wait(30)
        reader.join(10)
        server.stdout.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip(
            "SKIPPED BROWSER TESTS: there is no chromium; install Debian's package chromium"
        )
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGS)
        yield launched
        launched.close()


@pytest.fixture
def opened(browser: Browser, url: str) -> Iterator[Opener]:
    """Opens the page; at the end, no console may hold anything that was not expected."""
    pages: list[Page] = []
    complaints: list[str] = []
    expected: list[str] = []

    def open_page(*expect_in_console: str, **context: object) -> Page:
        expected.extend(expect_in_console)
        page = browser.new_page(**context)  # type: ignore[arg-type]  # the browser's own options
        pages.append(page)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
        page.goto(url)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert [text for text in complaints if not any(part in text for part in expected)] == []


def ask(page: Page, prompt: str, key: str = KEY) -> None:
    page.get_by_label("Access key").fill(key)
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.keyboard.press("Control+Enter")


def view(page: Page) -> str | None:
    return page.locator("#result").get_attribute("data-view")


def test_a_key_and_a_prompt_give_the_enhanced_prompt(opened: Opener) -> None:
    page = opened()
    expect(page.locator("#overall")).to_have_text(re.compile("^Ready:"))
    ask(page, "a cat in a garden")
    enhanced = page.locator("#enhanced")
    expect(enhanced).to_be_visible()
    expect(enhanced.locator(".kept").first).to_have_text("a cat in a garden")
    expect(page.locator("#tokens")).to_have_text(re.compile(r"^\d+ of 75 clip tokens$"))
    expect(page.locator("#result-title")).to_be_focused()
    expect(page.get_by_text("Verified: the signed receipt matches what was sent")).to_be_visible()
    expect(page.locator(".raw pre")).to_be_hidden()
    page.get_by_text("The whole answer as JSON").click()
    expect(page.locator(".raw pre")).to_contain_text('"enhanced_prompt"')
    assert view(page) == "done"


def test_words_of_the_user_and_additions_are_told_apart(opened: Opener) -> None:
    page = opened()
    parts = page.evaluate(
        """async (base) => {
          const { partsOf } = await import(`${base}/parts.js`);
          const parts = partsOf('A Cat, a red hat, a cat, soft light --ar 2:1',
            ['a cat', '--ar 2:1'], ['a cat', 'soft light', 'not there']);
          return parts.map(({ text, part }) => [part, text]);
        }""",
        (page.locator('script[type="module"]').get_attribute("src") or "").rpartition("/")[0],
    )
    assert parts == [
        ["kept", "A Cat"],
        ["joint", ", a red hat, "],
        ["added", "a cat"],
        ["joint", ", "],
        ["added", "soft light"],
        ["joint", " "],
        ["kept", "--ar 2:1"],
    ]


def test_a_wrong_key_shows_the_sentence_of_the_error(opened: Opener) -> None:
    page = opened("401 (Unauthorized)")
    ask(page, "a cat in a garden", key="not-a-key-of-this-place")
    error = page.locator("#error")
    expect(error).to_contain_text("The access key is unknown or revoked.")
    expect(error).to_contain_text("AUTH_REQUIRED · 401")
    expect(error).to_contain_text(re.compile(r"request [0-9a-f-]{36}"))
    expect(page.get_by_label("Access key")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#result-title")).to_be_focused()


def test_markup_in_a_prompt_is_text(opened: Opener) -> None:
    page = opened()
    ask(page, XSS)
    expect(page.locator("#enhanced")).to_contain_text("<img src=x onerror=alert(1)>")
    assert page.locator("#result img").count() == 0
    expect(page.locator("#curl")).to_contain_text("<img src=x onerror=alert(1)>")


def test_the_policy_stops_markup_that_a_script_would_write(opened: Opener) -> None:
    page = opened("TrustedHTML")
    refused = page.evaluate(
        """() => {
          try { document.body.innerHTML = '<b>x</b>'; } catch (error) { return error.name; }
        }"""
    )
    assert refused == "TypeError"


def test_fields_are_checked_before_anything_is_sent(opened: Opener) -> None:
    page = opened()
    page.keyboard.press("Control+Enter")
    expect(page.locator("#key-error")).to_have_text("Enter the access key that Onbook printed.")
    expect(page.locator("#prompt-error")).to_have_text("Enter a prompt; a few words are enough.")
    expect(page.get_by_label("Access key")).to_be_focused()
    page.locator("#seed").fill("-1")
    ask(page, "🐈" * 8001)
    expect(page.locator("#counter")).to_have_text("8,001 / 8,000")
    expect(page.locator("#prompt-error")).to_have_text("Shorten the prompt by 1 character.")
    expect(page.locator("#seed-error")).to_have_text(
        "A whole number from 0 to 4,294,967,294, or empty."
    )
    assert view(page) == "empty"


def test_prompt_and_command_can_be_copied(opened: Opener) -> None:
    page = opened(permissions=["clipboard-read", "clipboard-write"])
    ask(page, "a cat in a garden, the cat's eyes")
    page.get_by_role("button", name="Copy prompt").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    pasted = "navigator.clipboard.readText()"
    assert page.evaluate(pasted) == page.locator("#enhanced").inner_text()
    page.locator("#copy-curl").click()
    expect(page.locator("#copy-curl")).to_have_text("Copied")
    command = page.evaluate(pasted)
    words = shlex.split(command)
    assert words[:3] == ["curl", "-s", f"{page.url}functions/v1/enhance-prompt"]
    assert json.loads(words[-1])["prompt"] == "a cat in a garden, the cat's eyes"


def test_a_request_can_be_cancelled(opened: Opener) -> None:
    page = opened()
    page.route("**/enhance-prompt", lambda _route: None)
    ask(page, "a cat in a garden")
    expect(page.locator("#elapsed")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#error")).to_contain_text("Cancelled after")
    expect(page.get_by_role("button", name="Cancel")).to_be_hidden()


def test_the_key_stays_only_where_the_user_wants_it(opened: Opener) -> None:
    page = opened()
    page.get_by_label("Access key").fill(KEY)
    page.reload()
    assert page.evaluate("JSON.stringify({ ...sessionStorage, ...localStorage })") == "{}"
    page.get_by_label("Access key").fill(KEY)
    page.get_by_label("Keep for this tab").check()
    page.reload()
    expect(page.get_by_label("Access key")).to_have_value(KEY)
    assert page.evaluate("localStorage.length") == 0
    page.get_by_label("Keep for this tab").uncheck()
    assert page.evaluate("sessionStorage.length") == 0
    expect(page.locator("#curl")).not_to_contain_text(KEY)


def test_the_strip_says_when_the_service_is_away(opened: Opener) -> None:
    page = opened("ERR_FAILED")
    page.route("**/readyz", lambda route: route.abort())
    expect(page.locator("#overall")).to_contain_text("No connection to Onbook.", timeout=15_000)
    page.unroute("**/readyz")
    expect(page.locator("#overall")).to_have_text(re.compile("^Ready:"), timeout=15_000)


def test_dark_mode_is_dark(opened: Opener) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    light = opened(color_scheme="light").evaluate(ground)
    dark = opened(color_scheme="dark").evaluate(ground)

    def brightness(colour: str) -> int:
        return sum(int(part) for part in re.findall(r"\d+", colour)[:3])

    assert brightness(light) > 600
    assert brightness(dark) < 150


def test_nothing_scrolls_sideways_at_360_pixels(opened: Opener) -> None:
    page = opened(viewport={"width": 360, "height": 740})
    sideways = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    assert page.evaluate(sideways) is False
    ask(page, "x" * 300 + ' a very long word, "OPEN" on a sign')
    expect(page.locator("#enhanced")).to_be_visible()
    page.get_by_text("The whole answer as JSON").click()
    assert page.evaluate(sideways) is False


def test_everything_on_the_page_has_a_name_and_can_be_reached_by_tab(opened: Opener) -> None:
    page = opened()
    reached = []
    for _ in range(14):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    order = ["keep-key", "key", "prompt", "target", "quality", "seed", "submit", "copy-curl"]
    assert [name for name in reached if name in order] == order
    for control in page.locator("input, select, textarea").all():
        assert control.evaluate("node => node.labels.length") == 1
