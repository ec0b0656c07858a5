"""The worker's key: made once, readable by its owner only, and never replaced in silence."""

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from onbook.wire.receipt import public_key_of
from onbook.worker.identity import IdentityError, load_or_create_key, worker_id_of

FILE = "worker_ed25519.key"


def _public(data_dir: Path) -> str:
    return public_key_of(load_or_create_key(data_dir))


def test_the_first_start_makes_a_key_that_only_its_owner_can_read(tmp_path: Path) -> None:
    data_dir = tmp_path / "new" / "data"
    load_or_create_key(data_dir)
    assert (data_dir / FILE).stat().st_mode & 0o777 == 0o600
    assert data_dir.stat().st_mode & 0o077 == 0
    assert [entry.name for entry in data_dir.iterdir()] == [FILE]


def test_the_mode_does_not_depend_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        load_or_create_key(tmp_path)
    finally:
        os.umask(before)
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600


def test_the_next_start_uses_the_same_key(tmp_path: Path) -> None:
    first = _public(tmp_path)
    written = (tmp_path / FILE).read_bytes()
    assert _public(tmp_path) == first
    assert (tmp_path / FILE).read_bytes() == written


def test_two_data_directories_are_two_workers(tmp_path: Path) -> None:
    one, other = load_or_create_key(tmp_path / "a"), load_or_create_key(tmp_path / "b")
    assert worker_id_of(one) != worker_id_of(other)


def test_the_id_follows_from_the_key() -> None:
    raw = bytes(range(32))
    ids = {worker_id_of(Ed25519PrivateKey.from_private_bytes(raw)) for _ in range(2)}
    assert len(ids) == 1
    [worker_id] = ids
    assert worker_id.startswith("worker-")
    assert len(worker_id) == len("worker-") + 12


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"zz" * 32, b"00" * 31, b"00" * 33, b"0" * 63, b"\xff" * 64, b"\0" * 32],
)
def test_a_damaged_key_is_an_error_and_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / FILE
    path.write_bytes(content)
    with pytest.raises(IdentityError, match="damaged") as caught:
        load_or_create_key(tmp_path)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == content


def test_a_place_that_cannot_hold_a_key_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(IdentityError, match="cannot be used"):
        load_or_create_key(tmp_path / "file")
    (tmp_path / FILE).mkdir()
    with pytest.raises(IdentityError, match="cannot be used"):
        load_or_create_key(tmp_path)


def test_a_draft_left_by_a_killed_process_is_not_in_the_way(tmp_path: Path) -> None:
    # In a container every start has the same process id.
    stem = FILE.removesuffix(".key")
    (tmp_path / f"{stem}.{os.getpid()}").write_text("half")
    _public(tmp_path)


def test_no_draft_is_left_where_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(IdentityError, match="No space left"):
        load_or_create_key(tmp_path)
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
from onbook.wire.receipt import public_key_of
from onbook.worker.identity import load_or_create_key
for line in sys.stdin:
    sys.stdout.write(public_key_of(load_or_create_key(Path(line.strip()))) + "\\n")
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
            assert [entry.name for entry in data_dir.iterdir()] == [FILE]


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
