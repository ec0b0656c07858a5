import io
import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace
from rich.console import Console

from onbook.cli.enhance_output import show
from onbook.wire.problem import Problem
from server import ADMIN_KEY, Server, query, served
from support_cli import answer, enhance, free_url

PROMPT = "a red kite over the dunes"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One database for the commands that only add rows to it."""
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served("serve", tmp_path_factory.mktemp("served")) as started:
        yield started


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


def test_variables_fill_in_the_template(data_dir: Path) -> None:
    sql = (
        "INSERT INTO prompt_templates (template_name, model_type, use_case, content_mode, target,"
        " system_prompt, token_limit, token_unit, variables) VALUES ('with_variables', 'mine',"
        " 'enhancement', 'sfw', 'sdxl', 'In {{mood}}, {{n}} times.', 75, 'clip',"
        ' \'[{"name": "mood", "required": true}, {"name": "n", "type": "integer"}]\')'
    )
    enhance(data_dir, PROMPT)
    query(data_dir, sql)
    named = ("--template", "with_variables", "--template-version", "1", "--json")
    done = answer(enhance(data_dir, PROMPT, *named, "--var", "mood=a=b", "--var", "n:=3"))
    (sent,) = query(
        data_dir,
        f"SELECT messages FROM enhancement_texts WHERE request_id = '{done.request_id}'",  # noqa: S608 - our own id
    )
    assert "In a=b, 3 times." in str(sent[0])
    missing = enhance(data_dir, PROMPT, *named, code=1)
    assert b"variables.mood" in missing.stderr


@pytest.mark.parametrize(
    "given", [["mood"], ["=x"], ["n:=text"], ["n:=[1]"], ["n:="], ["a=1", "a=2"]]
)
def test_a_variable_that_is_none_is_explained(data_dir: Path, given: list[str]) -> None:
    options = [part for item in given for part in ("--var", item)]
    done = enhance(data_dir, PROMPT, *options, code=2)
    assert done.stderr.startswith(b"onbook: --var ")


def test_a_person_reads_the_prompt_first_and_in_full(data_dir: Path) -> None:
    prompt = "a [bold] red kite, " + "a wide dune of pale sand, " * 3 + "(mist:1.2)"
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
    # A server elsewhere may answer anything.
    hostile = "a kite\x1b[31m\x9b2J\x07 in\tred"
    harmless = answer(enhance(data_dir, PROMPT, "--json"))
    meta = replace(harmless.enhancement_metadata, kept=[hostile], warnings=[hostile])
    meta = replace(meta, template_name=hostile, model_used=hostile)
    response = replace(harmless, enhanced_prompt=hostile, enhancement_metadata=meta)
    out = io.StringIO()
    show(response, Console(file=out, width=80))
    assert out.getvalue().count("\ufffd[31m\ufffd2J\ufffd") == 5
    assert not set(out.getvalue()) & {"\x1b", "\x9b", "\x07"}


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
