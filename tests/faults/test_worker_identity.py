"""The worker's keys: made once, readable by their owner only, and never replaced in silence."""

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from onbook.adapters.files.signing_keys import WORKER_KEYS_FILE, load_ring, save_ring
from onbook.wire.signing import decoded_ring, encoded_ring, new_ring, signer_of, trusted_keys
from onbook.worker.identity import (
    FOLLOW_S,
    KEYS_FILE,
    SINGLE_KEY_FILE,
    IdentityError,
    WorkerKeys,
    load_or_create_keys,
)

NOW = datetime(2027, 1, 15, tzinfo=UTC)


class Clocks:
    """A wall clock and a steady one, both in the test's hand."""

    def __init__(self) -> None:
        self.now = NOW
        self.seconds = 0.0

    def keys(self, path: Path) -> WorkerKeys:
        return WorkerKeys(path, now=lambda: self.now, monotonic=lambda: self.seconds)

    def pass_by(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        self.seconds += seconds


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ring of one key, made an hour ago."""
    path = tmp_path / KEYS_FILE
    path.write_bytes(encoded_ring(new_ring("worker", at=NOW - timedelta(hours=1))))
    path.chmod(0o600)
    return path


def _public(data_dir: Path) -> str:
    return load_or_create_keys(data_dir).signer().public_key


def _rotate(path: Path, at: datetime) -> str:
    """Rotate as the command does, and return the new key."""
    ring = load_ring(path)
    assert ring is not None
    rotated = ring.rotated(not_before=at)
    save_ring(path, rotated)
    return rotated.published[-1].public_key


def test_both_programs_mean_the_same_file() -> None:
    assert KEYS_FILE == WORKER_KEYS_FILE


def test_the_first_start_makes_keys_that_only_their_owner_can_read(tmp_path: Path) -> None:
    data_dir = tmp_path / "new" / "data"
    load_or_create_keys(data_dir)
    assert (data_dir / KEYS_FILE).stat().st_mode & 0o777 == 0o600
    assert data_dir.stat().st_mode & 0o077 == 0
    assert [entry.name for entry in data_dir.iterdir()] == [KEYS_FILE]


def test_the_mode_does_not_depend_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        load_or_create_keys(tmp_path)
    finally:
        os.umask(before)
    assert (tmp_path / KEYS_FILE).stat().st_mode & 0o777 == 0o600


def test_the_next_start_uses_the_same_key(tmp_path: Path) -> None:
    first = _public(tmp_path)
    written = (tmp_path / KEYS_FILE).read_bytes()
    assert _public(tmp_path) == first
    assert (tmp_path / KEYS_FILE).read_bytes() == written


def test_two_data_directories_are_two_workers(tmp_path: Path) -> None:
    one, other = load_or_create_keys(tmp_path / "a"), load_or_create_keys(tmp_path / "b")
    assert one.owner != other.owner


def test_the_key_of_an_earlier_version_is_taken_over(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    single = tmp_path / SINGLE_KEY_FILE
    single.write_text(key.private_bytes_raw().hex() + "\n")
    kept = single.read_bytes()
    keys = load_or_create_keys(tmp_path)
    assert keys.signer().public_key == signer_of(key).public_key
    # The id that it had before.
    assert keys.owner == f"worker-{sha256(signer_of(key).public_key.encode()).hexdigest()[:12]}"
    assert single.read_bytes() == kept
    assert (tmp_path / KEYS_FILE).stat().st_mode & 0o777 == 0o600
    # From now on the ring counts, whatever becomes of the old file.
    single.write_text("damaged")
    assert _public(tmp_path) == signer_of(key).public_key


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"zz" * 32, b"00" * 31, b"00" * 33, b"0" * 63, b"\xff" * 64, b"\0" * 32],
)
def test_a_damaged_key_of_an_earlier_version_is_not_replaced(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / SINGLE_KEY_FILE
    path.write_bytes(content)
    with pytest.raises(IdentityError, match="damaged") as caught:
        load_or_create_keys(tmp_path)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == content
    assert not (tmp_path / KEYS_FILE).exists()


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"null", b"\xff", b"[" * 100_000, b"x" * 1_048_577]
)
def test_a_damaged_ring_is_an_error_and_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / KEYS_FILE
    path.write_bytes(content)
    with pytest.raises(IdentityError, match="damaged") as caught:
        load_or_create_keys(tmp_path)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == content


def test_a_ring_with_another_public_half_is_damaged(path: Path) -> None:
    ring = decoded_ring(path.read_bytes())
    other = new_ring("worker", at=NOW).published[0].public_key
    mixed = path.read_text().replace(ring.published[0].public_key, other)
    path.write_text(mixed)
    with pytest.raises(IdentityError, match="damaged") as caught:
        WorkerKeys(path)
    assert ring.keys[0].private_key not in str(caught.value)


def test_a_place_that_cannot_hold_keys_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(IdentityError, match="cannot be used"):
        load_or_create_keys(tmp_path / "file")
    (tmp_path / KEYS_FILE).mkdir()
    with pytest.raises(IdentityError, match="cannot be used"):
        load_or_create_keys(tmp_path)


def test_keys_that_others_can_read_are_named_in_the_log(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path.chmod(0o644)
    WorkerKeys(path)
    captured = capsys.readouterr()
    assert "secret_file_open_to_others" in captured.out + captured.err


def test_a_rotation_is_followed_while_the_worker_runs(path: Path, clocks: Clocks) -> None:
    keys = clocks.keys(path)
    first = keys.signer().public_key
    later = _rotate(path, NOW + timedelta(seconds=FOLLOW_S + 60))
    assert [key.public_key for key in keys.published] == [first]
    clocks.pass_by(FOLLOW_S)
    # It is announced before it is in use.
    assert [key.public_key for key in keys.published] == [first, later]
    assert keys.signer().public_key == first
    clocks.pass_by(60)
    assert keys.signer().public_key == later
    assert trusted_keys(keys.published, [first]) == {first, later}


def test_the_id_stays_when_keys_are_rotated(path: Path, clocks: Clocks) -> None:
    before = clocks.keys(path).owner
    _rotate(path, NOW - timedelta(minutes=1))
    keys = clocks.keys(path)
    assert (keys.owner, len(keys.published)) == (before, 2)


@pytest.mark.parametrize("content", [b"damaged", None])
def test_a_ring_that_is_lost_or_damaged_changes_nothing_while_the_worker_runs(
    path: Path, clocks: Clocks, content: bytes | None
) -> None:
    keys = clocks.keys(path)
    first = keys.signer().public_key
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    clocks.pass_by(FOLLOW_S)
    assert keys.signer().public_key == first


def test_another_workers_ring_is_not_followed(path: Path, clocks: Clocks) -> None:
    keys = clocks.keys(path)
    first = keys.signer().public_key
    save_ring(path, new_ring("worker", at=NOW - timedelta(hours=1)))
    clocks.pass_by(FOLLOW_S)
    assert keys.signer().public_key == first


def test_a_draft_left_by_a_killed_process_is_not_in_the_way(tmp_path: Path) -> None:
    # In a container every start has the same process id.
    stem = KEYS_FILE.removesuffix(".json")
    (tmp_path / f"{stem}.{os.getpid()}").write_text("half")
    _public(tmp_path)


def test_no_draft_is_left_where_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(IdentityError, match="No space left"):
        load_or_create_keys(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_threads_that_start_together_get_the_same_key(tmp_path: Path) -> None:
    barrier = threading.Barrier(8)
    keys: list[str] = []

    def start() -> None:
        barrier.wait(10)
        keys.append(_public(tmp_path))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 8
    assert len(set(keys)) == 1


_STARTER = """
import sys
from pathlib import Path
from onbook.worker.identity import load_or_create_keys
for line in sys.stdin:
    sys.stdout.write(load_or_create_keys(Path(line.strip())).signer().public_key + "\\n")
    sys.stdout.flush()
"""


def test_processes_that_start_together_get_the_same_key(tmp_path: Path) -> None:
    with ExitStack() as stack:
        starters = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", _STARTER],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    bufsize=1,
                )
            )
            for _ in range(2)
        ]
        for turn in range(50):
            data_dir = tmp_path / str(turn)
            assert _same_answer(f"{data_dir}\n", starters) == f"{_public(data_dir)}\n"
            assert [entry.name for entry in data_dir.iterdir()] == [KEYS_FILE]


def _same_answer(line: str, starters: Sequence["subprocess.Popen[str]"]) -> str:
    for starter in starters:
        assert starter.stdin is not None
        starter.stdin.write(line)
    answers = set()
    for starter in starters:
        assert starter.stdout is not None
        answers.add(starter.stdout.readline())
    [answer] = answers
    return answer
