"""``onbook templates`` on a real SQLite book: from an exported file to a rollback."""

from pathlib import Path

import pytest

from support_templates_cli import NAME, Shell, prepared, shell

__all__ = ["prepared", "shell"]

TESTED = '\n[[tests]]\nname = "keeps the cat"\ninput = "a red cat"\nmust_keep = ["{word}"]\n'


def with_test(shell: Shell, word: str, limit: int = 70) -> Path:
    text = shell.exported().replace("token_limit = 75", f"token_limit = {limit}")
    assert f"token_limit = {limit}" in text
    return shell.file(text + TESTED.format(word=word))


def test_the_list_is_filtered_by_everything_that_picks_a_template(shell: Shell) -> None:
    def names(*options: str) -> list[str]:
        rows = shell.templates("list", "--json", *options).json["templates"]
        return [row["template_name"] for row in rows]

    everything = names()
    assert len(everything) == 12
    assert names("--target", "sdxl", "--content-mode", "sfw", "--use-case", "enhancement") == [NAME]
    assert set(names("--target", "universal")) == {
        name for name in everything if name.startswith(("chat", "playground"))
    }
    assert all("wan" in name for name in names("--model-type", "qwen_base"))
    assert names("--search", "PLAYGROUND_N") in ([], ["playground_nsfw"])
    assert names("--search", "playground_n") == ["playground_nsfw"]
    shell.change("deactivate", NAME)
    assert names("--inactive") == [NAME]
    assert set(names("--active")) == set(everything) - {NAME}
    assert names("--target", "nothing") == []
    assert "No template is like that" in shell.templates("list", "--target", "nothing").err


def test_in_a_pipe_a_table_has_one_full_line_per_row(shell: Shell) -> None:
    lines = shell.templates("list").out.splitlines()
    assert len(lines) == 13
    row = next(line for line in lines if line.startswith(f"{NAME} "))
    assert row.split()[1:7] == ["1", "active", "enhancement", "sfw", "sdxl", "qwen_instruct"]


def test_an_edit_from_export_to_rollback(shell: Shell) -> None:
    text = shell.exported()
    assert 'version = 1\ntemplate_name = "enhancement_sdxl_sfw"' in text
    path = shell.file(text.replace("You turn a short idea", "You turn a brief idea"))

    drafted = shell.change("draft", path)
    assert "Version 2" in drafted.out
    assert "[-short-]{+brief+} idea" in drafted.out
    assert "version = 1" in shell.exported()
    for compared in (("diff", NAME), ("diff", NAME, "1", "2"), ("diff", NAME, path)):
        shown = shell.templates(*compared).out
        assert "turn a [-short-]{+brief+} idea into" in shown
        assert "token_limit" not in shown
    (field,) = shell.templates("diff", NAME, "2", "--json").json["fields"]
    assert field["field"] == "system_prompt"
    new = "".join(word["text"] for word in field["words"] if word["op"] != "delete")
    assert (
        new
        == shell.templates("show", NAME, "--version", "2", "--json").json["content"][
            "system_prompt"
        ]
    )

    live = shell.templates("activate", NAME, "2", "--reason", "it is shorter", "--author", "ann")
    assert f"Version 2 of {NAME} is live, instead of version 1." in live.out
    assert "brief idea" in shell.exported()
    assert "version = 2" in shell.exported()

    back = shell.change("rollback", NAME)
    assert "Version 3" in back.out
    assert "restores version 1" in back.out
    assert shell.exported() == text.replace("version = 1", "version = 3", 1)

    found = shell.templates("history", NAME, "--json").json
    assert [(row["version"], row["state"]) for row in found["versions"]] == [
        (3, "live"),
        (2, "retired"),
        (1, "retired"),
    ]
    assert [row["content_sha256"] for row in found["versions"]][0::2] == [
        found["versions"][0]["content_sha256"]
    ] * 2
    actions = [(row["action"], row["actor"], row["reason"]) for row in found["events"]]
    assert ("activated", "ann", "it is shorter") in actions
    assert [action for action, *_ in actions] == ["rolled_back", "activated", "drafted", "created"]
    shown = shell.templates("history", NAME).out
    assert "it is shorter" in shown
    assert "(restores version 1)" in shown


