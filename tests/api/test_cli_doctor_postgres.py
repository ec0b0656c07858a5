import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from onbook.bootstrap import prepare_database
from onbook.cli import doctor_postgres
from onbook.cli.doctor import examine
from onbook.cli.doctor_checks import Check, Status
from onbook.cli.doctor_database import look_at_database
from onbook.settings import Settings
from postgres import PostgresServer
from server import ONBOOK, environment


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("ONBOOK_")]:
        monkeypatch.delenv(name)


@pytest.fixture
async def prepared(postgres_url: str, tmp_path: Path) -> Settings:
    settings = options(postgres_url, tmp_path)
    await prepare_database(settings)
    return settings


@pytest.fixture
def empty_url(postgres: PostgresServer) -> Iterator[str]:
    with postgres.database(migrated=False) as url:
        yield url


def options(url: str, tmp_path: Path, **given: object) -> Settings:
    base = {"database_url": url, "data_dir": tmp_path, "worker_engine": "echo", "port": 0}
    return Settings(**(base | given))  # type: ignore[arg-type]  # pydantic checks them


def found(settings: Settings) -> dict[str, Check]:
    checks = look_at_database(settings).checks
    assert len({check.name for check in checks}) == len(checks)
    for check in checks:
        assert (check.fix is None) == (check.status == "ok")
        assert "\n" not in check.message
    return {check.name: check for check in checks}


def bad(settings: Settings) -> dict[str, Status]:
    """Return what is not well, but for the tests' server, which is not durable on purpose."""
    checks = found(settings)
    durable = checks.pop("database_durable", None)
    if durable is not None:
        assert (durable.status, "fsync" in durable.message) == ("warning", True)
    return {name: check.status for name, check in checks.items() if check.status != "ok"}


def execute(postgres: PostgresServer, settings: Settings, statement: str) -> None:
    postgres.execute(statement, database=settings.database.rpartition("/")[2])


def test_a_prepared_database_is_well(prepared: Settings, postgres: PostgresServer) -> None:
    assert bad(prepared) == {}
    message = found(prepared)["database"].message
    assert f"127.0.0.1:{postgres.port} answers and is current (Postgres 1" in message
    names = [check.name for check in examine(prepared)]
    assert len(names) == len(set(names))
    assert {"database", "database_clock", "templates", "spool", "clock"} <= set(names)


def test_an_empty_database_is_set_up_later(empty_url: str, tmp_path: Path) -> None:
    settings = options(empty_url, tmp_path)
    assert bad(settings) == {}
    assert "set up at the first start" in found(settings)["database"].message
    assert bad(settings) == {}


def test_a_server_that_is_away(tmp_path: Path) -> None:
    settings = options("postgresql://u:S3cret@127.0.0.1:1/d", tmp_path)
    check = found(settings)["database"]
    assert (check.status, "nothing answers" in check.message) == ("failure", True)
    assert "S3cret" not in check.message


def test_a_url_that_is_not_right(tmp_path: Path) -> None:
    check = found(options("postgresql://u:S3cret@h:x/d", tmp_path))["database"]
    assert (check.status, "a port in it" in check.message) == ("failure", True)
    assert check.fix == "correct ONBOOK_DATABASE_URL or what it names"
    assert "S3cret" not in check.message


def test_a_wrong_password(postgres: PostgresServer, postgres_url: str, tmp_path: Path) -> None:
    url = postgres_url.replace(quote(postgres.password, safe=""), "S3cret")
    check = found(options(url, tmp_path))["database"]
    assert (check.status, "password is wrong" in check.message) == ("failure", True)


@pytest.mark.parametrize(
    ("statement", "status", "word"),
    [
        ("UPDATE alembic_version SET version_num = '2099_01_01_future'", "failure", "newer"),
        ("DROP TABLE alembic_version", "failure", "belongs to another program"),
    ],
)
def test_a_database_of_another_version_or_program(
    prepared: Settings, postgres: PostgresServer, statement: str, status: Status, word: str
) -> None:
    execute(postgres, prepared, statement)
    check = found(prepared)["database"]
    assert (check.status, word in check.message) == (status, True)


