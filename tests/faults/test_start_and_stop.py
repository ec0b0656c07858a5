import json
import os
import re
import signal
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from server import ONBOOK, ended, enhance, environment, killed, query, served, start


def logged(data_dir: Path) -> list[str]:
    return [str(row[0]) for row in query(data_dir, "SELECT request_id FROM enhancement_logs")]


def test_the_first_start_prints_a_key_once_and_it_works(tmp_path: Path) -> None:
    outputs = []
    for _ in range(2):
        with served("serve", tmp_path, ONBOOK_BOOTSTRAP_KEY=None) as server:
            found = re.findall(r"onb_\S{40,}", server.output)
            outputs.append(server.output)
            if found:
                key = found[0].rstrip("\\'\"")
                assert enhance(server.url, key=key)["success"] is True
    assert "shown this once" in outputs[0]
    assert "onb_" not in outputs[1]
    assert key.encode() not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_a_short_bootstrap_key_works_with_a_warning_and_an_empty_one_is_none(
    tmp_path: Path,
) -> None:
    with served("serve", tmp_path / "short", ONBOOK_BOOTSTRAP_KEY="short") as server:
        assert enhance(server.url, key="short")["success"] is True
        assert "ONBOOK_BOOTSTRAP_KEY is short" in server.output
    with served("serve", tmp_path / "empty", ONBOOK_BOOTSTRAP_KEY="") as server:
        assert "shown this once" in server.output


@pytest.mark.parametrize("with_signal", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_drains_and_loses_nothing(tmp_path: Path, with_signal: signal.Signals) -> None:
    with served("serve", tmp_path) as server:
        answers: list[str] = []
        failures: list[str] = []
        stopping = threading.Event()

        def call() -> None:
            while not stopping.is_set():
                try:
                    answers.append(str(enhance(server.url)["request_id"]))
                except OSError as error:
                    if not stopping.is_set():
                        failures.append(str(error))
                    return

        callers = [threading.Thread(target=call) for _ in range(4)]
        for caller in callers:
            caller.start()
        while len(answers) < 40 and not failures:
            stopping.wait(0.01)
        stopping.set()
        code = server.stop(with_signal)
        for caller in callers:
            caller.join()
    assert not failures
    assert code in (0, -signal.SIGTERM)
    assert "Traceback" not in server.output
    assert set(answers) <= set(logged(tmp_path))


def test_a_taken_port_ends_with_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        code, sentence, lines = ended(tmp_path, "--port", port)
    assert (code, len(lines)) == (1, 1)
    assert sentence == (
        f"onbook: port {port} on 127.0.0.1 is already in use; choose another with --port."
    )


def test_a_database_from_a_newer_version_ends_with_one_sentence(tmp_path: Path) -> None:
    with served("serve", tmp_path):
        pass
    query(tmp_path, "UPDATE alembic_version SET version_num = '2099_01_01_future'")
    code, sentence, lines = ended(tmp_path, "--port", "0")
    assert (code, len(lines)) == (1, 1)
    assert "newer version" in sentence


def test_a_file_that_is_no_database_ends_with_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "onbook.db").write_bytes(b"this is no database at all " * 1000)
    code, sentence, lines = ended(tmp_path, "--port", "0")
    assert (code, len(lines)) == (1, 1)
    assert "onbook.db" in sentence


def test_a_full_disk_is_told_and_no_answer_goes_out_without_its_row(tmp_path: Path) -> None:
    # A limit on the size of files is a full disk that a test can have without being root.
    limited = ("/bin/sh", "-c", 'ulimit -f 16; exec "$0" "$@"')
    answers = []

    def enhance_without_end(url: str) -> None:
        while True:
            answers.append(enhance(url))

    with killed(start("serve", tmp_path, through=limited)) as server:
        server.wait_ready()
        warnings = [line for line in server.output.splitlines() if "trying again" in line]
        with pytest.raises(urllib.error.HTTPError) as withheld:
            enhance_without_end(server.url)
        problem = json.loads(withheld.value.read())
        withheld.value.close()
    assert len(warnings) == 1
    assert "disk" in warnings[0]
    assert (withheld.value.code, problem["error_code"]) == (500, "INTERNAL")
    spooled = (tmp_path / "enhancement_logs.spool").read_bytes()
    assert spooled.count(b"\n") == len(answers) > 0


