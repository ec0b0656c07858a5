"""What goes wrong with ``onbook templates`` is one sentence, and nothing is half-written."""

from pathlib import Path

import pytest

from support_templates_cli import NAME, Shell, acknowledged, prepared, shell

__all__ = ["prepared", "shell"]


def one_sentence(text: str) -> str:
    lines = [line for line in text.splitlines() if line.startswith("onbook: ")]
    assert len(lines) == 1, text
    return lines[0]


@pytest.mark.parametrize(
    "command",
    [
        ("show", "enhancement_sdxl_sfv"),
        ("history", "enhancement_sdxl_sfv"),
        ("diff", "enhancement_sdxl_sfv"),
        ("export", "enhancement_sdxl_sfv"),
        ("test", "enhancement_sdxl_sfv"),
        ("split", "status", "enhancement_sdxl_sfv"),
        ("activate", "enhancement_sdxl_sfv", "2", "--reason", "a test"),
        ("rollback", "enhancement_sdxl_sfv", "--reason", "a test"),
        ("deactivate", "enhancement_sdxl_sfv", "--reason", "a test"),
        ("discard", "enhancement_sdxl_sfv", "2", "--reason", "a test"),
        ("split", "promote", "enhancement_sdxl_sfv", "--reason", "a test"),
    ],
    ids=" ".join,
)
def test_of_an_unknown_template_the_closest_name_is_suggested(
    shell: Shell, command: tuple[str, ...]
) -> None:
    said = one_sentence(shell.templates(*command, code=1).err)
    assert "no template enhancement_sdxl_sfv" in said
    assert f"Did you mean {NAME}?" in said


def test_a_name_like_no_other_points_to_the_list(shell: Shell) -> None:
    said = one_sentence(shell.templates("show", "zzz", code=1).err)
    assert "'onbook templates list' shows the names." in said


def test_an_unknown_version_points_to_the_history(shell: Shell) -> None:
    for command in (("show", NAME, "--version", "9"), ("diff", NAME, "1", "9")):
        said = one_sentence(shell.templates(*command, code=1).err)
        assert "no version 9" in said
        assert f"onbook templates history {NAME}" in said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("template_name = 'a'\nmodel_typo = 'b'\n", ("line 2", "model_typo")),
        ("template_name = 'a'\nmax_tokens = \n", ("line 2", "not TOML")),
        ("a = 'b\0'\n", ("line 1", "NUL")),
        (b"a = '\xff'\n", ("line 1", "UTF-8")),
        ("a = '" + "x" * 1_100_000 + "'\n", ("1024 KiB",)),
    ],
    ids=["unknown key", "syntax", "NUL", "not UTF-8", "too large"],
)
def test_a_bad_file_is_named_with_line_and_key(
    shell: Shell, text: str | bytes, says: tuple[str, ...]
) -> None:
    before = shell.dump()
    path = shell.file(text)
    for command in (("draft", path), ("diff", NAME, path), ("import", path)):
        reason = () if command[0] == "diff" else ("--reason", "a test")
        said = one_sentence(shell.templates(*command, *reason, code=1).err)
        assert "template.toml" in said
        assert all(part in said for part in says), said
    assert shell.dump() == before


def test_a_huge_prompt_is_refused_by_its_field(shell: Shell) -> None:
    path = shell.edited("You turn", "You " + "very " * 200_000 + "turn")
    before = shell.dump()
    said = one_sentence(shell.change("draft", path, code=1).err)
    assert "system_prompt" in said
    assert "very" not in said
    assert shell.dump() == before


def test_an_error_is_json_for_a_machine(shell: Shell) -> None:
    problem = shell.templates("show", "chat_sfv", "--json", code=1).json
    assert problem["error_code"] == "TEMPLATE_NOT_FOUND"
    assert problem["suggested_action"] == "Did you mean chat_sfw?"


@pytest.mark.parametrize(
    "command",
    [
        ("activate", NAME, "1"),
        ("rollback", NAME),
        ("deactivate", NAME),
        ("discard", NAME, "1"),
        ("split", "abort", NAME),
        ("split", "start", NAME, "1", "--percent", "5"),
    ],
    ids=" ".join,
)
def test_every_change_needs_a_reason(shell: Shell, command: tuple[str, ...]) -> None:
    before = shell.dump()
    assert "--reason" in shell.templates(*command, code=2).err
    for reason in ("", " ", "two\nlines", "x" * 501, "\x1b[31mred"):
        shell.templates(*command, "--reason", reason, code=2)
    assert shell.dump() == before


