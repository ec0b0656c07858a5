import json
import os
import pty
import resource
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from model_hub import COMMIT, FILE, REPOSITORY, Hub, Stored, model_hub, tiny_gguf
from onbook.worker.model_file import PACKAGED_MODEL, PACKAGED_SHA256, packaged_model
from onbook.worker.models import (
    ModelNotFoundError,
    find_model,
    manifest_path,
    models_dir,
    read_manifest,
    stated_sha256,
)
from server import eventually
from support_model import arguments, pull, run

NAME = FILE.removesuffix(".gguf")
TOKEN = "hf_a-token-of-the-tests"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with model_hub() as made:
        made.files[FILE] = Stored(tiny_gguf())
        yield made


def test_a_model_is_pulled_listed_verified_and_found(hub: Hub, tmp_path: Path) -> None:
    said = pull(hub, tmp_path, f"{REPOSITORY}:q4_k_m")
    path = tmp_path / "models" / FILE
    stored = hub.files[FILE]
    assert path.read_bytes() == stored.content
    assert f"onbook serve --model {NAME}" in said
    manifest = read_manifest(path)
    assert manifest is not None
    assert (manifest.repository, manifest.revision) == (REPOSITORY, COMMIT)
    assert (manifest.sha256, manifest.size_bytes) == (stored.sha256, stored.size)
    assert (manifest.quantisation, manifest.licence) == ("Q4_K_M", "apache-2.0")
    rows = json.loads(run("list", "--json", "--data-dir", tmp_path).stdout)["models"]
    (row,) = [row for row in rows if row["name"] == NAME]
    assert (row["architecture"], row["context"], row["chosen"]) == ("tiny", 512, False)
    assert (row["sha256"], row["size_bytes"]) == (stored.sha256, stored.size)
    table = run("list", "--data-dir", tmp_path, ONBOOK_MODEL_PATH=NAME).stdout
    (starred,) = [line for line in table.splitlines() if line.startswith("*")]
    assert starred.split()[1:4] == [NAME, "Q4_K_M", "1"]
    checked = json.loads(run("verify", "--json", "--data-dir", tmp_path).stdout)["models"]
    assert {one["name"]: one["status"] for one in checked}[NAME] == "ok"
    for name in (NAME, NAME.upper(), FILE, REPOSITORY, f"{REPOSITORY}:Q4_K_M"):
        assert find_model(name, tmp_path) == path
    assert stated_sha256(path) == stored.sha256


def test_a_second_pull_fetches_nothing(hub: Hub, tmp_path: Path) -> None:
    pull(hub, tmp_path, REPOSITORY)
    # As after a kill between the file's name and its manifest.
    manifest_path(tmp_path / "models" / FILE).unlink()
    hub.seen.clear()
    for _ in range(2):
        assert "is installed already" in pull(hub, tmp_path, REPOSITORY)
    assert hub.asked("storage") == []
    assert read_manifest(tmp_path / "models" / FILE) is not None


def test_a_new_version_replaces_and_another_repository_does_not(hub: Hub, tmp_path: Path) -> None:
    pull(hub, tmp_path, REPOSITORY)
    hub.files[FILE] = Stored(tiny_gguf(seed=2))
    pull(hub, tmp_path, REPOSITORY)
    path = tmp_path / "models" / FILE
    assert path.read_bytes() == hub.files[FILE].content
    hub.files[FILE], hub.repository = Stored(tiny_gguf(seed=3)), "Other/Tiny-GGUF"
    assert "give this one a name with --as" in pull(hub, tmp_path, hub.repository, code=1)
    assert path.read_bytes() != hub.files[FILE].content
    pull(hub, tmp_path, hub.repository, "--as", "other")
    assert find_model("other", tmp_path).read_bytes() == hub.files[FILE].content
    assert "cannot be used here" in pull(hub, tmp_path, hub.repository, "--as", "../x", code=1)


