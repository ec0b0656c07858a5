import hashlib
import json
import resource
import signal
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onbook.cli.enhance_results import ResultsFile, ResultsUnusable
from server import ADMIN_KEY, ONBOOK, Server, environment, served
from support_cli import done_lines, enhance, free_url, records


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One database for the commands that only add rows to it."""
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served("serve", tmp_path_factory.mktemp("served")) as started:
        yield started


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"\xef\xbb\xbfa kite\r\n\n   \na boat\n" + b"x" * 9000 + b"\na last line")
    return path


def test_a_file_is_enhanced_and_only_what_failed_is_tried_again(
    data_dir: Path, prompts: Path
) -> None:
    output = prompts.with_name("prompts.txt.enhanced.jsonl")
    first = enhance(data_dir, "--file", prompts, code=1)
    assert first.stdout == b""
    assert b"3 enhanced, 1 failed, 0 done before" in first.stderr
    found = {record["line"]: record for record in records(output)}
    assert sorted(found) == [1, 4, 5, 6]  # type: ignore[type-var]  # lines are numbers
    assert found[1]["original_prompt"] == "a kite"
    assert found[6]["original_prompt"] == "a last line"
    assert found[4]["prompt_sha256"] == hashlib.sha256(b"a boat").hexdigest()
    assert (found[5]["success"], found[5]["error_code"]) == (False, "INVALID_PAYLOAD")

    second = enhance(data_dir, "--file", prompts, "--json", code=1)
    assert json.loads(second.stdout) == {
        "output": str(output),
        "total": 4,
        "skipped": 3,
        "enhanced": 0,
        "without_model": 0,
        "failed": 1,
    }
    assert [record["line"] for record in records(output)][4:] == [5]

    text = prompts.read_bytes().replace(b"x" * 9000, b"a short one").replace(b"a boat", b"a ship")
    prompts.write_bytes(text)
    enhance(data_dir, "--file", prompts)
    assert [record["original_prompt"] for record in records(output)[5:]] in (
        ["a ship", "a short one"],
        ["a short one", "a ship"],
    )
    assert b"4 done before" in enhance(data_dir, "--file", prompts).stderr


def test_what_no_model_wrote_is_counted(data_dir: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "p"
    prompts.write_text("a kite\na boat\n")
    done = enhance(data_dir, "--file", prompts, ONBOOK_WORKER_URL="http://127.0.0.1:9")
    assert b"2 enhanced (2 without a model), 0 failed" in done.stderr


def test_a_torn_last_line_is_written_anew(data_dir: Path, tmp_path: Path) -> None:
    prompts, output = tmp_path / "p", tmp_path / "out"
    prompts.write_text("a kite\na boat\na ship\n")
    enhance(data_dir, "--file", prompts, "--output", output)
    output.write_bytes(output.read_bytes()[:-40])
    done = enhance(data_dir, "--file", prompts, "--output", output)
    assert b"incomplete" in done.stderr
    assert b"1 enhanced, 0 failed, 2 done before" in done.stderr
    assert done_lines(output) == [1, 2, 3]


def test_a_line_that_is_not_utf8_is_named_before_anything_is_done(
    data_dir: Path, tmp_path: Path
) -> None:
    prompts = tmp_path / "p"
    prompts.write_bytes(b"a kite\n\na b\xe9\n")
    done = enhance(data_dir, "--file", prompts, code=1)
    assert b"line 3" in done.stderr
    assert b"byte 4" in done.stderr
    assert list(tmp_path.iterdir()) == [prompts]


def test_files_that_are_not_results_are_left_alone(data_dir: Path, prompts: Path) -> None:
    letter = prompts.with_name("letter")
    for content in (b"Dear all,\n", b"Dear all", b'{"line": "x"}\n', b'{"line":1}\n{"line":2,'):
        letter.write_bytes(content)
        done = enhance(data_dir, "--file", prompts, "--output", letter, code=1)
        assert b"not a result" in done.stderr
        assert letter.read_bytes() == content
    before = prompts.read_bytes()
    enhance(data_dir, "--file", prompts, "--output", prompts, code=1)
    assert prompts.read_bytes() == before
    assert b"cannot be read" in enhance(data_dir, "--file", "nowhere", code=1).stderr


def test_two_runs_do_not_write_one_file(data_dir: Path, prompts: Path) -> None:
    output = prompts.with_name("out")
    with ResultsFile(output, not_this=prompts):
        done = enhance(data_dir, "--file", prompts, "--output", output, code=1)
    assert b"another run" in done.stderr
    assert output.read_bytes() == b""


def test_what_would_fail_for_every_line_stops_the_run(
    server: Server, data_dir: Path, prompts: Path
) -> None:
    output = prompts.with_name("out")
    for url in (server.url, free_url()):
        done = enhance(
            data_dir, "--file", prompts, "--output", output, "--url", url, "--key", "no", code=1
        )
        assert b"go on with the rest" in done.stderr
        assert output.read_bytes() == b""
    done = enhance(
        data_dir, "--file", prompts, "--output", output, "--url", server.url, code=1,
        ONBOOK_KEY=ADMIN_KEY,
    )  # fmt: skip
    assert done_lines(output) == [1, 4, 6]


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(
    server: Server, data_dir: Path, tmp_path: Path
) -> None:
    prompts, output = tmp_path / "p", tmp_path / "out"
    prompts.write_text("a kite\na boat\na ship\n")
    body = enhance(data_dir, "a kite", "--json", "--url", server.url, "--key", ADMIN_KEY).stdout
    asked, released, calls = threading.Event(), threading.Event(), []

    class AnswersOnce(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            calls.append(self.path)
            if len(calls) > 1:
                asked.set()
                released.wait(30)
                return
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), AnswersOnce) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        run = subprocess.Popen(
            [ONBOOK, "enhance", "--file", prompts, "--output", output],
            env=environment(
                ONBOOK_URL=f"http://127.0.0.1:{http.server_address[1]}", ONBOOK_SLOTS="1"
            ),
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert asked.wait(30)
            run.send_signal(signal.SIGINT)
            _, said = run.communicate(timeout=30)
        finally:
            run.kill()
            released.set()
            http.shutdown()
            thread.join()
    assert run.returncode == 130
    assert "1 enhanced, 0 failed" in said
    assert "Run the same command again" in said
    assert "Traceback" not in said
    assert done_lines(output) == [1]
    enhance(data_dir, "--file", prompts, "--output", output)
    assert done_lines(output) == [1, 2, 3]


@given(st.integers(min_value=0), st.integers(min_value=0, max_value=40))
def test_a_crash_at_any_byte_loses_no_whole_line(
    tmp_path_factory: pytest.TempPathFactory, cut: int, zeros: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "any-byte"
    path.unlink(missing_ok=True)
    prompts = path.with_name("prompts")
    prompts.touch()
    lines = []
    with ResultsFile(path, not_this=prompts) as results:
        for number in range(1, 4):
            record = {"line": number, "prompt_sha256": "a" * number, "success": number != 2}
            results.append(record)
            lines.append(msgspec.json.encode(record) + b"\n")
    data = b"".join(lines)
    assert path.read_bytes() == data
    cut %= len(data) + 1
    whole = data[:cut].rpartition(b"\n")
    kept = whole[0] + whole[1]
    torn = data[cut : cut + 1] != b"" and (whole[2] + b"\0" * zeros) != b""
    path.write_bytes(data[:cut] + (b"\0" * zeros if torn else b""))

    with ResultsFile(path, not_this=prompts) as results:
        assert results.repaired == torn
        assert results.done == {
            (number, "a" * number) for number in (1, 3) if number <= kept.count(b"\n")
        }
    assert path.read_bytes() == kept


def test_a_disk_that_refuses_leaves_the_lines_whole(tmp_path: Path) -> None:
    path = tmp_path / "out"
    record: dict[str, object] = {"line": 1, "prompt_sha256": "a", "success": True}
    with ResultsFile(path, not_this=tmp_path / "prompts") as results:
        results.append(record)
        before = path.read_bytes()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, hard))
        try:
            with pytest.raises(ResultsUnusable, match="cannot be written"):
                results.append(record)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert path.read_bytes() == before
        results.append(record)
    assert path.read_bytes() == before * 2