def test_misuse_ends_with_2(shell: Shell) -> None:
    file = shell.file("")
    for command in (
        ("diff", NAME, "0"),
        ("diff", NAME, str(2**31)),
        ("show", NAME, "--version", str(2**31)),
        ("activate", NAME, str(2**31), "--reason", "a test"),
        ("diff", NAME, str(file), "2"),
        ("test", NAME, "--version", "1", "--file", str(file)),
        ("test", NAME, "--file", str(file), "--url", "http://127.0.0.1:1"),
        ("test", NAME, "--version", "1", "--url", "ftp://nowhere"),
        ("split", "start", NAME, "1", "--percent", "100", "--reason", "a test"),
        ("activate", NAME, "1", "--reason", "a test", "--author", ""),
        ("activate", NAME, "1", "--reason", "r", "--author", "me", "--url", "http://127.0.0.1:1"),
        ("import", str(file), "--dry-run", "--activate"),
        ("import", str(file), str(file), "--name", "x"),
    ):
        shell.templates(*command, code=2)


def test_a_database_that_is_not_there_is_not_made(shell: Shell, tmp_path: Path) -> None:
    shell.settings["ONBOOK_DATA_DIR"] = str(tmp_path / "none")
    for command in (("list",), ("show", NAME), ("rollback", NAME, "--reason", "a test")):
        assert "no database" in one_sentence(shell.templates(*command, code=1).err)
    assert not (tmp_path / "none").exists()


def test_a_file_that_is_no_database_is_one_sentence(shell: Shell) -> None:
    for file in shell.data.glob("onbook.db*"):
        file.unlink()
    (shell.data / "onbook.db").write_bytes(b"not a database at all " * 100)
    said = one_sentence(shell.templates("list", code=1).err)
    assert "not a SQLite database" in said
    assert "onbook doctor" in said


def test_a_server_that_is_not_there_is_one_sentence(shell: Shell) -> None:
    done = shell.change("activate", NAME, "1", "--url", "http://127.0.0.1:9", code=1)
    assert "cannot be reached" in one_sentence(done.err)


def test_gateways_that_serve_a_change_are_named_and_those_that_do_not(shell: Shell) -> None:
    assert "No gateway" in shell.templates("gateways").err
    acknowledged(shell, "front-a:1", ahead=10)
    assert "Served by front-a:1" in shell.change("deactivate", NAME).out
    acknowledged(shell, "front-b:2", ahead=0)

    late = shell.change("activate", NAME, "1", "--timeout", "0.2", code=1)
    assert f"Version 1 of {NAME} is live" in late.out
    said = one_sentence(late.err)
    assert "1 live gateway did not acknowledge" in said
    assert "front-b:2; front-a:1 did" in said
    shown = {row["name"]: row for row in shell.templates("gateways", "--json").json["gateways"]}
    assert shown["front-b:2"]["epoch"] < shown["front-a:1"]["epoch"]
    table = shell.templates("gateways").out.splitlines()
    assert next(line for line in table if "front-b:2" in line).split()[1] == "behind"
    assert next(line for line in table if "front-a:1" in line).split()[1] == "live"

    answer = shell.change("deactivate", NAME, "--timeout", "0.2", "--json", code=1).json
    assert [item["name"] for item in answer["gateways"]["missing"]] == ["front-b:2"]
    assert shell.change("activate", NAME, "1", "--no-wait", "--json").json["gateways"] is None


def test_a_version_that_raw_sql_broke_is_shown_and_not_exported(shell: Shell) -> None:
    shell.query(
        "UPDATE prompt_templates SET examples_sent = 99 "
        "WHERE template_name = 'enhancement_sdxl_sfw'"
    )
    assert "examples_sent" in shell.templates("list").err
    shown = shell.templates("show", NAME).out
    assert "sql:local" in shown
    assert "examples_sent" in shown
    assert "breaks a rule" in one_sentence(shell.templates("export", NAME, code=1).err)
    assert "breaks a rule" in one_sentence(shell.templates("diff", NAME, "1", "2", code=1).err)
    assert "version = 1" in shell.templates("export", NAME, "--version", "1").out
