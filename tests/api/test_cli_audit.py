"""The audit commands as an operator uses them, on what a real gateway has written."""

import asyncio
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from onbook.adapters.database.log_rows import CHAIN_COLUMNS
from onbook.adapters.database.schema import migrate
from onbook.adapters.database.sqlite_file import sqlite_url
from onbook.adapters.files.signing_keys import GATEWAY_KEYS_FILE, load_ring
from onbook.cli.main import app
from server import ONBOOK, environment
from support import metadata, running, settings_for
from support_audit import as_owner, open_up


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    stdout: str
    stderr: str


def audit(data_dir: Path | None, *arguments: str | Path, code: int = 0) -> Done:
    """Run a command in this process, which saves a second; in a thread, for its own loop."""
    env = {"ONBOOK_DATA_DIR": None if data_dir is None else str(data_dir)}
    words = ["audit", *map(str, arguments)]
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(CliRunner().invoke, app, words, env=env).result()
    assert done.exit_code == code, done.output
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return Done(done.stdout, done.stderr)


def elsewhere(directory: Path, *arguments: str | Path) -> str:
    """Run a command as on another machine; return what it prints."""
    done = subprocess.run(
        [ONBOOK, "audit", *arguments],
        env=environment(ONBOOK_DATA_DIR=None),
        cwd=directory,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert list(directory.iterdir()) == [directory / "proof.json"]
    return done.stdout


async def answered(data_dir: Path, prompts: Sequence[str]) -> list[str]:
    """Let a gateway answer, and stop it; return the ids of the requests."""
    async with running(settings_for(data_dir)) as gateway:
        answers = await asyncio.gather(*(gateway.enhance({"prompt": prompt}) for prompt in prompts))
        for answer in answers:
            metadata(answer)
        return [answer.json()["request_id"] for answer in answers]


def trusted(data_dir: Path) -> str:
    ring = load_ring(data_dir / GATEWAY_KEYS_FILE)
    assert ring is not None
    return ring.published[0].public_key


async def test_a_gateway_leaves_a_sound_log_and_evidence_of_each_answer(tmp_path: Path) -> None:
    data = tmp_path / "data"
    ids = await answered(data, ["a red kite", "a blue kite", "a green kite"])

    done = audit(data, "verify")
    assert done.stdout.startswith("The log is sound.\n")
    assert "rows that were deleted together" in done.stderr
    told = json.loads(audit(data, "verify", "--json").stdout)
    assert (told["sound"], told["findings"]) == (True, [])
    summary = told["summary"]
    assert (summary["rows"], summary["receipts"], summary["texts"]) == (3, 3, 3)
    # The gateway's last act: a checkpoint over its last row.
    assert (summary["checkpoints"], summary["chains"]) == (1, 1)
    assert summary["unconfirmed_worker_keys"] == []
    assert "Nothing was written" in audit(data, "checkpoint").stdout

    proof = tmp_path / "proof.json"
    audit(data, "export", ids[1], "--texts", "-o", proof)
    assert proof.stat().st_mode & 0o777 == 0o600
    key = trusted(data)
    (tmp_path / "empty").mkdir()
    there = (tmp_path / "empty" / "proof.json").resolve()
    there.write_bytes(proof.read_bytes())
    shown = elsewhere(there.parent, "verify-proof", "proof.json", "--trust", key)
    assert shown.startswith("The proof holds.\n")
    for part in (ids[1], key, "Checkpoint 1", "can sign a lie"):
        assert part in shown
    for text in ("a blue kite", "a red kite"):
        assert text not in shown
    assert "a blue kite" in proof.read_text()
    assert "a red kite" not in proof.read_text()
    bare = audit(data, "export", ids[1]).stdout
    assert "a blue kite" not in bare
    assert json.loads(bare)["texts"] is None
    unnamed = audit(None, "verify-proof", proof)
    assert "holds in itself" in unnamed.stdout
    assert "--trust" in unnamed.stdout

    _refused(proof, key, tmp_path)
    _tampered(data, ids)


def _refused(proof: Path, key: str, tmp_path: Path) -> None:
    stranger = "A" * 43 + "="
    done = audit(None, "verify-proof", proof, "--trust", stranger, code=1)
    assert "none that you named" in done.stdout
    changed = json.loads(proof.read_text())
    changed["statement"]["caller"] = "somebody else"
    other = tmp_path / "changed.json"
    other.write_text(json.dumps(changed))
    told = json.loads(audit(None, "verify-proof", other, "--trust", key, "--json", code=1).stdout)
    assert told["sound"] is False
    assert told["proved"] == []
    other.write_text("{}")
    assert "cannot be checked" in audit(None, "verify-proof", other, code=2).stderr
    assert "cannot be read" in audit(None, "verify-proof", tmp_path / "none", code=2).stderr
    assert "wants a public key" in audit(None, "verify-proof", proof, "--trust", "x", code=2).stderr


def _tampered(data: Path, ids: Sequence[str]) -> None:
    url = sqlite_url(data / "onbook.db")
    open_up(url)
    with closing(sqlite3.connect(data / "onbook.db")) as connection:
        connection.execute(
            "UPDATE enhancement_logs SET caller = 'somebody' WHERE request_id = ?", (ids[1],)
        )
        connection.commit()
    done = audit(data, "verify", code=1)
    assert f"(request {ids[1]})" in done.stdout
    assert "row_changed" in done.stdout
    assert "Found 1 thing" in done.stdout
    (finding,) = json.loads(audit(data, "verify", "--json", code=1).stdout)["findings"]
    assert (finding["kind"], finding["request_id"]) == ("row_changed", ids[1])
    assert "not the one" in audit(data, "export", ids[1], code=1).stderr


async def test_without_the_gateways_keys_a_named_one_is_needed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (only,) = await answered(data, ["a kite"])
    key = trusted(data)
    away = tmp_path / "keys.json"
    (data / GATEWAY_KEYS_FILE).rename(away)
    done = audit(data, "verify", code=1)
    assert "key_untrusted" in done.stdout
    assert "--trust" in done.stdout
    assert audit(data, "verify", "--trust", key).stdout.startswith("The log is sound.")
    assert "no gateway's keys" in audit(data, "export", only, code=2).stderr
    assert "no gateway's keys" in audit(data, "checkpoint", code=2).stderr


async def test_what_cannot_be_checked_ends_with_two(tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert "no database" in audit(data, "verify", code=2).stderr
    assert not data.exists()
    data.mkdir()
    (data / "onbook.db").write_bytes(b"not a database at all " * 100)
    assert "not a SQLite database" in audit(data, "verify", code=2).stderr
    nowhere = "postgresql://onbook:secret@127.0.0.1:1/onbook"
    done = audit(data, "verify", "--database-url", nowhere, code=2)
    assert "secret" not in done.stderr


async def test_an_unknown_request_is_said_to_be_one(tmp_path: Path) -> None:
    data = tmp_path / "data"
    await answered(data, ["a kite"])
    assert "no row of this request" in audit(data, "export", "none", code=2).stderr


def test_an_empty_log_is_sound(tmp_path: Path) -> None:
    migrate(sqlite_url(tmp_path / "onbook.db"))
    done = audit(tmp_path, "verify")
    assert "The log is sound: it has no rows." in done.stdout
    assert "nowhere" in done.stdout


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


async def test_a_copy_is_only_read(tmp_path: Path) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy"
    (only,) = await answered(data, ["a kite"])
    copy.mkdir()
    for path in data.glob("*_keys.json"):
        shutil.copy(path, copy)
    with closing(sqlite3.connect(data / "onbook.db")) as connection:
        connection.execute("VACUUM INTO ?", (str(copy / "onbook.db"),))
    before = _sha256(copy / "onbook.db")
    there = {path.name for path in copy.iterdir()}
    assert audit(copy, "verify").stdout.startswith("The log is sound.\n")
    audit(copy, "export", only)
    assert _sha256(copy / "onbook.db") == before
    assert {path.name for path in copy.iterdir()} == there


async def test_a_file_that_cannot_be_written_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    await answered(data, ["a kite"])
    # In WAL mode, and without the two files that SQLite would have to make.
    assert not (data / "onbook.db-wal").exists()
    before, there = _sha256(data / "onbook.db"), {path.name for path in data.iterdir()}
    may = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and may(path, mode))
    assert audit(data, "verify").stdout.startswith("The log is sound.\n")
    assert _sha256(data / "onbook.db") == before
    assert {path.name for path in data.iterdir()} == there


async def test_checkpoints_that_were_kept_elsewhere(tmp_path: Path) -> None:
    data = tmp_path / "data"
    await answered(data, ["a kite"])
    with closing(sqlite3.connect(data / "onbook.db")) as connection:
        ((number, body, signature),) = connection.execute(
            "SELECT number, body, signature FROM audit_checkpoints"
        ).fetchall()
    one = {"number": number, "body": body, "signature": signature}
    forms = {
        "command": json.dumps({"checkpoint": one}, indent=2),
        "object": json.dumps(one),
        "list": json.dumps([one]),
        "lines": f"{json.dumps(one)}\n\n{json.dumps({'checkpoint': one})}\n",
        "bars": f"{number}|{body}|{signature}\n",
        "document": json.dumps({"body": json.loads(body)}),
    }
    for name, form in forms.items():
        (tmp_path / name).write_text(form)
        done = audit(data, "verify", "--checkpoint", tmp_path / name)
        assert "Last checkpoint" in done.stdout
        assert "--checkpoint" in done.stderr
    for junk in ("", "{}", "[1]", "1|x|y", '{"checkpoint": null}', '{"body": "x"', "\udcff"):
        (tmp_path / "junk").write_bytes(junk.encode("utf-8", "surrogateescape"))
        told = audit(data, "verify", "--checkpoint", tmp_path / "junk", code=2).stderr
        assert "holds no checkpoints" in told
    assert "cannot be read" in audit(data, "verify", "--checkpoint", "none", code=2).stderr

    url = sqlite_url(data / "onbook.db")
    open_up(url)
    as_owner(url, "DELETE FROM audit_checkpoints", "DELETE FROM enhancement_logs")
    assert audit(data, "verify").stdout.startswith("The log is sound: it has no rows.")
    told = audit(data, "verify", "--checkpoint", tmp_path / "object", code=1).stdout
    assert "checkpoint_missing" in told
    assert "head_missing" in told


async def test_a_log_without_any_chain_is_not_called_sound(tmp_path: Path) -> None:
    data = tmp_path / "data"
    await answered(data, ["a kite"])
    url = sqlite_url(data / "onbook.db")
    open_up(url)
    bare = ", ".join(f"{name} = NULL" for name in CHAIN_COLUMNS)
    as_owner(url, "DELETE FROM audit_checkpoints", f"UPDATE enhancement_logs SET {bare}")  # noqa: S608 - our own columns
    done = audit(data, "verify", code=2)
    assert done.stdout.startswith("Nothing in this log is protected")
    assert json.loads(audit(data, "verify", "--json", code=2).stdout)["sound"] is False
