import json
import os
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from onbook.adapters.files.signing_keys import load_or_create_gateway_ring, save_ring
from onbook.bootstrap import prepare_database
from onbook.cli import doctor_checks, doctor_database, doctor_network
from onbook.cli.doctor import examine
from onbook.cli.doctor_checks import Check, Status
from onbook.settings import Settings
from onbook.wire.signing import key_id_of
from onbook.worker.identity import load_or_create_keys
from onbook.worker.models import Manifest, manifest_path, models_dir
from server import ONBOOK, environment, served

SECRET = "a-secret-that-nobody-may-see"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("ONBOOK_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
async def prepared(data_dir: Path) -> Path:
    await prepare_database(options(data_dir))
    return data_dir


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def options(data_dir: Path, **given: object) -> Settings:
    base = {"data_dir": data_dir, "worker_engine": "echo", "port": 0}
    return Settings(**(base | given))  # type: ignore[arg-type]  # pydantic checks them


def found(settings: Settings) -> dict[str, Check]:
    checks = examine(settings)
    assert len({check.name for check in checks}) == len(checks)
    for check in checks:
        assert (check.fix is None) == (check.status == "ok")
        assert "\n" not in check.message
    return {check.name: check for check in checks}


def bad(settings: Settings) -> dict[str, Status]:
    return {name: check.status for name, check in found(settings).items() if check.status != "ok"}


def tree(path: Path) -> list[tuple[str, int, int]]:
    return sorted(
        (str(file.relative_to(path)), file.stat().st_size, file.stat().st_mtime_ns)
        for file in path.rglob("*")
    )


def doctor(
    data_dir: Path, *arguments: str, **given: str | None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ONBOOK, "doctor", *arguments],
        env=environment(ONBOOK_DATA_DIR=str(data_dir), ONBOOK_PORT="0", **given),
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_fresh_machine_is_well_and_stays_as_it_is(tmp_path: Path) -> None:
    done = doctor(tmp_path / "a" / "b")
    assert done.returncode == 0, done.stdout
    assert all(line.startswith("✓ ") for line in done.stdout.splitlines())
    assert list(tmp_path.iterdir()) == []


def test_a_database_is_looked_at_without_a_trace(prepared: Path) -> None:
    before = tree(prepared)
    assert bad(options(prepared)) == {}
    assert tree(prepared) == before


def test_a_database_in_use_is_looked_at_without_a_trace(prepared: Path) -> None:
    with closing(sqlite3.connect(prepared / "onbook.db", isolation_level=None)) as connection:
        # The change is in the log only: a look past the log would not see it.
        connection.execute("UPDATE prompt_templates SET is_active = 0 WHERE target = 'wan'")
        assert (prepared / "onbook.db-wal").stat().st_size > 0
        before = tree(prepared)
        check = found(options(prepared))["templates"]
        assert tree(prepared) == before
    assert check.status == "warning"
    assert "wan sfw" in check.message
    assert "wan nsfw" not in check.message


def test_a_log_without_its_index_is_named(prepared: Path) -> None:
    (prepared / "onbook.db-wal").write_bytes(b"x" * 100)
    before = tree(prepared)
    assert bad(options(prepared)) == {"database_log": "warning"}
    assert tree(prepared) == before


def test_nsfw_templates_are_needed_where_the_deployment_serves_them(prepared: Path) -> None:
    with closing(sqlite3.connect(prepared / "onbook.db", isolation_level=None)) as connection:
        connection.execute("UPDATE prompt_templates SET is_active = 0 WHERE content_mode = 'nsfw'")
    assert bad(options(prepared)) == {}
    check = found(options(prepared, content_ceiling="nsfw"))["templates"]
    assert check.status == "warning"
    assert "sdxl nsfw, wan nsfw" in check.message


def test_a_damaged_database(prepared: Path) -> None:
    path = prepared / "onbook.db"
    data = bytearray(path.read_bytes())
    # The first page stays, so that it opens; every other one is overwritten.
    data[8192:] = b"\xa5" * (len(data) - 8192)
    path.write_bytes(data)
    assert "failure" in (
        bad(options(prepared)).get("integrity"),
        bad(options(prepared)).get("database"),
    )


def test_a_file_that_is_no_database(data_dir: Path) -> None:
    (data_dir / "onbook.db").write_bytes(b"not a database " * 100)
    assert bad(options(data_dir)) == {"database": "failure"}


@pytest.mark.parametrize(
    ("statement", "status", "word"),
    [
        ("UPDATE alembic_version SET version_num = '2099_01_01_future'", "failure", "newer"),
        ("DROP TABLE access_keys", "failure", "not one of Onbook"),
    ],
)
def test_a_database_of_another_version_or_program(
    prepared: Path, statement: str, status: Status, word: str
) -> None:
    with closing(sqlite3.connect(prepared / "onbook.db", isolation_level=None)) as connection:
        connection.execute(statement)
    check = found(options(prepared))["database"]
    assert check.status == status
    assert word in check.message


def test_an_older_database(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_database, "HEAD", "a later revision")
    assert bad(options(prepared)) == {"database": "warning"}


def test_a_check_that_takes_too_long_is_stopped(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(sqlite3.connect(prepared / "onbook.db", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE ballast (x)")
        connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)"
            " INSERT INTO ballast SELECT i FROM n"
        )
    monkeypatch.setattr(doctor_database, "LOOK_S", 0.0)
    monkeypatch.setattr(doctor_database, "_STEPS", 10)
    assert bad(options(prepared)) == {"integrity": "warning"}


def test_open_modes_are_named_with_the_command_that_closes_them(prepared: Path) -> None:
    pepper = prepared / "access-key-pepper"
    pepper.write_text("00" * 32)
    pepper.chmod(0o644)
    prepared.chmod(0o755)
    checks = found(options(prepared))
    assert checks["key_pepper"].fix == f"chmod 600 {pepper}"
    assert checks["data_dir"].fix == f"chmod 700 {prepared}"
    assert bad(options(prepared)) == {"key_pepper": "warning", "data_dir": "warning"}


def test_keys_without_their_pepper(prepared: Path) -> None:
    with closing(sqlite3.connect(prepared / "onbook.db", isolation_level=None)) as connection:
        connection.execute(
            "INSERT INTO access_keys (key_id, name, key_hmac, scopes, created_at)"
            " VALUES ('a', 'a', 'b', '[]', '2026-11-01T00:00:00.000000+00:00')"
        )
    assert bad(options(prepared)) == {"key_pepper": "failure"}
    assert bad(options(prepared, key_pepper=SECRET)) == {}


def test_a_damaged_ring_fails_as_a_start_does(data_dir: Path) -> None:
    keys = data_dir / "gateway_keys.json"
    load_or_create_gateway_ring(data_dir)
    load_or_create_keys(data_dir)
    assert bad(options(data_dir)) == {}
    keys.write_text(keys.read_text().replace('"owner"', '"nobody"'))
    check = found(options(data_dir))["gateway_keys"]
    assert (check.status, "damaged" in check.message) == ("failure", True)
    assert check.fix is not None
    assert f"mv {keys} " in check.fix
    keys.unlink()
    worker = data_dir / "worker_keys.json"
    worker.write_bytes(b"")
    assert bad(options(data_dir)) == {"worker_keys": "failure"}
    assert bad(options(data_dir, worker_url="http://127.0.0.1:1")) == {"worker": "failure"}
    worker.unlink()
    # Of an earlier version: taken over, if it is whole.
    single = data_dir / "worker_ed25519.key"
    single.write_text("00" * 31)
    single.chmod(0o600)
    assert bad(options(data_dir)) == {"worker_keys": "failure"}
    single.write_text("01" * 32)
    assert "first key" in found(options(data_dir))["worker_keys"].message


def test_a_ring_that_is_open_and_one_with_a_next_key(data_dir: Path) -> None:
    ring = load_or_create_gateway_ring(data_dir)
    keys = data_dir / "gateway_keys.json"
    keys.chmod(0o644)
    check = found(options(data_dir))["gateway_keys"]
    assert (check.status, check.fix) == ("warning", f"chmod 600 {keys}")
    keys.chmod(0o600)
    assert "follows" not in found(options(data_dir))["gateway_keys"].message
    due = datetime(2099, 1, 2, 3, 4, tzinfo=UTC)
    rotated = ring.rotated(not_before=due)
    save_ring(keys, rotated)
    check = found(options(data_dir))["gateway_keys"]
    old, new = (key_id_of(key.public_key) for key in rotated.published)
    assert check.status == "ok"
    assert f"{old} in use; {new} follows at 2099-01-02 03:04 UTC" in check.message
    assert all(key.private_key not in check.message for key in rotated.keys)


def test_a_pulled_model_of_another_size(data_dir: Path) -> None:
    model = models_dir(data_dir) / "tiny.gguf"
    model.parent.mkdir()
    model.write_bytes(b"GGUF!")
    stated = Manifest(sha256="0" * 64, size_bytes=5, repository="Org/T", source_file="tiny.gguf")
    manifest_path(model).write_bytes(msgspec.json.encode(stated))
    assert bad(options(data_dir)) == {}
    chosen = options(data_dir, model_path=model, worker_engine="llama_cpp")
    assert found(chosen)["model"].fix == "run 'onbook model pull Org/T --file tiny.gguf'"
    model.write_bytes(b"GGUF")
    check = found(options(data_dir))["models"]
    assert (check.status, "4 bytes, not the 5" in check.message) == ("warning", True)
    assert check.fix == "run 'onbook model pull Org/T --file tiny.gguf'"


def test_a_data_dir_that_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_text("x")
    assert bad(options(path))["data_dir"] == "failure"


def test_little_space(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_checks, "_LEAST_FREE_BYTES", 2**62)
    assert bad(options(data_dir)) == {"disk": "warning"}


def test_rows_in_the_spool(data_dir: Path) -> None:
    (data_dir / "enhancement_logs.spool").write_bytes(b"a\nb\nc\n")
    check = found(options(data_dir))["spool"]
    assert check.status == "warning"
    assert check.message.startswith("3 audit rows")


def test_the_clock_may_not_be_behind_the_newest_row() -> None:
    now = datetime.now(UTC)
    assert doctor_checks.check_clock(None).status == "ok"
    assert doctor_checks.check_clock(now - timedelta(seconds=1)).status == "ok"
    assert doctor_checks.check_clock(now + timedelta(hours=1)).status == "failure"


def test_the_newest_row_is_read_from_the_log(tmp_path: Path) -> None:
    done = subprocess.run(
        [ONBOOK, "enhance", "a kite"],
        env=environment(ONBOOK_DATA_DIR=str(tmp_path)),
        capture_output=True,
        check=True,
    )
    assert done.stdout
    newest = doctor_database.look_at_database(options(tmp_path)).newest_row
    assert newest is not None
    assert timedelta(0) < datetime.now(UTC) - newest < timedelta(minutes=2)


def test_the_packaged_model_and_another_one(data_dir: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    engine = {"worker_engine": "llama_cpp"}
    assert bad(options(data_dir, **engine)) == {}
    assert bad(options(data_dir, model_path=model, **engine)) == {"model": "failure"}
    model.write_bytes(b"MZ")
    assert bad(options(data_dir, model_path=model, **engine)) == {"model": "failure"}
    model.write_bytes(b"GGUF")
    assert bad(options(data_dir, model_path=model, **engine)) == {}
    wrong = options(data_dir, model_path=model, model_sha256="0" * 64, **engine)
    assert bad(wrong) == {"model": "failure"}


def test_a_port_that_is_taken(
    data_dir: Path, listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_network, "LOOK_S", 0.2)
    port = listening.getsockname()[1]
    started = time.monotonic()
    assert bad(options(data_dir, port=port)) == {"port": "failure"}
    assert time.monotonic() - started < 5
    listening.close()
    assert bad(options(data_dir, port=port)) == {}


def test_a_port_that_onbook_serves_and_a_worker_that_is_well(tmp_path: Path) -> None:
    with served("serve", tmp_path / "a") as server:
        port = int(server.url.rpartition(":")[2])
        checks = found(options(tmp_path / "a", port=port, worker_url=server.url))
        server.stop()
    assert checks["port"].status == "ok"
    assert "served by Onbook" in checks["port"].message
    assert checks["worker"].status == "ok"


def test_a_worker_that_is_silent_or_away_or_no_worker(
    data_dir: Path, listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_network, "LOOK_S", 0.2)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    silent = found(options(data_dir, worker_url=url))["worker"]
    assert (silent.status, "does not answer" in silent.message) == ("failure", True)
    listening.close()
    away = found(options(data_dir, worker_url=url))["worker"]
    assert (away.status, "cannot be reached" in away.message) == ("failure", True)


def test_the_command_ends_with_1_and_shows_no_secret(tmp_path: Path) -> None:
    (tmp_path / "onbook.db").write_bytes(b"not a database " * 100)
    secrets = {
        "ONBOOK_BOOTSTRAP_KEY": SECRET,
        "ONBOOK_KEY_PEPPER": SECRET,
        "ONBOOK_WORKER_KEY": SECRET,
    }
    text, as_json = doctor(tmp_path, **secrets), doctor(tmp_path, "--json", **secrets)
    assert (text.returncode, as_json.returncode) == (1, 1)
    for done in (text, as_json):
        assert SECRET not in done.stdout + done.stderr
    lines = text.stdout.splitlines()
    failed = next(number for number, line in enumerate(lines) if line.startswith("✗ "))
    assert lines[failed + 1].startswith("  fix: ")
    document = json.loads(as_json.stdout)
    assert document["ok"] is False
    assert "failure" in {check["status"] for check in document["checks"]}


def test_a_terminal_without_unicode(tmp_path: Path) -> None:
    done = doctor(tmp_path / "data", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ok Python")
