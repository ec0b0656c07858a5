"""``onbook templates import`` on real-shaped files: all or nothing, and again without an effect."""

import json
import re
from pathlib import Path

import pytest

from support_templates_cli import NAME, Shell, prepared, shell

__all__ = ["prepared", "shell"]

LANGFUSE = {
    "id": "c0ffee",
    "name": "scene-writer",
    "type": "chat",
    "version": 4,
    "prompt": [
        {"role": "system", "content": "Write one scene in the style of {{director}}."},
        {"role": "user", "content": "{{prompt}}"},
    ],
    "config": {"temperature": 0.4, "model": "gpt-4o"},
    "labels": ["production"],
    "tags": [],
}


def foreign(shell: Shell, name: str = "scene.json") -> Path:
    return shell.file(json.dumps(LANGFUSE), name)


def test_a_prompt_of_another_tool_becomes_a_draft(shell: Shell) -> None:
    path = foreign(shell)
    before = shell.dump()
    dry = shell.templates("import", path, "--dry-run", "--target", "sdxl")
    assert "scene-writer" in dry.out
    assert "would be drafted" in dry.out
    assert "warning: Not carried over: " in dry.out
    assert "nothing was written" in dry.err
    assert shell.dump() == before

    done = shell.change("import", path, "--target", "sdxl", "--json").json
    (item,) = done["templates"]
    assert (item["outcome"], item["version"], item["live_version"]) == ("drafted", 1, None)
    content = shell.templates("show", "scene-writer", "--json").json["content"]
    assert content["system_prompt"] == "Write one scene in the style of {{director}}."
    assert content["variables"][0]["name"] == "director"
    assert content["sampling"]["temperature"] == 0.4
    assert (content["token_limit"], content["token_unit"]) == (75, "clip")
    assert (content["model_type"], content["use_case"]) == ("qwen_instruct", "enhancement")
    assert content["max_tokens"] == 225


def test_what_a_file_does_not_say_comes_from_the_options(shell: Shell) -> None:
    shell.change(
        *("import", foreign(shell), "--name", "mine", "--model-type", "llama", "--token-limit"),
        *("60", "--token-unit", "chars", "--max-tokens", "50", "--content-mode", "nsfw"),
        *("--use-case", "chat"),
    )
    content = shell.templates("show", "mine", "--json").json["content"]
    assert {
        "model_type": "llama",
        "token_limit": 60,
        "token_unit": "chars",
        "max_tokens": 50,
        "content_mode": "nsfw",
        "use_case": "chat",
        "target": None,
    }.items() <= content.items()


def test_an_exported_book_is_unchanged_and_an_edit_in_it_is_shown(shell: Shell) -> None:
    folder = shell.folder / "book"
    shell.templates("export", "--dir", folder)
    before = shell.dump()
    again = shell.change("import", folder)
    assert again.out.count("unchanged") == 12
    assert "0 of 12 templates drafted" in again.err
    assert shell.dump() == before

    path = folder / f"{NAME}.toml"
    path.write_text(path.read_text().replace("a short idea", "a brief idea"))
    dry = shell.templates("import", folder, "--dry-run")
    assert "[-short-]{+brief+}" in dry.out
    assert dry.out.count("unchanged") == 11
    assert shell.dump() == before

    assert (
        f"{NAME} ({path}): differs from version 1, drafted as 2"
        in shell.change("import", folder).out
    )
    drafted = shell.dump()
    assert "version 2 is a draft of just this" in shell.change("import", folder).out
    assert shell.dump() == drafted

    assert f"Version 2 of {NAME} is live." in shell.change("import", folder, "--activate").out
    assert "brief idea" in shell.exported()


@pytest.mark.parametrize(
    ("second", "says"),
    [
        ("template_name = 'a'\nwrong = 1\n", "wrong is not a field"),
        ("copy", "is in"),
        ("older", "version 2 is live now"),
        ("impossible", "token_limit"),
    ],
)
def test_one_bad_file_keeps_all_others_out(shell: Shell, second: str, says: str) -> None:
    exported = shell.exported()
    shell.change("activate", NAME, str(shell.drafted(shell.edited("a short idea", "an idea"))))
    chat = shell.exported("chat_sfw")
    good = shell.file(chat.replace("max_tokens = 500", "max_tokens = 400"), "good.toml")
    assert good.read_text() != chat
    text = {
        "copy": good.read_text(),
        "older": exported.replace("token_limit = 75", "token_limit = 70"),
        "impossible": shell.exported().replace("token_limit = 75", "token_limit = 1"),
    }.get(second, second)
    before = shell.dump()
    bad = shell.file(text, "second.toml")
    for order in ((good, bad), (bad, good)):
        assert says in shell.change("import", *order, "--activate", code=1).err
    assert says in shell.templates("import", good, bad, "--dry-run", code=1).err
    assert shell.dump() == before


def test_every_mistake_is_told_at_once(shell: Shell) -> None:
    files = [shell.file(f"key_{number} = 1\n", f"{number}.toml") for number in range(3)]
    said = shell.change("import", *files, code=1).err
    assert all(f"key_{number} is not a field" in said for number in range(3))
    assert "3 mistakes" in said


def test_a_gate_that_fails_leaves_the_draft(shell: Shell) -> None:
    tested = '\n[[tests]]\nname = "dog"\ninput = "a red cat"\nmust_keep = ["blue dog"]\n'
    path = shell.file(shell.exported().replace("75", "70") + tested)
    done = shell.change("import", path, "--activate", code=1)
    assert "Starting the embedded model for 1 test" in done.err
    assert "dog" in done.out
    states = shell.templates("history", NAME, "--json").json["versions"]
    assert [(row["version"], row["state"]) for row in states] == [(2, "draft"), (1, "live")]