def test_a_data_directory_that_is_a_file_ends_with_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, sentence, lines = ended(tmp_path / "file", "--port", "0")
    assert (code, len(lines)) == (1, 1)
    assert sentence.startswith("onbook: ")


@pytest.mark.parametrize("content", [b"", b"GGUF", os.urandom(4096)])
def test_a_corrupt_model_file_ends_with_one_sentence(tmp_path: Path, content: bytes) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(content)
    code, sentence, lines = ended(
        tmp_path,
        "--port",
        "0",
        ONBOOK_WORKER_ENGINE="llama_cpp",
        ONBOOK_MODEL_PATH=str(model),
    )
    assert (code, len(lines)) == (1, 1)
    assert str(model) in sentence


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"ONBOOK_PORT": "http"}, "ONBOOK_PORT"),
        ({"ONBOOK_WORKER_TIMEOUT_S": "-1"}, "ONBOOK_WORKER_TIMEOUT_S"),
        ({"ONBOOK_WORKER_ENGINE": "gpt"}, "ONBOOK_WORKER_ENGINE"),
        ({"ONBOOK_CONTENT_CEILING": "all"}, "ONBOOK_CONTENT_CEILING"),
    ],
)
def test_a_wrong_setting_is_named_and_its_value_is_not(
    tmp_path: Path, options: dict[str, str], named: str
) -> None:
    code, sentence, lines = ended(tmp_path, **options)
    assert (code, len(lines)) == (2, 1)
    assert named in sentence
    assert not any(f"'{value}'" in sentence for value in options.values())


def test_a_worker_beyond_loopback_needs_a_key(tmp_path: Path) -> None:
    done = subprocess.run(
        [ONBOOK, "worker", "--host", "0.0.0.0", "--port", "0", "--data-dir", str(tmp_path)],  # noqa: S104 - it must refuse
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "ONBOOK_WORKER_KEY" in done.stderr


def test_beyond_loopback_the_embedded_worker_is_closed_to_strangers(tmp_path: Path) -> None:
    # Listening on every address is the case; the test itself calls on loopback.
    with served("serve", tmp_path, "--host", "0.0.0.0") as server:  # noqa: S104 - see above
        for path, body in (("/worker/info", None), ("/enhance", b"{}"), ("/metrics", None)):
            request = urllib.request.Request(server.url + path, body)  # noqa: S310 - our server
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(request, timeout=30)  # noqa: S310 - as above
            assert refused.value.code == 401
            refused.value.close()
        answer = enhance(server.url)["enhancement_metadata"]
    assert isinstance(answer, dict)
    assert (answer["fallback_level"], answer["integrity"]["status"]) == (0, "verified")


def test_the_workers_own_routes_can_be_turned_off(tmp_path: Path) -> None:
    with served("serve", tmp_path, ONBOOK_EXPOSE_WORKER="false") as server:
        with pytest.raises(urllib.error.HTTPError) as missing:
            urllib.request.urlopen(server.url + "/worker/info", timeout=30)  # noqa: S310 - ours
        assert missing.value.code == 404
        missing.value.close()
        answer = enhance(server.url)["enhancement_metadata"]
    assert isinstance(answer, dict)
    assert answer["fallback_level"] == 0


def test_gateway_and_worker_run_as_processes_of_their_own(tmp_path: Path) -> None:
    with (
        served("worker", tmp_path / "w", ONBOOK_WORKER_KEY="a-worker-key") as worker,
        served(
            "gateway",
            tmp_path / "g",
            "--worker-url",
            worker.url,
            ONBOOK_WORKER_KEY="a-worker-key",
        ) as gateway,
    ):
        verified = enhance(gateway.url)
        worker.stop(signal.SIGKILL)
        alone = enhance(gateway.url)
    data = verified["enhancement_metadata"]
    assert isinstance(data, dict)
    assert (data["fallback_level"], data["integrity"]["status"]) == (0, "verified")
    assert alone["enhancement_strategy"] == "rules"
    assert len(logged(tmp_path / "g")) == 2
