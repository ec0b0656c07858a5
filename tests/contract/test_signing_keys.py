"""The key files: made once, private, followed when they are rotated; and the commands for them."""

import json
import stat
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer

from onbook.adapters.files.secrets import SecretUnusable
from onbook.adapters.files.signing_keys import (
    FOLLOW_S,
    GATEWAY_KEYS_FILE,
    WORKER_KEYS_FILE,
    FollowedRing,
    load_or_create_gateway_ring,
    load_ring,
    save_ring,
)
from onbook.adapters.memory.clock import FixedClock
from onbook.cli.keys_signing import _duration
from onbook.wire.signing import KeyRing, encoded_ring, new_ring, trusted_keys
from server import ONBOOK, environment

START = datetime(2026, 11, 24, 10, tzinfo=UTC)


def test_the_ring_is_made_once_and_private(tmp_path: Path) -> None:
    place = tmp_path / "data"
    made = load_or_create_gateway_ring(place)
    assert made.owner.startswith("gateway-")
    assert len(made.keys) == 1
    assert stat.S_IMODE((place / GATEWAY_KEYS_FILE).stat().st_mode) == 0o600
    assert load_or_create_gateway_ring(place) == made
    assert [path.name for path in place.iterdir()] == [GATEWAY_KEYS_FILE]


def test_processes_that_start_together_agree_on_one_ring(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        rings = list(pool.map(lambda _: load_or_create_gateway_ring(tmp_path), range(24)))
    assert all(ring == rings[0] for ring in rings)


@pytest.mark.parametrize(
    "damage", [b"", b"{}", b"null", b"\xff\xfe", b'{"owner":"gateway-x","keys":[]}']
)
def test_a_damaged_file_is_said_in_one_sentence_and_left_alone(
    tmp_path: Path, damage: bytes
) -> None:
    path = tmp_path / GATEWAY_KEYS_FILE
    path.write_bytes(damage)
    with pytest.raises(SecretUnusable, match=f"{GATEWAY_KEYS_FILE} is damaged; restore it"):
        load_or_create_gateway_ring(tmp_path)
    assert path.read_bytes() == damage


def test_a_cut_off_file_is_damaged_and_its_keys_are_not_shown(tmp_path: Path) -> None:
    ring = new_ring("gateway", at=START)
    (tmp_path / GATEWAY_KEYS_FILE).write_bytes(encoded_ring(ring)[:-20])
    with pytest.raises(SecretUnusable) as caught:
        load_or_create_gateway_ring(tmp_path)
    assert ring.keys[0].private_key not in str(caught.value)


def test_what_cannot_be_read_or_made_is_said(tmp_path: Path) -> None:
    (tmp_path / GATEWAY_KEYS_FILE).mkdir()
    with pytest.raises(SecretUnusable, match="cannot be read or written"):
        load_or_create_gateway_ring(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(SecretUnusable, match="cannot be read or written"):
        load_or_create_gateway_ring(tmp_path / "file" / "below")
    assert load_ring(tmp_path / "absent.json") is None


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(START)


@pytest.fixture
def followed(tmp_path: Path, clock: FixedClock) -> FollowedRing:
    path = tmp_path / GATEWAY_KEYS_FILE
    ring = new_ring("gateway", at=START)
    save_ring(path, ring)
    return FollowedRing(path, ring, now=clock.now, monotonic=clock.monotonic)


def rotated(path: Path, after: timedelta, at: datetime) -> KeyRing:
    ring = load_ring(path)
    assert ring is not None
    ring = ring.rotated(not_before=at + after)
    save_ring(path, ring)
    return ring


def key(ring: KeyRing, place: int) -> str:
    return ring.published[place].public_key


def test_the_signer_changes_when_the_next_keys_time_has_come(
    tmp_path: Path, clock: FixedClock, followed: FollowedRing
) -> None:
    first = followed.signer()
    assert followed.signer() is first
    ring = rotated(tmp_path / GATEWAY_KEYS_FILE, timedelta(hours=1), clock.now())
    clock.advance(FOLLOW_S)
    assert followed.signer().public_key == first.public_key
    # The new key is shown before it is used.
    assert followed.ring == ring
    clock.advance(3600 - FOLLOW_S - 1)
    assert followed.signer().public_key == key(ring, 0)
    clock.advance(1)
    assert followed.signer().public_key == key(ring, 1)


def test_a_rotation_is_noticed_after_some_seconds_and_not_looked_for_before(
    tmp_path: Path, clock: FixedClock, followed: FollowedRing
) -> None:
    ring = rotated(tmp_path / GATEWAY_KEYS_FILE, timedelta(0), clock.now())
    clock.advance(FOLLOW_S - 0.1)
    assert followed.signer().public_key == key(ring, 0)
    clock.advance(0.1)
    assert followed.signer().public_key == key(ring, 1)


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(b"{")])
def test_a_file_that_is_gone_or_damaged_changes_nothing(
    tmp_path: Path, clock: FixedClock, followed: FollowedRing, harm: Callable[[Path], object]
) -> None:
    path = tmp_path / GATEWAY_KEYS_FILE
    before = followed.signer().public_key
    harm(path)
    clock.advance(FOLLOW_S)
    assert followed.signer().public_key == before
    save_ring(path, followed.ring.rotated(not_before=clock.now()))
    clock.advance(FOLLOW_S)
    assert followed.signer().public_key != before


