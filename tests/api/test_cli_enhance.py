import hashlib
import json
import resource
import signal
import socket
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
from onbook.wire.gateway_api import EnhanceResponse
from onbook.wire.problem import Problem
from server import ADMIN_KEY, ONBOOK, Server, environment, query, served

PROMPT = "a red kite over the dunes"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One database for the commands that only add rows to it."""
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served("serve", tmp_path_factory.mktemp("served")) as started:
        yield started


def enhance(
    data_dir: Path,
    *arguments: str | bytes | Path,
    code: int = 0,
    typed: bytes = b"",
    **options: str | None,
) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(
        [ONBOOK, "enhance", *arguments],
        env=environment(ONBOOK_BOOTSTRAP_KEY=None, ONBOOK_DATA_DIR=str(data_dir), **options),
        input=typed,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == code, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    return done


def answer(done: subprocess.CompletedProcess[bytes]) -> EnhanceResponse:
    return msgspec.json.decode(done.stdout, type=EnhanceResponse)


def records(path: Path) -> list[dict[str, object]]:
    assert path.read_bytes().endswith(b"\n")
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def done_lines(path: Path) -> list[object]:
    return sorted(record["line"] for record in records(path) if record["success"])  # type: ignore[type-var]  # lines are numbers


def free_url() -> str:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def test_json_is_the_answer_of_the_wire_and_the_row_is_written(data_dir: Path) -> None:
    done = enhance(data_dir, PROMPT, "--target", "sdxl", "--seed", "5", "--json")
    response = answer(done)
    assert done.stdout == msgspec.json.encode(response) + b"\n"
    assert response.original_prompt == PROMPT
    assert response.enhancement_metadata.seed == 5
    assert response.enhancement_metadata.integrity.status == "verified"
    rows = query(
        data_dir,
        f"SELECT caller, seed FROM enhancement_logs WHERE request_id = '{response.request_id}'",  # noqa: S608 - our own id
    )
    assert rows == [("cli", 5)]


def test_options_reach_the_request(data_dir: Path) -> None:
    options = ("--job-type", "wan_video", "--quality", "high", "--negative", "fog")
    response = answer(enhance(data_dir, PROMPT, *options, "--json"))
    meta = response.enhancement_metadata
    assert (meta.job_type, meta.target) == ("wan_video_high", "wan")
    assert response.negative_prompt is not None
    assert response.negative_prompt.endswith("fog")
    named = answer(enhance(data_dir, PROMPT, "--template", meta.template_name or "", "--json"))
    assert named.enhancement_metadata.template_name == meta.template_name


def test_a_person_reads_the_prompt_first_and_in_full(data_dir: Path) -> None:
    prompt = "a [bold] red kite, " + "a wide dune of pale sand, " * 9 + "(mist:1.2)"
    done = enhance(data_dir, prompt, "--target", "sdxl", COLUMNS="40")
    first, empty, *facts = done.stdout.decode().splitlines()
    assert first.startswith("a [bold] red kite, a wide dune")
    assert len(first) > 40
    assert empty == ""
    assert facts
    assert all(len(line) <= 40 and line == line.rstrip() for line in facts)
    joined = " ".join(" ".join(facts).split())
    assert " of 75 CLIP tokens" in joined
    assert "enhancement_sdxl_sfw, version 1" in joined
    assert "verified" in joined
    assert "\x1b" not in done.stdout.decode()
    assert b"echo engine" in done.stderr


def test_a_terminal_is_not_given_control_characters(data_dir: Path) -> None:
    shown = enhance(data_dir, "a kite \x1b[31m\x9b2J in red").stdout.decode()
    assert "\x1b" not in shown
    assert "\x9b" not in shown


def test_output_that_is_not_unicode(data_dir: Path) -> None:
    done = enhance(data_dir, "a kite über the sea", PYTHONIOENCODING="ascii")
    assert b"\\xfcber" in done.stdout
    assert b"#" in done.stdout


@pytest.mark.parametrize("arguments", [("-",), ()])
def test_the_prompt_comes_from_standard_input(data_dir: Path, arguments: tuple[str, ...]) -> None:
    done = enhance(data_dir, *arguments, "--json", typed=b"\xef\xbb\xbf" + PROMPT.encode() + b"\n")
    assert answer(done).original_prompt == PROMPT


@pytest.mark.parametrize(
    "arguments",
    [
        (PROMPT, "--file", "x"),
        (PROMPT, "--output", "x"),
        (PROMPT, "--quality", "best"),
        (PROMPT, "--seed", "many"),
        (PROMPT, "--url", "localhost"),
        (PROMPT, "--url", "http://localhost", "--key", "two words"),
        (b"\xff",),
    ],
)
def test_misuse_ends_with_2_and_touches_nothing(
    tmp_path: Path, arguments: tuple[str | bytes, ...]
) -> None:
    done = enhance(tmp_path / "data", *arguments, code=2)
    assert done.stdout == b""
    assert b"two words" not in done.stderr
    assert not (tmp_path / "data").exists()


def test_standard_input_that_is_no_text(tmp_path: Path) -> None:
    assert b"not UTF-8" in enhance(tmp_path, typed=b"\xff\xfe", code=2).stderr


def test_an_error_is_a_sentence_or_the_error_body(data_dir: Path) -> None:
    text = enhance(data_dir, PROMPT, "--job-type", "portrait", code=1)
    assert text.stdout == b""
    assert b"job type is not known" in text.stderr
    assert b"wan_video_fast" in text.stderr
    body = enhance(data_dir, PROMPT, "--job-type", "portrait", "--json", code=1).stdout
    problem = msgspec.json.decode(body, type=Problem)
    assert problem.error_code == "INVALID_JOB_TYPE"
    empty = enhance(data_dir, "  ", "--json", code=1).stdout
    assert msgspec.json.decode(empty, type=Problem).details == {
        "fields": ["prompt"],
        "reasons": {"prompt": "must not be empty"},
    }


def test_the_deployments_ceiling_holds_here_too(data_dir: Path) -> None:
    asked = (PROMPT, "--content-type", "nsfw", "--json")
    refused = msgspec.json.decode(enhance(data_dir, *asked, code=1).stdout, type=Problem)
    assert refused.error_code == "CONTENT_MODE_NOT_ALLOWED"
    allowed = answer(enhance(data_dir, *asked, ONBOOK_CONTENT_CEILING="nsfw"))
    assert allowed.enhancement_metadata.content_mode == "nsfw"


def test_without_a_worker_the_fallback_is_named_or_refused(data_dir: Path) -> None:
    url = free_url()
    shown = enhance(data_dir, PROMPT, ONBOOK_WORKER_URL=url).stdout.decode()
    assert "no model output was used" in shown
    assert "  Warning" in shown
    body = enhance(data_dir, PROMPT, "--no-fallback", "--json", code=1, ONBOOK_WORKER_URL=url)
    assert msgspec.json.decode(body.stdout, type=Problem).error_code == "WORKER_UNAVAILABLE"


def test_a_start_that_fails_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "onbook.db").write_bytes(b"not a database " * 100)
    done = enhance(tmp_path, PROMPT, "--json", code=1)
    assert msgspec.json.decode(done.stdout, type=Problem).error_code == "INTERNAL"
    assert b"not a SQLite database" in done.stderr


def test_a_server_answers_the_same(server: Server, tmp_path: Path, data_dir: Path) -> None:
    there = enhance(
        tmp_path / "data", PROMPT, "--seed", "5", "--json",
        ONBOOK_URL=server.url, ONBOOK_KEY=ADMIN_KEY,
    )  # fmt: skip
    here = enhance(data_dir, PROMPT, "--seed", "5", "--json")
    assert answer(there).enhanced_prompt == answer(here).enhanced_prompt
    assert list(json.loads(there.stdout)) == list(json.loads(here.stdout))
    assert there.stdout == msgspec.json.encode(answer(there)) + b"\n"
    assert not (tmp_path / "data").exists()


def test_a_wrong_key_and_a_server_that_is_away(server: Server, data_dir: Path) -> None:
    for url, code in ((server.url, "AUTH_REQUIRED"), (free_url(), "SERVER_UNREACHABLE")):
        done = enhance(data_dir, PROMPT, "--json", "--url", url, code=1, ONBOOK_KEY="wrong-key")
        assert msgspec.json.decode(done.stdout, type=Problem).error_code == code
        assert b"wrong-key" not in done.stdout + done.stderr


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
    lines = []
    with ResultsFile(path, not_this=path.with_name("prompts")) as results:
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

    with ResultsFile(path, not_this=path.with_name("prompts")) as results:
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


@pytest.mark.model
def test_the_packaged_model_for_real(tmp_path: Path) -> None:
    done = enhance(
        tmp_path, PROMPT, "--target", "sdxl", "--seed", "3", "--json", "--no-fallback",
        ONBOOK_WORKER_ENGINE=None,
    )  # fmt: skip
    meta = answer(done).enhancement_metadata
    assert meta.fallback_level == 0
    assert meta.integrity.status == "verified"
    assert PROMPT in answer(done).enhanced_prompt
    assert 0 < meta.token_count <= meta.token_limit == 75
    assert b"Loading the model" in done.stderr
