import json
import sqlite3
import subprocess
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from onbook.client import Onbook, OnbookAPIError
from server import ONBOOK, environment, query, served


def keys(
    data_dir: Path, *arguments: str, code: int = 0, pepper: str | None = None
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [ONBOOK, "keys", *arguments],
        env=environment(
            ONBOOK_BOOTSTRAP_KEY=None, ONBOOK_DATA_DIR=str(data_dir), ONBOOK_KEY_PEPPER=pepper
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done


def listed(data_dir: Path) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = json.loads(keys(data_dir, "list", "--json").stdout)["keys"]
    return rows


def test_a_new_key_works_on_a_server_until_it_is_revoked(tmp_path: Path) -> None:
    made = keys(tmp_path, "create", "--name", "site", "--scope", "enhance")
    chat = keys(tmp_path, "create", "--name", "chat", "--scope", "chat").stdout.strip()
    ended = keys(tmp_path, "create", "--name", "old", "--scope", "enhance").stdout.strip()
    plain = made.stdout.strip()
    assert plain.startswith("onb_")
    assert made.stdout == f"{plain}\n"
    assert plain not in made.stderr
    ids = {row["name"]: str(row["id"]) for row in listed(tmp_path)}

    with served("serve", tmp_path) as server:
        keys(tmp_path, "revoke", ids["old"])
        assert Onbook(server.url, plain).enhance("a kite").success
        for key, status in ((chat, 403), (ended, 401)):
            with pytest.raises(OnbookAPIError) as raised:
                Onbook(server.url, key).enhance("a kite")
            assert raised.value.status == status
        server.stop()

    states = {row["name"]: (row["state"], row["last_used_at"]) for row in listed(tmp_path)}
    assert states["old"] == ("revoked", None)
    assert states["site"][0] == "active"
    assert states["site"][1] is not None


def test_a_pepper_from_the_environment_is_used(tmp_path: Path) -> None:
    pepper = "pepper-of-this-test"
    made = keys(tmp_path, "create", "--name", "site", "--scope", "enhance", pepper=pepper)
    assert not (tmp_path / "access-key-pepper").exists()
    with served("serve", tmp_path, ONBOOK_KEY_PEPPER=pepper) as server:
        assert Onbook(server.url, made.stdout.strip()).enhance("a kite").success
        server.stop()


def test_the_key_itself_is_stored_nowhere(tmp_path: Path) -> None:
    plain = keys(tmp_path, "create", "--name", "a", "--scope", "admin").stdout.strip()
    for file in tmp_path.iterdir():
        assert plain.encode() not in file.read_bytes(), file.name
    with closing(sqlite3.connect(tmp_path / "onbook.db")) as connection:
        (digest,) = connection.execute("SELECT key_hmac FROM access_keys").fetchone()
    shown = keys(tmp_path, "list").stdout + keys(tmp_path, "list", "--json").stdout
    assert digest not in shown


def test_a_key_with_an_end(tmp_path: Path) -> None:
    keys(tmp_path, "create", "--name", "brief", "--scope", "chat", "--expires-days", "30")
    (row,) = listed(tmp_path)
    expires = datetime.fromisoformat(str(row["expires_at"]))
    assert abs(expires - datetime.now(UTC) - timedelta(days=30)) < timedelta(minutes=2)
    assert row["state"] == "active"

    with closing(sqlite3.connect(tmp_path / "onbook.db")) as connection:
        connection.execute("UPDATE access_keys SET expires_at = '2026-01-01T00:00:00.000000+00:00'")
        connection.commit()
    (row,) = listed(tmp_path)
    assert row["state"] == "expired"


def test_revoking_twice_says_so_and_an_unknown_id_fails(tmp_path: Path) -> None:
    made = keys(tmp_path, "create", "--name", "a", "--scope", "chat")
    key_id = made.stderr.split()[1]
    assert "is revoked" in keys(tmp_path, "revoke", key_id).stdout
    (first,) = query(tmp_path, "SELECT revoked_at FROM access_keys")
    assert first != (None,)
    assert "revoked already" in keys(tmp_path, "revoke", key_id).stdout
    assert query(tmp_path, "SELECT revoked_at FROM access_keys") == [first]
    assert "no key with this id" in keys(tmp_path, "revoke", "x", code=1).stderr


def test_the_table_holds_every_column_in_full(tmp_path: Path) -> None:
    name = "a rather long name for a key " * 4
    keys(tmp_path, "create", "--name", name, "--scope", "templates:read", "--scope", "jobs")
    (row,) = listed(tmp_path)
    table = keys(tmp_path, "list").stdout
    for value in (str(row["id"]), name.strip(), "jobs,templates:read", "never", "active"):
        assert value in table


@pytest.mark.parametrize(
    "arguments",
    [
        ("create", "--name", "a", "--scope", "everything"),
        ("create", "--name", "a"),
        ("create", "--name", " ", "--scope", "chat"),
        ("create", "--name", "a\x1b[31m", "--scope", "chat"),
        ("create", "--name", "a", "--scope", "chat", "--expires-days", "0"),
    ],
)
def test_misuse_makes_nothing(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = keys(tmp_path / "data", *arguments, code=2)
    assert done.stdout == ""
    assert not (tmp_path / "data").exists()


def test_listing_and_revoking_make_no_database(tmp_path: Path) -> None:
    for arguments in (("list",), ("revoke", "x")):
        done = keys(tmp_path / "data", *arguments, code=1)
        assert "no database" in done.stderr
    assert not (tmp_path / "data").exists()


def test_a_foreign_database_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "onbook.db").write_bytes(b"not a database at all " * 100)
    for arguments in (("list",), ("create", "--name", "a", "--scope", "chat")):
        done = keys(tmp_path, *arguments, code=1)
        assert "not a SQLite database" in done.stderr
        assert "Traceback" not in done.stderr


def test_the_scopes_are_explained(tmp_path: Path) -> None:
    shown = keys(tmp_path, "scopes").stdout
    assert "nsfw" in shown
    assert "Call enhance-prompt." in shown