def test_the_operating_system_names_the_author(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "marie")
    assert shell.drafted(shell.edited("a short idea", "an idea")) == 2
    assert shell.templates("show", NAME, "--version", "2", "--json").json["version"]["author"] == (
        "cli:marie"
    )


def test_a_draft_from_an_older_version_is_a_conflict(shell: Shell) -> None:
    stale = shell.edited("a short idea", "an idea")
    shell.change("activate", NAME, str(shell.drafted(shell.edited("75", "70"))))
    before = shell.dump()
    stale.write_text(stale.read_text().replace("token_limit = 70", "token_limit = 71"))
    assert "version = 1" in stale.read_text()
    refused = shell.change("draft", stale, code=1)
    assert "version 2 is live now" in refused.err
    assert shell.dump() == before


def test_what_is_live_already_makes_no_draft(shell: Shell) -> None:
    before = shell.dump()
    assert "unchanged" in shell.change("draft", shell.file(shell.exported())).out
    assert shell.dump() == before


def test_a_draft_from_standard_input(shell: Shell) -> None:
    text = shell.exported().replace("token_limit = 75", "token_limit = 60")
    done = shell.templates("draft", "-", "--reason", "a test", typed=text)
    assert "token_limit: [-75-]{+60+}" in done.out


def test_only_drafts_are_discarded(shell: Shell) -> None:
    assert shell.drafted(shell.edited("a short idea", "an idea")) == 2
    assert "is gone" in shell.change("discard", NAME, "2").out
    assert shell.query("SELECT count(*) FROM prompt_template_versions WHERE version = 2") == [(0,)]
    assert "never deleted" in shell.change("discard", NAME, "1", code=1).err


def test_tests_run_on_the_worker_and_decide_the_exit_code(shell: Shell) -> None:
    # The echo engine says the idea again.
    good = with_test(shell, "red cat")
    done = shell.templates("test", NAME, "--file", good)
    assert "Starting the embedded model for 1 test" in done.err
    assert "a red cat" in done.out
    shell.drafted(good)
    bad = with_test(shell, "blue dog", limit=71)
    failed = shell.templates("test", NAME, "--file", bad, code=1)
    assert "failed" in failed.out
    assert shell.drafted(bad) == 3

    tested = shell.templates("test", NAME, "--json", code=1).json
    assert (tested["version"], tested["passed"]) == (3, False)
    (case,) = tested["cases"]
    assert case["output"] is not None
    assert "a red cat" in case["output"]
    assert case["failures"]
    assert shell.templates("test", NAME, "--version", "2", "--json").json["passed"] is True
    assert "has no tests" in shell.templates("test", "chat_sfw").err
    # A gate is no gateway: the file for audit rows stays with the server that has it.
    assert not list(shell.data.glob("*.spool"))


def test_tests_of_an_nsfw_template_run_where_the_deployment_serves_nsfw(shell: Shell) -> None:
    adult = with_test(shell, "red cat")
    sfw, nsfw = 'content_mode = "sfw"', 'content_mode = "nsfw"'
    text = adult.read_text(encoding="utf-8")
    assert sfw in text
    adult.write_text(text.replace(sfw, nsfw), encoding="utf-8")
    refused = shell.templates("test", NAME, "--file", adult, code=1)
    assert "ONBOOK_CONTENT_CEILING is sfw" in refused.err
    assert "Starting" not in refused.err
    assert "a red cat" not in refused.out
    shell.settings["ONBOOK_CONTENT_CEILING"] = "nsfw"
    assert "a red cat" in shell.templates("test", NAME, "--file", adult).out