def test_kill_9_in_the_middle_and_the_next_pull_goes_on(hub: Hub, tmp_path: Path) -> None:
    hub.hold_after = 512 * 1024
    process = subprocess.Popen(
        **arguments("pull", REPOSITORY, "--data-dir", tmp_path, hub=hub),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert hub.holding.wait(60)
        (part,) = (tmp_path / "models").glob(".*.part")
        eventually(lambda: part.stat().st_size == 512 * 1024, "the first half is written", 10)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    assert not (tmp_path / "models" / FILE).exists()
    assert FILE not in run("list", "--data-dir", tmp_path).stdout
    hub.hold_after = None
    hub.go_on.set()
    hub.seen.clear()
    done = run("pull", REPOSITORY, "--data-dir", tmp_path, hub=hub)
    assert "Going on after 0.5 of 1.0 MiB." in done.stderr
    assert [one.headers["range"] for one in hub.asked("storage")] == ["bytes=524288-"]
    assert (tmp_path / "models" / FILE).read_bytes() == hub.files[FILE].content
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == sorted(
        [FILE, f"{FILE}.json", f".{FILE}.lock"]
    )


def test_two_pulls_at_once_fetch_it_once(hub: Hub, tmp_path: Path) -> None:
    hub.hold_after = 256 * 1024
    processes: list[subprocess.Popen[str]] = []
    said: list[str] = []

    def follow(stream: Iterator[str]) -> None:
        said.extend(stream)

    try:
        for _ in range(2):
            process: subprocess.Popen[str] = subprocess.Popen(
                **arguments("pull", REPOSITORY, "--data-dir", tmp_path, hub=hub),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            processes.append(process)
            assert process.stderr is not None
            threading.Thread(target=follow, args=(process.stderr,), daemon=True).start()
            assert hub.holding.wait(60)
        eventually(lambda: any("waiting for it" in line for line in said), "the second waits", 30)
        hub.go_on.set()
        assert [process.wait(30) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
            process.wait(10)
            assert process.stderr is not None
            process.stderr.close()
    assert len(hub.asked("storage")) == 1
    assert (tmp_path / "models" / FILE).read_bytes() == hub.files[FILE].content


def test_digests_must_agree_before_anything_is_fetched(hub: Hub, tmp_path: Path) -> None:
    sha256 = hub.files[FILE].sha256 or ""
    refused = pull(hub, tmp_path, REPOSITORY, "--sha256", "0" * 64, code=1)
    assert "not the one of --sha256; nothing was pulled" in refused
    assert "64 hexadecimal digits" in pull(hub, tmp_path, REPOSITORY, "--sha256", "abc", code=1)
    hub.states_digests = False
    assert "states no SHA-256" in pull(hub, tmp_path, REPOSITORY, code=1)
    assert hub.asked("storage") == []
    pull(hub, tmp_path, REPOSITORY, "--sha256", sha256.upper(), "--revision", "release/1")
    assert find_model(NAME, tmp_path).is_file()


def test_a_file_that_is_no_model_is_not_installed(hub: Hub, tmp_path: Path) -> None:
    hub.files[FILE] = Stored(b"<html>not a model</html>")
    assert "no whole GGUF model" in pull(hub, tmp_path, REPOSITORY, code=1)
    assert [path.name for path in (tmp_path / "models").iterdir()] == [f".{FILE}.lock"]


def test_no_network_is_one_sentence(tmp_path: Path) -> None:
    nobody = Hub(url="http://127.0.0.1:9")
    said = pull(nobody, tmp_path, REPOSITORY, code=1)
    assert said.startswith("onbook: 127.0.0.1 cannot be reached; check the network")
    assert "ONBOOK_MODEL_PATH" in said
    no_hub = run("pull", REPOSITORY, "--data-dir", tmp_path, code=2, ONBOOK_MODEL_HUB_URL="x")
    assert "ONBOOK_MODEL_HUB_URL" in no_hub.stderr


def test_a_disk_that_refuses_is_one_sentence(hub: Hub, tmp_path: Path) -> None:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done: subprocess.CompletedProcess[str] = subprocess.run(
        **arguments("pull", REPOSITORY, "--data-dir", tmp_path, hub=hub),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=small_files,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("cannot be written: File too large.")
    assert not (tmp_path / "models" / FILE).exists()


def test_the_token_is_used_and_never_shown(hub: Hub, tmp_path: Path) -> None:
    hub.token = TOKEN
    assert "set ONBOOK_MODEL_HUB_TOKEN" in pull(hub, tmp_path, REPOSITORY, code=1)
    done = run("pull", REPOSITORY, "--data-dir", tmp_path, hub=hub, ONBOOK_MODEL_HUB_TOKEN=TOKEN)
    wrong = run(
        *("pull", REPOSITORY, "--data-dir", tmp_path),
        hub=hub,
        code=1,
        ONBOOK_MODEL_HUB_TOKEN=TOKEN + "x",
    )
    assert "that the token may read it" in wrong.stderr
    assert [one.headers.get("authorization") for one in hub.asked("storage")] == [None]
    written = [path.read_bytes() for path in (tmp_path / "models").iterdir()]
    assert TOKEN not in done.stdout + done.stderr + wrong.stdout + wrong.stderr
    assert not any(TOKEN.encode() in data for data in written)


def test_a_terminal_gets_a_bar_and_a_pipe_lines(hub: Hub, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    shown = bytearray()

    def read() -> None:
        try:
            while data := os.read(ours, 65_536):
                shown.extend(data)
        except OSError:
            # The other end is closed.
            return

    reader = threading.Thread(target=read)
    reader.start()
    try:
        process = subprocess.Popen(
            **arguments("pull", REPOSITORY, "--data-dir", tmp_path, hub=hub, TERM="xterm"),
            stdout=subprocess.DEVNULL,
            stderr=theirs,
        )
        os.close(theirs)
        assert process.wait(60) == 0
    finally:
        reader.join(10)
        os.close(ours)
    assert b"\x1b[" in shown
    assert b"KiB" in shown
    hub.files[FILE] = Stored(tiny_gguf(seed=2))
    plain = run("pull", REPOSITORY, "--data-dir", tmp_path, hub=hub).stderr
    assert "\x1b" not in plain
    assert "100 % of 1.0 MiB" in plain


def test_a_changed_model_is_found_out(hub: Hub, tmp_path: Path) -> None:
    pull(hub, tmp_path, REPOSITORY)
    path = tmp_path / "models" / FILE
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    done = run("verify", NAME, "--data-dir", tmp_path, code=1)
    assert done.stdout.startswith("changed")
    assert "not the stated" in done.stdout
    path.write_bytes(bytes(data[:100]))
    manifest_path(path).unlink()
    assert run("verify", NAME, "--data-dir", tmp_path, code=1).stdout.startswith("damaged")
    assert "damaged" in run("list", "--data-dir", tmp_path).stdout
    path.write_bytes(bytes(data))
    # Nobody stated a digest: that is not the same as being right.
    assert run("verify", NAME, "--data-dir", tmp_path, code=1).stdout.startswith("unknown")
    missing = run("verify", "no-such-model", "--data-dir", tmp_path, code=2)
    assert "there is no model no-such-model" in missing.stderr


def test_the_packaged_model_is_verified(tmp_path: Path) -> None:
    packaged = packaged_model()
    if packaged is None:
        pytest.skip("the packaged model is not installed")
    rows = json.loads(run("list", "--json", "--data-dir", tmp_path).stdout)["models"]
    assert [(row["packaged"], row["chosen"], row["sha256"]) for row in rows] == [
        (True, True, PACKAGED_SHA256)
    ]
    assert (rows[0]["architecture"], rows[0]["context"], rows[0]["quantisation"]) == (
        "llama",
        8192,
        "Q4_1",
    )
    assert run("verify", "--data-dir", tmp_path).stdout.startswith("ok")
    assert find_model(packaged.stem.lower(), tmp_path) == packaged
    elsewhere = tmp_path / "elsewhere.gguf"
    shutil.copy(packaged, elsewhere)
    chosen = partial(
        run, ONBOOK_MODEL_PATH=str(elsewhere), ONBOOK_MODEL_SHA256=PACKAGED_SHA256, code=0
    )
    rows = json.loads(chosen("list", "--json", "--data-dir", tmp_path).stdout)["models"]
    assert [(row["name"], row["chosen"]) for row in rows] == [
        (packaged.stem, False),
        ("elsewhere", True),
    ]
    assert chosen("verify", elsewhere, "--data-dir", tmp_path).stdout.startswith("ok")


def test_the_catalogue_is_listed(tmp_path: Path) -> None:
    available = json.loads(run("list", "--available", "--json").stdout)["available"]
    table = run("list", "--available").stdout
    assert len(available) > 3
    assert all(one["name"] in table and one["good_for"] in table for one in available)
    assert "There is no model" not in run("list", "--data-dir", tmp_path).stderr


def test_names_that_mean_two_models_or_none(tmp_path: Path) -> None:
    models = models_dir(tmp_path)
    models.mkdir()
    for name in ("a-q4_0.gguf", "a-q8_0.gguf"):
        (models / name).write_bytes(tiny_gguf(1000))
        quantisation = name[2:6].upper()
        manifest_path(models / name).write_text(
            json.dumps(
                {
                    "sha256": "0" * 64,
                    "size_bytes": 1000,
                    "repository": "o/a-GGUF",
                    "quantisation": quantisation,
                }
            )
        )
    with pytest.raises(ModelNotFoundError, match="More than one model is called o/a-GGUF"):
        find_model("o/a-GGUF", tmp_path)
    assert find_model("o/A-gguf:q8_0", tmp_path) == models / "a-q8_0.gguf"
    with pytest.raises(ModelNotFoundError, match="'onbook model pull' installs one"):
        find_model("b", tmp_path)
    with pytest.raises(ModelNotFoundError, match="There is no model file at"):
        find_model(tmp_path / "b.gguf", tmp_path)
    (models / "broken.gguf").write_bytes(b"GGUF")
    manifest_path(models / "broken.gguf").write_text("{")
    assert find_model("broken", tmp_path) == models / "broken.gguf"
    assert stated_sha256(models / "broken.gguf") is None
    assert PACKAGED_MODEL.endswith(".gguf")
