"""A real server in a process of its own, as a user starts it."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

ADMIN_KEY = "test-admin-key-0123456789"
ONBOOK = Path(sys.executable).parent / "onbook"
READY_S = 60


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
        **options,
    }
    return kept | {name: value for name, value in set_here.items() if value is not None}


def start(
    command: str,
    data_dir: Path,
    *arguments: str,
    **options: str | None,
) -> Server:
    process = subprocess.Popen(
        [ONBOOK, command, "--port", "0", "--data-dir", str(data_dir), *arguments],
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
    **options: str | None,
) -> Iterator[Server]:
    server = start(command, data_dir, *arguments, **options)
    try:
        server.wait_ready()
        yield server
    finally:
        server.stop(signal.SIGKILL)
        server.reader.join(READY_S)
        assert server.process.stdout is not None
        server.process.stdout.close()


def query(data_dir: Path, sql: str) -> list[tuple[object, ...]]:
    """Run one statement on the service's database, beside the service, and commit it."""
    with closing(sqlite3.connect(data_dir / "onbook.db")) as connection:
        found = connection.execute(sql).fetchall()
        connection.commit()
    return found
