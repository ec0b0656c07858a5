"""Links lead somewhere, names of commands and settings exist, and no machine is named."""

import re
import shlex
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from typer.main import get_command

from docs.pages import DOCS, PAGES, ROOT, blocks, name_of, session, without_blocks
from onbook.cli.main import app
from onbook.settings import Settings

LINK = re.compile(r"!?\[[^\]]*\]\(([^()\s]+)\)")
URL_HOST = re.compile(r"\bhttps?://([^/\s:\"'`)>]+)")
SETTING = re.compile(r"\bONBOOK_[A-Z0-9_]+")
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|root|work|tmp|Users|opt|mnt|srv)/")
# Read by `onbook enhance` and by the tour, not by the service.
OF_OTHERS = {"ONBOOK_URL", "ONBOOK_KEY", "ONBOOK_BENCH_TRANSFORMERS_PYTHON"}

pages = pytest.mark.parametrize("page", PAGES, ids=map(name_of, PAGES))


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", without_blocks(page.read_text("utf-8")), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


def command_lines(text: str) -> list[list[str]]:
    """Return the words of every command in shell sessions and shell blocks."""
    lines = [command.text for command in session(text)]
    for block in blocks(text, "sh"):
        lines += block.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


@pages
def test_links_and_images_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(without_blocks(page.read_text("utf-8"))):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        assert ROOT in found.parents, target
        if anchor:
            assert anchor in anchors(found), target


@pages
def test_images_say_what_they_show(page: Path) -> None:
    for text in re.findall(r"!\[([^\]]*)\]\(", page.read_text("utf-8")):
        assert len(text) > 20


@pages
def test_no_machine_is_named(page: Path) -> None:
    text = page.read_text("utf-8")
    # The default of a setting: where models are pulled from.
    hub = urlsplit(Settings().model_hub_url).hostname
    hosts = set(URL_HOST.findall(text)) - {hub}
    foreign = {
        host
        for host in hosts
        if host not in {"127.0.0.1", "localhost"} and not re.search(r"(^|\.)example\.com$", host)
    }
    assert not foreign
    assert not MACHINE_PATH.search(text)


@pages
def test_settings_that_are_named_exist(page: Path) -> None:
    known = {f"ONBOOK_{name.upper()}" for name in Settings.model_fields} | OF_OTHERS
    named = set(SETTING.findall(page.read_text("utf-8")))
    assert named <= known


@pages
def test_commands_that_are_named_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    spans = [shlex.split(span) for span in re.findall(r"`(onbook [^`…]*)`", without_blocks(text))]
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for words in [*command_lines(text), *spans]:
        rest = [word for word in words if not re.match(r"[A-Z_]+=", word)]
        if rest[:1] == ["make"]:
            assert re.search(rf"^{rest[1]}:", makefile, re.MULTILINE), rest
        elif rest[:1] == ["onbook"]:
            check_onbook(rest[1:])


def check_onbook(words: list[str]) -> None:
    command = get_command(app)
    options = {"--version", "--help"}
    while words and not words[0].startswith("-") and getattr(command, "commands", None):
        command = command.commands[words.pop(0)]  # type: ignore[attr-defined]  # a group has them
        options = {name for item in command.params for name in item.opts} | {"--help"}
    assert {word for word in words if word.startswith("--")} <= options, words


def test_the_navigation_lists_every_page() -> None:
    text = (ROOT / "mkdocs.yml").read_text("utf-8")
    listed = re.findall(r": (\S+\.md)$", text, re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert set(listed) == {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
