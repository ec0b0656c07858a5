"""Looking at the book with ``onbook templates``: nothing is written, and nothing is left out."""

import asyncio
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from rich.console import Console

from onbook.adapters.database.postgres_schema import postgres_revision
from onbook.cli import templates_output as output
from onbook.cli.templates_book import opened
from onbook.domain.errors import Conflict
from onbook.flows.template_editing import live_row
from onbook.settings import Settings
from postgres import PostgresServer
from support_templates_cli import NAME, Shell, prepared, shell

__all__ = ["prepared", "shell"]

BREAK = "UPDATE prompt_templates SET examples_sent = 99 WHERE template_name = '{name}'"
FAILING = '\n[[tests]]\nname = "dog"\ninput = "a red cat"\nmust_keep = ["blue dog"]\n'


@contextmanager
def locked(shell: Shell) -> Iterator[None]:
    """Hold the write lock: whoever wants to write must wait, whoever reads must not."""
    with closing(sqlite3.connect(shell.data / "onbook.db", isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def test_looking_at_the_book_takes_no_lock_and_writes_nothing(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onbook.adapters.database.schema.BUSY_TIMEOUT_S", 0.1)
    shell.drafted(shell.edited("token_limit = 75", "token_limit = 70"))
    file = shell.file(shell.exported("chat_sfw"))
    shell.query("UPDATE prompt_templates SET content_sha256 = NULL")
    before = shell.dump()
    with locked(shell):
        assert "cannot be used" in shell.change("deactivate", NAME, code=1).err
        for command in (
            ("list",),
            ("show", NAME),
            ("history", NAME),
            ("diff", NAME),
            ("diff", "chat_sfw", file),
            ("export", NAME),
            ("export", "--dir", shell.folder / "book"),
            ("split", "status", NAME),
            ("gateways",),
        ):
            shell.templates(*command)
    assert shell.dump() == before


def test_a_read_only_file_is_read(shell: Shell) -> None:
    database = shell.data / "onbook.db"
    database.chmod(0o444)
    try:
        assert NAME in shell.templates("list").out
    finally:
        database.chmod(0o644)


def test_an_old_database_is_brought_up_to_date_to_be_read(shell: Shell) -> None:
    shutil.rmtree(shell.data)
    shell.data.mkdir()
    (shell.data / "onbook.db").touch()
    assert len(shell.templates("list", "--json").json["templates"]) == 12


def test_a_broken_row_is_left_out_of_an_export_and_named(shell: Shell) -> None:
    shell.query(BREAK.format(name=NAME))
    # As an upgraded database can hold it: the triggers of today refuse such a name.
    for (trigger,) in shell.query("SELECT name FROM sqlite_master WHERE type = 'trigger'"):
        shell.query(f"DROP TRIGGER {trigger}")
    shell.query(
        "INSERT INTO prompt_templates (id, template_name, model_type, use_case, content_mode,"
        " target, system_prompt, token_limit, token_unit, max_tokens, version, is_active)"
        " SELECT 'raw', '../out/of', 'other', use_case, content_mode, target,"
        " system_prompt, token_limit, token_unit, max_tokens, 1, 1 FROM prompt_templates"
        " WHERE template_name = 'chat_nsfw'"
    )
    book = shell.folder / "deep" / "book"
    done = shell.templates("export", "--dir", book, code=1)
    assert "11 templates written" in done.err
    left_out = [line for line in done.err.splitlines() if line.startswith("Left out: ")]
    assert len(left_out) == 2
    assert any(NAME in line and "examples_sent" in line for line in left_out)
    assert any("../out/of" in line and "template_name" in line for line in left_out)
    assert sorted(path.parent for path in shell.folder.glob("deep/**/*.toml")) == [book] * 11


def test_of_a_broken_live_version_it_is_said_what_is_served_and_how_to_go_back(
    shell: Shell,
) -> None:
    version = shell.drafted(shell.edited("token_limit = 75", "token_limit = 70"))
    shell.change("activate", NAME, str(version))
    aborted = shell.drafted(shell.edited("token_limit = 70", "token_limit = 69"))
    shell.change("split", "start", NAME, str(aborted), "--percent", "5")
    shell.change("split", "abort", NAME)
    assert "Served" not in shell.templates("show", NAME).out
    shell.query(BREAK.format(name=NAME))
    # The candidate of an aborted split is newer, and was never live for everyone.
    assert "Served     version 2, because version 4 breaks" in " ".join(
        line for line in shell.templates("show", NAME).out.splitlines() if "Served" in line
    )
    refused = shell.templates("export", NAME, code=1).err
    assert f"'onbook templates rollback {NAME}'" in refused
    shell.change("rollback", NAME)
    assert "version = 5" in shell.exported()
    assert "Served" not in shell.templates("show", NAME).out


def test_a_broken_first_version_is_served_by_none(shell: Shell) -> None:
    shell.query(
        "INSERT INTO prompt_templates (id, template_name, model_type, use_case, content_mode,"
        " target, system_prompt, token_limit, token_unit, max_tokens, version, is_active,"
        " examples_sent) SELECT 'raw', 'raw', 'other', use_case, content_mode, target,"
        " system_prompt, token_limit, token_unit, max_tokens, 1, 1, 99 FROM prompt_templates"
        " WHERE template_name = 'chat_nsfw'"
    )
    assert "not at all, because version 1 breaks a rule" in shell.templates("show", "raw").out


def test_the_history_says_what_let_a_version_pass(shell: Shell) -> None:
    shell.change("activate", NAME, str(shell.drafted(shell.edited("75", "70"))))
    gates = shell.templates("history", NAME).out.split("What happened")[1]
    assert gates.splitlines()[2].endswith("no tests")
    failing = shell.file(shell.exported().replace("= 70", "= 69") + FAILING)
    version = shell.drafted(failing)
    shell.change("activate", NAME, str(version), "--override", "needed tonight")
    gates = shell.templates("history", NAME).out.split("What happened")[1]
    assert gates.splitlines()[2].endswith("overridden: needed tonight")


def test_sampling_and_variables_are_shown_as_files_write_them(shell: Shell) -> None:
    declared = '\n[[variables]]\nname = "loud"\ntype = "boolean"\ndefault = true\n'
    text = shell.exported().replace("[sampling]\n", '[sampling]\nstop = ["END"]\n')
    assert "END" in text
    version = shell.drafted(shell.file(text + declared))
    out = shell.templates("show", NAME, "--version", str(version)).out
    assert "loud: boolean, default true" in out
    (line,) = [line for line in out.splitlines() if line.startswith("Sampling")]
    content = shell.templates("show", NAME, "--json").json["content"]
    assert f"temperature {content['sampling']['temperature']}" in line
    assert 'stop ["END"]' in line
    sent, total = content["examples_sent"], len(content["examples"])
    assert f"Examples    {sent} of {total} are sent" in out


def test_only_the_labels_of_facts_are_dim(monkeypatch: pytest.MonkeyPatch) -> None:
    coloured = Console(force_terminal=True, color_system="standard", width=80)
    monkeypatch.setattr(output, "console", lambda: coloured)
    with coloured.capture() as captured:
        output.facts([("Template", "a_name")])
    dim, reset = "\x1b[2m", "\x1b[0m"
    assert captured.get() == f"{dim}Template  {reset}a_name\n"


def test_a_postgres_database_that_is_not_current_is_refused(
    shell: Shell, postgres: PostgresServer
) -> None:
    with postgres.database(migrated=False) as url:
        shell.settings["ONBOOK_DATABASE_URL"] = url
        for command in (("list",), ("show", NAME), ("export", "--dir", shell.folder / "book")):
            said = shell.templates(*command, code=1).err
            assert "start a gateway of this version first" in said
        # Nothing was made of it: a command that changes the book still finds it empty.
        assert postgres_revision(url) is None
        shell.change("deactivate", NAME)
        assert shell.templates("list", "--inactive", "--json").json["templates"]


def test_that_nothing_is_live_is_said_in_plain_words(shell: Shell) -> None:
    async def says(name: str) -> str:
        async with opened(Settings(data_dir=shell.data), reads=True) as editing:
            with pytest.raises(Conflict) as refused:
                await live_row(name, 5, editing.library)
        return refused.value.message

    assert asyncio.run(says("of_mine")) == "of_mine has no live version."
    assert asyncio.run(says(NAME)) == f"Version 1 of {NAME} is live, not 5."
