"""``onbook templates`` as a process: on a terminal, in a pipe, beside a server, on Postgres."""

import asyncio
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
from pathlib import Path

from onbook.bootstrap import prepare_database
from onbook.settings import Settings
from server import ADMIN_KEY, ONBOOK, environment, served
from support_templates_cli import NAME, Shell, acknowledged, prepared, shell

__all__ = ["prepared", "shell"]

ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
TESTED = '\n[[tests]]\nname = "keeps the cat"\ninput = "a red cat"\nmust_keep = ["{word}"]\n'


def on_terminal(
    shell: Shell, *arguments: str, columns: int = 80, typed: str = "", **options: str | None
) -> str:
    """Return what a terminal of ``columns`` shows."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    with subprocess.Popen(
        [ONBOOK, "templates", *arguments],
        env=environment(
            ONBOOK_DATA_DIR=str(shell.data), TERM="xterm-256color", COLUMNS=None, **options
        ),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        os.write(ours, typed.encode())
        shown = b""
        try:
            while part := os.read(ours, 65_536):
                shown += part
        except OSError:
            # Linux's way to say that the other side is closed.
            pass
        os.close(ours)
        assert process.wait(60) == 0, shown.decode()
    return shown.decode().replace("\r\n", "\n")


def test_on_a_terminal_a_diff_is_in_colour_unless_that_is_unwanted(shell: Shell) -> None:
    shell.drafted(shell.edited("a short idea", "a brief idea"))
    coloured = on_terminal(shell, "diff", NAME, NO_COLOR=None)
    assert "\x1b[32mbrief" in coloured
    assert "{+" not in coloured
    plain = on_terminal(shell, "diff", NAME, NO_COLOR="1")
    assert "[-short-]{+brief+}" in plain
    assert not re.search(r"\x1b\[(?:\d+;)*3\dm", plain)


def test_a_table_fits_the_terminal(shell: Shell) -> None:
    reason = "words that say why this was done " * 4
    shell.templates("deactivate", NAME, "--reason", reason.strip())
    shell.templates("activate", NAME, "1", "--reason", reason.strip())
    for columns in (60, 80, 200):
        for command in (("list",), ("history", NAME)):
            shown = ESCAPE.sub("", on_terminal(shell, *command, columns=columns))
            table = [line for line in shown.splitlines() if "wider terminal" not in line]
            assert len(table) > 2
            assert max(map(len, table)) <= columns
            assert NAME in shown or command[0] == "history"
    assert "also shows UPDATED (UTC)" in ESCAPE.sub("", on_terminal(shell, "list", columns=90))
    assert "qwen_base" in on_terminal(shell, "list", columns=200)


def test_a_terminal_is_asked_for_the_reason(shell: Shell) -> None:
    shown = on_terminal(shell, "deactivate", NAME, typed="typed by hand\n")
    assert "Reason:" in shown
    events = shell.templates("history", NAME, "--json").json["events"]
    assert events[0]["reason"] == "typed by hand"


def test_a_reader_that_goes_away_is_no_crash(shell: Shell) -> None:
    with subprocess.Popen(
        [ONBOOK, "templates", "list"],
        env=environment(ONBOOK_DATA_DIR=str(shell.data)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
        process.wait(60)
    assert said == b""


def test_ctrl_c_while_waiting_leaves_the_change_made(shell: Shell) -> None:
    acknowledged(shell, "front-a:1", ahead=0)
    with subprocess.Popen(
        [ONBOOK, "templates", "deactivate", NAME, "--reason", "a test", "--timeout", "60"],
        env=environment(ONBOOK_DATA_DIR=str(shell.data)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "out of service" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read() == "onbook: stopped.\n"
    assert shell.templates("list", "--inactive", "--json").json["templates"]


def test_a_running_server_serves_what_the_command_line_activates(shell: Shell) -> None:
    bad = str(shell.drafted(shell.file(shell.exported() + TESTED.format(word="blue dog"))))
    good = str(shell.drafted(shell.file(shell.exported() + TESTED.format(word="red cat"))))
    with served("serve", shell.data) as server:
        there = ("--url", server.url, "--key", ADMIN_KEY)
        tested = shell.templates("test", NAME, "--version", good, *there)
        assert "keeps the cat" in tested.out
        assert "Starting" not in tested.err
        shell.templates("test", NAME, "--version", bad, *there, code=1)
        assert f"Version {good} of" in shell.templates("test", NAME, *there).err
        assert "no template" in shell.templates("test", "zzz", *there, code=1).err.lower()

        refused = shell.change("activate", NAME, bad, *there, code=1)
        assert "keeps the cat" in refused.out
        assert "do not pass" in refused.err
        denied = shell.change("activate", NAME, good, "--url", server.url, "--key", "x", code=1)
        assert "onbook: " in denied.err

        done = shell.change("activate", NAME, good, *there)
        port = server.url.rpartition(":")[2]
        assert f"Version {good} of {NAME} is live" in done.out
        assert "Served by" in done.out
        assert f":{port}" in done.out
        (event, *_) = shell.templates("history", NAME, "--json").json["events"]
        assert event["actor"].startswith("key:")

        here = shell.change("rollback", NAME)
        assert f":{port}" in here.out
        assert "live" in shell.templates("gateways").out
        server.stop()


def test_the_same_on_postgres(shell: Shell, postgres_url: str) -> None:
    shell.settings["ONBOOK_DATABASE_URL"] = postgres_url
    # To look at a book does not fill it; a gateway's start does.
    assert shell.templates("list", "--json").json["templates"] == []
    asyncio.run(prepare_database(Settings(data_dir=shell.data, database_url=postgres_url)))
    assert len(shell.templates("list", "--json").json["templates"]) == 12
    path = shell.edited("a short idea", "a brief idea")
    assert "[-short-]{+brief+}" in shell.templates("import", path, "--dry-run").out
    assert shell.drafted(path) == 2
    shell.change("split", "start", NAME, "2", "--percent", "10")
    shell.change("split", "promote", NAME)
    assert "brief idea" in shell.exported()
    assert "restores version 1" in shell.change("rollback", NAME).out
    assert "brief" not in shell.exported()
    stale = shell.file(path.read_text().replace("brief", "terse"))
    assert "version 3 is live now" in shell.change("draft", stale, code=1).err
    assert "Did you mean" in shell.templates("show", "chat_sfv", code=1).err
    found = shell.templates("history", NAME, "--json").json
    assert [row["version"] for row in found["versions"]] == [3, 2, 1]
    shell.change("deactivate", NAME)
    assert "inactive" in shell.templates("list", "--search", NAME).out


def test_a_postgres_that_is_away_is_one_sentence(shell: Shell, postgres_url: str) -> None:
    away = re.sub(r":\d+/", ":9/", postgres_url)
    shell.settings["ONBOOK_DATABASE_URL"] = away
    said = shell.templates("list", code=1).err
    assert said.startswith("onbook: ")
    assert len(said.splitlines()) == 1
    password = postgres_url.partition("//")[2].partition(":")[2].partition("@")[0]
    assert password not in said


def test_the_help_is_there_at_once(tmp_path: Path) -> None:
    imported = subprocess.run(
        [ONBOOK.parent / "python", "-X", "importtime", ONBOOK, "templates", "--help"],
        env=environment(ONBOOK_DATA_DIR=str(tmp_path)),
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    for heavy in ("sqlalchemy", "aiohttp", "onbook.bootstrap", "onbook.flows", "rich.table"):
        assert not re.search(rf"\| +{re.escape(heavy)}\b", imported), heavy