def test_an_older_database(prepared: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_postgres, "HEAD", "a later revision")
    assert bad(prepared) == {"database": "warning"}


def test_a_read_only_database(prepared: Settings, postgres: PostgresServer) -> None:
    name = prepared.database.rpartition("/")[2]
    postgres.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    assert bad(prepared) == {"database_writable": "failure"}


def test_a_user_without_rights(prepared: Settings, postgres: PostgresServer) -> None:
    name = prepared.database.rpartition("/")[2]
    role = f"reader_{name}"
    postgres.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'S3cret'")
    try:
        execute(postgres, prepared, f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
        url = f"postgresql://{role}:S3cret@127.0.0.1:{postgres.port}/{name}"
        settings = prepared.model_copy(update={"database_url": url})
        assert bad(settings) == {"database_access": "failure"}
        assert "access_keys, enhancement_logs" in found(settings)["database_access"].message
        execute(
            postgres,
            prepared,
            f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {role};"
            f" GRANT SELECT ON alembic_version TO {role}",
        )
        checks = found(settings)
        assert checks["database_access"].status == "failure"
        assert "templates" not in checks
    finally:
        execute(postgres, prepared, f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_clocks_that_differ(prepared: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_postgres, "_CLOCK_S", -1.0)
    assert bad(prepared) == {"database_clock": "warning"}


def test_little_room_for_connections(prepared: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_postgres, "_FEW_CONNECTIONS", 10_000)
    assert bad(prepared) == {"database_connections": "warning"}


def test_a_database_that_is_locked_is_not_waited_for(
    prepared: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_postgres, "_ALL_S", 0.0)
    check = found(prepared)["database"]
    assert (check.status, "does not answer within" in check.message) == ("failure", True)


def test_templates_and_keys_are_looked_at(prepared: Settings, postgres: PostgresServer) -> None:
    execute(
        postgres,
        prepared,
        "UPDATE prompt_templates SET is_active = false WHERE target = 'wan';"
        " INSERT INTO access_keys (key_id, name, key_hmac, scopes, created_at)"
        " VALUES ('a', 'a', 'b', '[]', now())",
    )
    findings = look_at_database(prepared)
    assert findings.stored_keys == 1
    assert findings.newest_row is None
    checks = {check.name: check for check in findings.checks}
    assert "wan sfw" in checks["templates"].message
    assert checks["database_rows"].message.startswith("Access keys: 1; audit rows: ")
    # The pepper of that key is not here.
    assert "key_pepper" in {check.name for check in examine(prepared) if check.status == "failure"}


def test_the_commands_work_on_postgres_and_show_no_password(
    postgres: PostgresServer, empty_url: str, tmp_path: Path
) -> None:
    def onbook(*arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [ONBOOK, *arguments],
            env=environment(
                ONBOOK_BOOTSTRAP_KEY=None,
                ONBOOK_DATA_DIR=str(tmp_path),
                ONBOOK_DATABASE_URL=empty_url,
                ONBOOK_PORT="0",
            ),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        for form in (postgres.password, quote(postgres.password, safe="")):
            assert form not in done.stdout + done.stderr
        return done.stdout

    plain = onbook("keys", "create", "--name", "site", "--scope", "enhance").strip()
    assert plain.startswith("onb_")
    (key,) = json.loads(onbook("keys", "list", "--json"))["keys"]
    assert (key["name"], key["state"]) == ("site", "active")
    assert "is revoked" in onbook("keys", "revoke", key["id"])
    assert "revoked" in onbook("keys", "list")
    document = json.loads(onbook("doctor", "--json"))
    assert document["ok"] is True
    assert not list(tmp_path.glob("*.db"))
    postgres.drop_database(empty_url)
    onbook("keys", "list", code=1)
    assert json.loads(onbook("doctor", "--json", code=1))["ok"] is False
