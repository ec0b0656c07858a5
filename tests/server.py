"""A real server in a process of its own, as a user starts it."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

ADMIN_KEY = "test-admin-key-0123456789"
PEPPER = "the-same-pepper-for-every-replica"
ONBOOK = Path(sys.executable).parent / "onbook"
READY_S = 60
FUNCTION = "/functions/v1/enhance-prompt"


@dataclass(slots=True)
class Server:
    """A started command; its output is read as it comes, so that it never blocks."""

    process: subprocess.Popen[str]
    reader: threading.Thread = field(init=False)
    lines: list[str] = field(default_factory=list)
    url: str = ""
    _ready: threading.Event = field(default_factory=threading.Event)

    def wait_ready(self) -> None:
        if not self._ready.wait(READY_S) or not self.url:
            self.process.kill()
            raise AssertionError("the server did not start:\n" + "".join(self.lines))

    def read(self, stream: IO[str]) -> None:
        for line in stream:
            self.lines.append(line)
            found = re.search(r"ready at (http://\S+)", line)
            if found:
                self.url = found.group(1)
            # The last line of the greeting: by then everything has been said.
            if "Ctrl-C" in line or line.startswith("  key "):
                self._ready.set()
        self._ready.set()

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def stop(self, with_signal: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(with_signal)
        return self.process.wait(READY_S)


def environment(**options: str | None) -> dict[str, str]:
    """Return this process's environment with our settings; None leaves one out."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ONBOOK_")}
    set_here: dict[str, str | None] = {
        "ONBOOK_WORKER_ENGINE": "echo",
        "ONBOOK_BOOTSTRAP_KEY": ADMIN_KEY,
        "PYTHONUNBUFFERED": "1",
        "ONBOOK_DATABASE_RETRY_S": "0.25",
        **options,
    }
    return {name: value for name, value in (kept | set_here).items() if value is not None}


def start(
    command: str,
    data_dir: Path,
    *arguments: str,
    database_url: str | None = None,
    through: Sequence[str] = (),
    **options: str | None,
) -> Server:
    """Start a command; ``through`` is a program that starts it in turn."""
    options = {"ONBOOK_DATABASE_URL": database_url, **options}
    process = subprocess.Popen(
        [*through, ONBOOK, command, "--port", "0", "--data-dir", str(data_dir), *arguments],
        env=environment(**options),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    server = Server(process)
    assert process.stdout is not None
    server.reader = threading.Thread(target=server.read, args=(process.stdout,), daemon=True)
    server.reader.start()
    return server


@contextmanager
def served(
    command: str,
    data_dir: Path,
    *arguments: str,
    database_url: str | None = None,
    **options: str | None,
) -> Iterator[Server]:
    started = start(command, data_dir, *arguments, database_url=database_url, through=(), **options)
    with killed(started) as server:
        server.wait_ready()
        yield server


@contextmanager
def killed(server: Server) -> Iterator[Server]:
    """Give ``server``; whatever happens, it does not outlive the block."""
    try:
        yield server
    finally:
        server.stop(signal.SIGKILL)
        server.reader.join(READY_S)
        assert server.process.stdout is not None
        server.process.stdout.close()


@contextmanager
def replicas(place: Path, url: str) -> Iterator[list[Server]]:
    """Start two gateways at the same time on one empty database."""
    servers = [
        start("serve", place / name, database_url=url, ONBOOK_KEY_PEPPER=PEPPER)
        for name in ("one", "two")
    ]
    with killed(servers[0]), killed(servers[1]):
        for server in servers:
            server.wait_ready()
        yield servers


def query(data_dir: Path, sql: str) -> list[tuple[object, ...]]:
    """Run one statement on the service's database, beside the service, and commit it."""
    with closing(sqlite3.connect(data_dir / "onbook.db")) as connection:
        found = connection.execute(sql).fetchall()
        connection.commit()
    return found


def ended(data_dir: Path, *arguments: str, **options: str) -> tuple[int, str, list[str]]:
    """Run a start that must fail; return its code, its last sentence, and all lines of errors."""
    done = subprocess.run(
        [ONBOOK, "serve", "--data-dir", str(data_dir), *arguments],
        env=environment(**options),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    lines = done.stderr.strip().splitlines()
    return done.returncode, lines[-1] if lines else "", lines


def enhance(url: str, key: str = ADMIN_KEY, **fields: object) -> dict[str, Any]:
    """Call ``enhance-prompt``; return what it answers with 200."""
    body = {"prompt": "a boat at sea", **fields}
    request = urllib.request.Request(  # noqa: S310 - our own server on loopback
        url + FUNCTION,
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310 - as above
        answer: dict[str, Any] = json.loads(response.read())
    return answer


def ready(url: str) -> dict[str, Any]:
    """Return what ``/readyz`` says with 200."""
    with urllib.request.urlopen(url + "/readyz", timeout=30) as response:  # noqa: S310 - ours
        answer: dict[str, Any] = json.loads(response.read())
    return answer


def eventually(check: Callable[[], object], what: str, within_s: float = READY_S) -> None:
    """Wait until ``check`` is true; fail, naming ``what``, if it is not in time."""
    deadline = time.monotonic() + within_s
    pause = threading.Event()
    while not check():
        assert time.monotonic() < deadline, f"not within {within_s:.0f} s: {what}"
        pause.wait(0.02)