def test_a_directory_without_templates_is_a_mistake(shell: Shell) -> None:
    empty = shell.folder / "empty"
    empty.mkdir()
    assert "there is no" in shell.change("import", empty, code=1).err


def test_a_draft_from_standard_input_in_a_given_format(shell: Shell) -> None:
    done = shell.templates(
        *("import", "-", "--format", "langfuse", "--reason", "a test"), typed=json.dumps(LANGFUSE)
    )
    assert "scene-writer (standard input): new, drafted as 1" in done.out


def test_a_dry_run_makes_no_database(shell: Shell) -> None:
    shell.settings["ONBOOK_DATA_DIR"] = str(shell.folder / "none")
    assert "no database" in shell.templates("import", foreign(shell), "--dry-run", code=1).err
    assert not (shell.folder / "none").exists()
    assert shell.change("import", foreign(shell), "--json").json["templates"][0]["version"] == 1


def moved(shell: Shell) -> tuple[Path, Shell]:
    """Return a book whose templates are at other versions than those of a new database."""
    for limit in (70, 71):
        path = shell.file(
            re.sub(r"token_limit = \d+", f"token_limit = {limit}", shell.exported()), "edit.toml"
        )
        shell.change("activate", NAME, str(shell.drafted(path)))
    folder = shell.folder / "book"
    shell.templates("export", "--dir", folder)
    other = Shell(shell.folder / "other")
    other.folder.mkdir()
    return folder, other


def test_a_book_moves_to_another_database(shell: Shell) -> None:
    folder, other = moved(shell)
    new = folder / "of_mine.toml"
    new.write_text(
        (folder / f"{NAME}.toml")
        .read_text()
        .replace(f'template_name = "{NAME}"', 'template_name = "of_mine"')
        .replace('target = "sdxl"', 'target = "flux"')
    )
    assert 'target = "flux"' in new.read_text()
    refused = other.change("import", folder, "--activate", code=1).err
    assert f"{folder / NAME}.toml: " in refused
    assert "--rebase" in refused
    assert [row[0] for row in other.query("SELECT max(version) FROM prompt_template_versions")] == [
        1
    ]
    only = other.change("import", new, "--activate", code=1).err
    assert f"{new}: " in only
    assert "--rebase" in only

    dry = other.templates("import", folder, "--rebase", "--dry-run")
    assert "2 of 13 templates would be drafted" in dry.err
    done = other.change("import", folder, "--rebase", "--activate")
    assert f"Version 2 of {NAME} is live." in done.out
    assert "Version 1 of of_mine is live." in done.out
    assert "token_limit = 71" in other.exported()
    before = other.dump()
    again = other.change("import", folder, "--rebase", "--activate")
    assert again.out.count("unchanged") == 13
    assert other.dump() == before


def test_a_template_that_cannot_be_served_is_told_by_its_file(shell: Shell) -> None:
    path = shell.file(shell.exported().replace("token_limit = 75", "token_limit = 1"), "odd.toml")
    said = shell.change("import", path, code=1).err
    assert f"{path}: " in said
    assert "--rebase" not in said


@pytest.mark.parametrize("kind", ["langfuse", "openai", "dotprompt"])
def test_a_limit_on_the_command_line_wins_over_the_file(shell: Shell, kind: str) -> None:
    messages = LANGFUSE["prompt"]
    text = {
        "langfuse": json.dumps(LANGFUSE | {"config": {"max_tokens": 900}}),
        "openai": json.dumps(
            {"id": "pmpt_1", "name": "scene-writer", "messages": messages, "max_tokens": 900}
        ),
        "dotprompt": "---\nname: scene-writer\nconfig:\n  maxOutputTokens: 900\n---\n"
        '{{role "system"}}\nWrite one scene.\n{{role "user"}}\n{{prompt}}\n',
    }[kind]
    path = shell.file(text, "scene.prompt" if kind == "dotprompt" else "scene.json")
    own = shell.change("import", path, "--target", "sdxl")
    assert "limit of tokens" not in own.out
    limits = ("--max-tokens", "400", "--token-limit", "60", "--token-unit", "chars")
    given = shell.change("import", path, "--target", "sdxl", *limits)
    assert "warning: The prompt's own limit of tokens is not carried over." in given.out
    found = [
        shell.templates("show", "scene-writer", "--version", version, "--json").json["content"]
        for version in ("1", "2")
    ]
    assert [item["max_tokens"] for item in found] == [900, 400]
    assert [(item["token_limit"], item["token_unit"]) for item in found] == [
        (75, "clip"),
        (60, "chars"),
    ]


def test_an_import_goes_on_without_the_tests_for_a_reason(shell: Shell) -> None:
    tested = '\n[[tests]]\nname = "dog"\ninput = "a red cat"\nmust_keep = ["blue dog"]\n'
    path = shell.file(shell.exported().replace("75", "70") + tested)
    assert "--activate" in shell.change("import", path, "--override", "soon", code=2).err
    assert "--override" in shell.change("import", path, "--activate", code=1).err
    done = shell.change("import", path, "--activate", "--override", "needed tonight")
    assert "Starting" not in done.err
    assert f"Version 2 of {NAME} is live." in done.out
    (event, *_) = shell.templates("history", NAME, "--json").json["events"]
    assert event["gate"]["override"] == "needed tonight"


@pytest.mark.parametrize("name", ["a.toml", "a.json", "a.prompt", "a.txt"])
def test_an_empty_file_is_said_to_be_empty(shell: Shell, name: str) -> None:
    for text in ("", " \n"):
        said = shell.change("import", shell.file(text, name), code=1).err
        assert f"{name}: is empty." in said
