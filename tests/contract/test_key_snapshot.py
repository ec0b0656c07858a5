import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from onbook.adapters.files.key_snapshot import FileKeySnapshots
from onbook.domain.access import key_hmac
from onbook.ports.stores import AccessKey

PEPPER = b"p" * 32
NOW = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
KEYS = [
    AccessKey(
        key_id="one",
        name="front end",
        key_hmac=key_hmac("onb_secret_one", PEPPER),
        scopes=frozenset({"enhance", "nsfw"}),
        created_at=NOW - timedelta(days=3),
        expires_at=NOW + timedelta(days=30),
    ),
    AccessKey(
        key_id="two",
        name="Été \u2028",
        key_hmac=key_hmac("onb_secret_two", PEPPER),
        scopes=frozenset(),
        created_at=NOW,
        revoked_at=NOW + timedelta(microseconds=5),
    ),
]


def test_what_is_saved_is_loaded_again(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    assert FileKeySnapshots(path, pepper=PEPPER).load() is None
    assert FileKeySnapshots(path, pepper=PEPPER).save(KEYS, at=NOW)
    assert FileKeySnapshots(path, pepper=PEPPER).load() == (KEYS, NOW)


def test_only_the_owner_can_read_it_and_it_holds_no_key(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    FileKeySnapshots(path, pepper=PEPPER).save(KEYS, at=NOW)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"onb_secret" not in path.read_bytes()


def test_a_file_with_any_byte_changed_or_cut_off_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    snapshots = FileKeySnapshots(path, pepper=PEPPER)
    snapshots.save(KEYS[:1], at=NOW)
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        assert snapshots.load() is None
        path.write_bytes(whole[:position])
        assert snapshots.load() is None
    path.write_bytes(whole)
    assert snapshots.load() is not None


def test_a_file_of_another_deployment_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    FileKeySnapshots(path, pepper=PEPPER).save(KEYS, at=NOW)
    assert FileKeySnapshots(path, pepper=b"q" * 32).load() is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"format":2,"saved_at":"2026-11-23T08:00:00+00:00","keys":[]}',
        b'{"format":1,"saved_at":"yesterday","keys":[]}',
        b'{"format":1,"saved_at":"2026-11-23T08:00:00+00:00","keys":[{}]}',
        b'{"format":1,"saved_at":"2026-11-23T08:00:00+00:00","keys":[{"scopes":"admin"}]}',
    ],
)
def test_a_whole_file_of_another_making_is_ignored(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "keys.json"
    snapshots = FileKeySnapshots(path, pepper=PEPPER)
    path.write_bytes(snapshots._seal(body) + b"\n" + body)
    assert snapshots.load() is None


def test_a_disk_that_refuses_is_reported_and_keeps_the_older_file(tmp_path: Path) -> None:
    directory = tmp_path / "there"
    directory.mkdir()
    snapshots = FileKeySnapshots(directory / "keys.json", pepper=PEPPER)
    directory.rename(tmp_path / "gone")
    assert snapshots.save(KEYS, at=NOW) is False