def test_a_clock_that_is_set_back_takes_the_older_key_again(tmp_path: Path) -> None:
    times = [START]
    ring = new_ring("gateway", at=START).rotated(not_before=START + timedelta(hours=1))
    followed = FollowedRing(tmp_path / "none", ring, now=lambda: times[-1], monotonic=lambda: 0.0)
    places = []
    for hours in (2, 0.5, 1, -5):
        times.append(START + timedelta(hours=hours))
        places.append([key(ring, 0), key(ring, 1)].index(followed.signer().public_key))
    assert places == [1, 0, 1, 0]


def signing(data_dir: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [ONBOOK, "keys", "signing", *arguments, "--data-dir", str(data_dir)],
        env=environment(ONBOOK_BOOTSTRAP_KEY=None),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_the_commands_show_public_halves_and_rotate_with_overlap(tmp_path: Path) -> None:
    signing(tmp_path, "list", code=1)
    before = load_or_create_gateway_ring(tmp_path)
    done = signing(tmp_path, "rotate", "--after", "24h", "--json")
    answer = json.loads(done.stdout)
    ring = load_ring(tmp_path / GATEWAY_KEYS_FILE)
    assert ring is not None
    assert ring.published[0] == before.published[0]
    assert answer["owner"] == before.owner
    assert [row["state"] for row in answer["keys"]] == ["in use", "future"]
    assert [row["public_key"] for row in answer["keys"]] == [key(ring, 0), key(ring, 1)]
    starts = datetime.fromisoformat(answer["keys"][1]["not_before"]) - datetime.now(UTC)
    assert timedelta(hours=23.9) < starts <= timedelta(hours=24)
    assert stat.S_IMODE((tmp_path / GATEWAY_KEYS_FILE).stat().st_mode) == 0o600
    shown = signing(tmp_path, "list")
    refused = signing(tmp_path, "rotate", code=1)
    assert "rotate again after that" in refused.stderr
    assert load_ring(tmp_path / GATEWAY_KEYS_FILE) == ring
    for text in (done.stdout, done.stderr, shown.stdout, shown.stderr, refused.stderr):
        assert not any(stored.private_key in text for stored in ring.keys)
    assert [line.split()[-1] for line in shown.stdout.splitlines()[1:]] == ["use", "future"]


def test_a_sooner_time_takes_the_place_of_the_key_that_waits(tmp_path: Path) -> None:
    load_or_create_gateway_ring(tmp_path)
    signing(tmp_path, "rotate", "--after", "3650d")
    by_mistake = load_ring(tmp_path / GATEWAY_KEYS_FILE)
    done = signing(tmp_path, "rotate", "--after", "0s", "--json")
    assert [row["state"] for row in json.loads(done.stdout)["keys"]] == ["past", "in use"]
    assert "24h by default" in done.stderr
    ring = load_ring(tmp_path / GATEWAY_KEYS_FILE)
    assert ring is not None
    assert by_mistake is not None
    assert ring.published[0] == by_mistake.published[0]
    # One key has one time for ever: audit logs hold the first that they were told.
    assert key(ring, 1) != key(by_mistake, 1)
    assert trusted_keys(ring.published, [key(ring, 0)]) == {key(ring, 0), key(ring, 1)}
    refused = signing(tmp_path, "rotate", "--after", "1h")
    assert "comes into use" in refused.stderr


def test_a_key_that_is_about_to_be_used_is_not_taken_away(tmp_path: Path) -> None:
    load_or_create_gateway_ring(tmp_path)
    signing(tmp_path, "rotate", "--after", "50s")
    assert "waits already" in signing(tmp_path, "rotate", "--after", "0s", code=1).stderr


def test_rotations_at_once_each_add_a_key(tmp_path: Path) -> None:
    load_or_create_gateway_ring(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: signing(tmp_path, "rotate", "--after", "0s"), range(4)))
    ring = load_ring(tmp_path / GATEWAY_KEYS_FILE)
    assert ring is not None
    assert len(ring.keys) == 5
    assert len(trusted_keys(ring.published, [key(ring, 0)])) == 5


def test_each_role_has_a_file_of_its_own(tmp_path: Path) -> None:
    save_ring(tmp_path / WORKER_KEYS_FILE, new_ring("worker", at=datetime.now(UTC)))
    rows = json.loads(
        signing(tmp_path, "rotate", "--role", "worker", "--after", "0s", "--json").stdout
    )
    assert [row["state"] for row in rows["keys"]] == ["past", "in use"]
    assert rows["keys"][1]["endorsed_by"] == rows["keys"][0]["key_id"]
    assert not (tmp_path / GATEWAY_KEYS_FILE).exists()


@pytest.mark.parametrize("after", ["", "24", "-1h", "1w", "9" * 400 + "h", "1e9s", "99999d", "٣h"])
def test_a_time_that_is_none_is_refused(after: str) -> None:
    with pytest.raises(typer.Exit):
        _duration(after)
