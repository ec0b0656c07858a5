"""Models that are damaged, of unknown origin or not wanted any more: none is a dead end."""

import os
import pty
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from model_hub import FILE, REPOSITORY, Hub, Stored, model_hub, tiny_gguf
from onbook.worker.model_file import packaged_model
from onbook.worker.models import manifest_path
from support_model import arguments, pull, run

NAME = FILE.removesuffix(".gguf")


@pytest.fixture
def hub() -> Iterator[Hub]:
    with model_hub() as made:
        made.files[FILE] = Stored(tiny_gguf())
        yield made


@pytest.mark.parametrize("how", ["a byte", "the end", "a byte and no manifest"])
def test_a_damaged_model_is_pulled_again(hub: Hub, tmp_path: Path, how: str) -> None:
    pull(hub, tmp_path, REPOSITORY)
    path = tmp_path / "models" / FILE
    whole = path.read_bytes()
    if how == "the end":
        path.write_bytes(whole[:1000])
    else:
        # The first byte: what stands there is no model any more.
        path.write_bytes(b"g" + whole[1:])
    if how.endswith("no manifest"):
        manifest_path(path).unlink()
    hub.seen.clear()
    assert "Installed" in pull(hub, tmp_path, REPOSITORY)
    assert path.read_bytes() == whole
    assert run("verify", NAME, "--data-dir", tmp_path).stdout.startswith("ok")


def test_verify_names_the_command_that_mends(hub: Hub, tmp_path: Path) -> None:
    pull(hub, tmp_path, REPOSITORY, "--as", "mine")
    path = tmp_path / "models" / "mine.gguf"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    said = run("verify", "mine", "--data-dir", tmp_path, code=1).stdout
    command = said.partition("run 'onbook model ")[2].partition("'")[0]
    pull(hub, tmp_path, *command.split()[1:])
    assert run("verify", "mine", "--data-dir", tmp_path).stdout.startswith("ok")


def test_force_pulls_over_a_whole_file_of_unknown_origin(hub: Hub, tmp_path: Path) -> None:
    pull(hub, tmp_path, REPOSITORY)
    path = tmp_path / "models" / FILE
    path.write_bytes(tiny_gguf(seed=9))
    manifest_path(path).unlink()
    assert "--force" in pull(hub, tmp_path, REPOSITORY, code=1)
    assert path.read_bytes() == tiny_gguf(seed=9)
    hub.seen.clear()
    for _ in range(2):
        pull(hub, tmp_path, REPOSITORY, "--force")
    assert len(hub.asked("storage")) == 2
    assert path.read_bytes() == hub.files[FILE].content


def test_a_model_is_removed_only_after_a_yes(hub: Hub, tmp_path: Path) -> None:
    pull(hub, tmp_path, REPOSITORY)
    path = tmp_path / "models" / FILE
    part = path.with_name(f".{path.name}.{'0' * 64}.part")
    part.write_bytes(b"x")
    refused = run("remove", NAME, "--data-dir", tmp_path, code=2)
    assert "give --yes" in refused.stderr
    assert path.exists()
    assert "Removed" in run("remove", NAME.upper(), "--yes", "--data-dir", tmp_path).stdout
    assert not path.exists()
    assert not manifest_path(path).exists()
    assert not part.exists()
    gone = run("remove", NAME, "--yes", "--data-dir", tmp_path, code=2)
    assert "there is no installed model" in gone.stderr
    packaged = packaged_model()
    if packaged is not None:
        kept = run("remove", packaged.stem, "--yes", "--data-dir", tmp_path, code=2)
        assert "came with the program" in kept.stderr
        assert packaged.exists()


@pytest.mark.parametrize(("answer", "stays"), [(b"n\n", True), (b"y\n", False)])
def test_a_terminal_is_asked(hub: Hub, tmp_path: Path, answer: bytes, *, stays: bool) -> None:
    pull(hub, tmp_path, REPOSITORY)
    ours, theirs = pty.openpty()
    try:
        os.write(ours, answer)
        done = subprocess.run(
            **arguments("remove", NAME, "--data-dir", tmp_path),
            stdin=theirs,
            capture_output=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert b"Delete " in done.stderr
    assert (done.returncode, (tmp_path / "models" / FILE).exists()) == (int(stays), stays)
