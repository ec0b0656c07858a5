"""Every shell session of the docs runs against a real server, and shows what really comes out.

The server has the echo engine, so what a model wrote is compared in form only.
"""

import json
import re
import shlex
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import chdir, closing
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from docs.pages import PAGES, Command, blocks, name_of, session
from server import ONBOOK, Server, environment, served

SHOWN_URL = "http://127.0.0.1:8740"
KEY = re.compile(r"onb_[\w-]{20,}")
PATIENCE_S = 5.0
# What a model, a machine or chance decides.
VARIES = {
    "request_id",
    "enhanced_prompt",
    "model_used",
    "token_count",
    "prompt_tokens",
    "worker_id",
}
VARIES |= {"name", "engine"}
# Lines that the echo engine and a free port change.
STARTS = {
    "Loading the model": "Starting the echo engine",
    "Onbook is ready at ": "Onbook is ready at http://127.0.0.1:",
}
SAME_FACTS = ("Kept", "Template", "Strategy", "Fallback", "Integrity", "Warning")
WITH_PYTHON = [page for page in PAGES if blocks(page.read_text("utf-8"), "python")]
WITH_SESSIONS = [page for page in PAGES if any(session(page.read_text("utf-8")))]


@dataclass(slots=True)
class Shell:
    """Runs the commands of one page in the folder whose ``data`` the server uses."""

    server: Server
    key: str
    variables: dict[str, str] = field(default_factory=dict)

    def run(self, command: str) -> str:
        words = shlex.split(command.replace("\\\n", " ").replace("$ONBOOK_KEY", self.key))
        given = {}
        while re.match(r"[A-Z_]+=", words[0]):
            name, _, given[name] = words.pop(0).partition("=")
        match words:
            case ["make", "run"]:
                return self.server.output
            case [".", ".venv/bin/activate"]:
                assert (ONBOOK.parent / "activate").exists()
            case ["export", "ONBOOK_KEY=onb_…"]:
                self.variables["ONBOOK_KEY"] = self.key
            case ["curl", *rest]:
                return curl([word.replace(SHOWN_URL, self.server.url) for word in rest])
            case ["sqlite3", file, sql]:
                return query(file, sql)
            case ["sed", "-i", change, file]:
                subprocess.run(["sed", "-i", change, file], check=True)
            case ["onbook", *rest]:
                return self._onbook(rest, given)
            case _:
                raise AssertionError(f"a session uses a command that is not run here: {command}")
        return ""

    def _onbook(self, words: list[str], given: dict[str, str]) -> str:
        words = [word.replace(SHOWN_URL, self.server.url) for word in words]
        port = self.server.url.rpartition(":")[2]
        done = subprocess.run(
            [ONBOOK, *words],
            env=environment(ONBOOK_BOOTSTRAP_KEY=None, ONBOOK_PORT=port, **self.variables, **given),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout


def curl(words: list[str]) -> str:
    method, body, url = "", None, ""
    headers: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        match word:
            case "-s":
                pass
            case "-X":
                method = next(rest)
            case "-H":
                name, _, headers[name] = next(rest).partition(": ")
            case "-d":
                body = next(rest)
            case _:
                assert word.startswith("http://127.0.0.1"), word
                url = word
    answer = httpx.request(
        method or ("POST" if body else "GET"), url, content=body, headers=headers, timeout=30
    )
    assert answer.status_code == 200, answer.text
    return answer.text


def query(file: str, sql: str) -> str:
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        done = connection.execute(sql)
        rows = done.fetchall()
        # An update of nothing would be an edit that the page only seems to make.
        assert not sql.startswith("UPDATE") or done.rowcount == 1 or "old_template" in sql
    return "\n".join("|".join(map(str, row)) for row in rows)


def compare(shown: list[str], really: str) -> None:
    if shown and shown[0] == "{":
        text = re.sub(r",\s*…\s*(?=[}\]])", "", "\n".join(shown))
        within(json.loads(text.replace("…", "")), json.loads(really), "")
    else:
        in_order(shown, really.splitlines())


def within(shown: object, really: object, where: str) -> None:
    """Check that ``really`` has everything that is shown, with the values that do not vary."""
    if isinstance(shown, dict):
        assert isinstance(really, dict), where
        for name, value in shown.items():
            assert name in really, f"{where}.{name}"
            within(value, really[name], f"{where}.{name}")
    elif isinstance(shown, list):
        assert isinstance(really, list), where
        assert all(any(is_within(item, found) for found in really) for item in shown), where
        assert shown or not really, where
    elif where.rpartition(".")[2] in VARIES:
        assert type(shown) is type(really), where
    else:
        assert shown == really, where


def is_within(shown: object, really: object) -> bool:
    try:
        within(shown, really, "")
    except AssertionError:
        return False
    return True


def in_order(shown: list[str], really: list[str]) -> None:
    left = iter(really)
    for line in shown:
        if line.strip() and line.strip() != "…":
            assert any(same(line, found) for found in left), f"{line!r} is not in {really}"


def same(shown: str, really: str) -> bool:
    if shown == really:
        return True
    if shown.strip() == "onb_…":
        return KEY.fullmatch(really.strip()) is not None
    for beginning, instead in STARTS.items():
        if shown.startswith(beginning):
            return really.startswith(instead)
    if shown.endswith("…"):
        return really.startswith(shown.removesuffix("…"))
    if fact := re.match(r"  (\w+)  +", shown):
        return fact[1] not in SAME_FACTS and really.startswith(f"  {fact[1]} ")
    # The first line of an enhancement: the user's words, then what a model added to them.
    return shown[:1].isalpha() and shown.partition(",")[0] == really.partition(",")[0]


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Shell]:
    """Give a shell beside a server, as a new reader finds them."""
    (tmp_path / "ideas.txt").write_text("a cat in a garden\na lighthouse in a storm\n")
    options = {"ONBOOK_BOOTSTRAP_KEY": None, "ONBOOK_CONTEXT_SIZE": "8192"}
    with served("serve", tmp_path / "data", **options) as server, chdir(tmp_path):
        key = KEY.search(server.output)
        assert key is not None
        yield Shell(server, key[0], {"ONBOOK_KEY": key[0]})


@pytest.mark.parametrize("page", WITH_SESSIONS, ids=map(name_of, WITH_SESSIONS))
def test_sessions_run_as_shown(page: Path, fresh: Shell) -> None:
    for command in session(page.read_text("utf-8")):
        check(fresh, command)


@pytest.mark.parametrize("page", WITH_PYTHON, ids=map(name_of, WITH_PYTHON))
def test_python_examples_run(page: Path, fresh: Shell) -> None:
    for block in blocks(page.read_text("utf-8"), "python"):
        done = subprocess.run(
            [sys.executable, "-c", block.replace(SHOWN_URL, fresh.server.url)],
            env=environment(**fresh.variables),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "a cat in a garden" in done.stdout
        assert ("INVALID_JOB_TYPE" in done.stdout) == ("no_such_job" in block)


def check(shell: Shell, command: Command) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            compare(command.shown, shell.run(command.text))
        except AssertionError:
            # An edit by SQL is seen a quarter of a second later: ask again until then.
            asks_server = command.text.startswith("curl") or SHOWN_URL in command.text
            if not asks_server or time.monotonic() > deadline:
                raise
        else:
            return