def test_failing_tests_close_the_gate_unless_it_is_overridden(shell: Shell) -> None:
    version = str(shell.drafted(with_test(shell, "blue dog")))
    before = shell.dump()
    refused = shell.change("activate", NAME, version, code=1)
    assert "keeps the cat" in refused.out
    assert "failed" in refused.out
    assert "--override" in refused.err
    problem = shell.change("activate", NAME, version, "--json", code=1).json
    assert (problem["error_code"], problem["success"]) == ("GATE_FAILED", False)
    assert shell.dump() == before

    done = shell.change("activate", NAME, version, "--override", "we need it tonight")
    assert "we need it tonight" in done.out
    assert "Starting" not in done.err
    (event, *_) = shell.templates("history", NAME, "--json").json["events"]
    assert event["gate"]["override"] == "we need it tonight"
    assert "overridden" in shell.templates("history", NAME).out


def test_no_model_is_started_for_what_cannot_go_live(shell: Shell) -> None:
    version = str(shell.drafted(with_test(shell, "red cat")))
    assert "Starting" in shell.change("activate", NAME, version).err
    again = shell.change("activate", NAME, version, code=1)
    assert "is live already" in again.err
    assert "Starting" not in again.err
    split = shell.change("split", "start", NAME, version, "--percent", "5", code=1)
    assert "is live already" in split.err
    assert "Starting" not in split.err


def test_a_template_out_of_service_comes_back(shell: Shell) -> None:
    assert "out of service" in shell.change("deactivate", NAME).out
    assert "is not active" in shell.change("deactivate", NAME, code=1).err
    assert "inactive" in shell.templates("show", NAME).out
    done = shell.change("activate", NAME, "1", "--json").json
    assert (done["from_version"], done["to_version"]) == (1, 1)
    assert shell.templates("list", "--inactive", "--json").json["templates"] == []


def test_a_split_is_started_shown_promoted_and_aborted(shell: Shell) -> None:
    assert "has ever run" in shell.templates("split", "status", NAME).err
    for ending, state in (("abort", "aborted"), ("promote", "promoted")):
        text = shell.exported().replace("token_limit = 75", f"token_limit = {60 + len(ending)}")
        version = shell.drafted(shell.file(text))
        shell.change("split", "start", NAME, str(version), "--percent", "25")
        (running, *_) = shell.templates("split", "status", NAME, "--json").json["splits"]
        assert (running["candidate_version"], running["percent"]) == (version, 25)
        assert running["outcome"] is None
        assert "25 % of the callers" in shell.templates("show", NAME).out
        kept = shell.change("discard", NAME, str(version), code=1).err
        assert "candidate of a running split" in kept
        assert f"'onbook templates split abort {NAME}'" in kept
        shell.change("split", ending, NAME)
        assert state in shell.templates("split", "status", NAME).out
    assert shell.templates("show", NAME, "--json").json["version"]["version"] == version
    assert "No split" in shell.change("split", "abort", NAME, code=1).err


def test_templates_are_exported_to_files_and_come_back(shell: Shell, tmp_path: Path) -> None:
    out = tmp_path / "book"
    assert "12 templates" in shell.templates("export", "--dir", out).err
    assert len(list(out.iterdir())) == 12
    assert (out / f"{NAME}.toml").read_text() == shell.exported()
    shell.drafted(shell.edited("token_limit = 75", "token_limit = 60"))
    assert "token_limit = 60" in shell.templates("export", NAME, "--version", "2").out
    assert "--dir" in shell.templates("export", code=2).err
    assert "--dir" in shell.templates("export", NAME, "chat_sfw", code=2).err
    assert "--version" in shell.templates("export", "--version", "1", "--dir", out, code=2).err
    nothing = tmp_path / "nothing"
    shell.templates("export", NAME, "no_such", "--dir", nothing, code=1)
    assert not nothing.exists()
