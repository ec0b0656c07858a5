import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from random import Random

import pytest

from audit_log import check_chains, logged, verify
from load import Load
from onbook.adapters.database.sqlite_file import sqlite_url
from server import Server, eventually, killed, ready, served, start

ROUNDS = 20
CLIENTS = 16
# Most of a start is loading code. Here it is loaded once, and every process that is killed is
# followed by the next one, which runs the command from its beginning.
ONE_AFTER_THE_OTHER = """
import os, sys
import onbook.cli.process, onbook.worker.start
from onbook.cli.main import run
os.setpgid(0, 0)
sys.argv = sys.argv[1:]
while True:
    child = os.fork()
    if not child:
        print("process", os.getpid(), flush=True)
        run()
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        (tmp_path / "database").mkdir()
        yield sqlite_url(tmp_path / "database" / "onbook.db")
    else:
        with request.getfixturevalue("postgres").database(migrated=False) as made:
            yield made


@contextmanager
def one_after_the_other(data: Path, url: str) -> Iterator[Server]:
    started = start(
        "serve", data, database_url=url, through=(sys.executable, "-c", ONE_AFTER_THE_OTHER)
    )
    with killed(started) as server:
        server.wait_ready()
        try:
            yield server
        finally:
            # All of them: a child does not end with its parent.
            with suppress(ProcessLookupError):
                os.killpg(server.process.pid, signal.SIGKILL)


def kill_9(server: Server) -> None:
    """Kill the process that serves; the next one starts at once."""
    child = int(re.findall(r"^process (\d+)$", server.output, re.MULTILINE)[-1])
    server.url = ""
    server._ready.clear()
    os.kill(child, signal.SIGKILL)


@pytest.mark.timeout(300)
def test_20_kills_under_load_lose_no_acknowledged_row_and_double_none(
    tmp_path: Path, url: str
) -> None:
    data = tmp_path / "data"
    acknowledged: set[str] = set()
    random = Random(20)  # noqa: S311 - moments, not secrets
    with one_after_the_other(data, url) as server:
        for _ in range(ROUNDS):
            wanted, later_s = random.randint(1, 200), random.uniform(0, 0.03)
            with Load(server.url, CLIENTS) as load:
                eventually(partial(load.has_acknowledged, wanted), "load")
                threading.Event().wait(later_s)
                assert not load.failures
                kill_9(server)
                eventually(load.is_cut_off, "every client is cut off")
            before = len(acknowledged)
            acknowledged |= {answer.request_id for answer in load.acknowledged}
            assert len(acknowledged) == before + len(load.acknowledged)
            server.wait_ready()
            # What the kill left is whole before anything is written behind it.
            rows = logged(url)
            ids = [row.request_id for row in rows]
            assert not acknowledged - set(ids)
            assert len(ids) == len(set(ids))
            check_chains(rows)
    with served("serve", data, database_url=url) as server:
        eventually(lambda: ready(server.url)["spooled_rows"] == 0, "nothing waits")
        server.stop()
    rows = logged(url)
    assert acknowledged <= {row.request_id for row in rows}
    assert len({row.chain_id for row in rows}) == ROUNDS
    check_chains(rows)
    verify(url, data)
