"""``onbook templates export``: templates as files that a person edits."""

import os
from typing import TYPE_CHECKING
from urllib.parse import quote

import typer

from onbook.adapters.files.durable import write_atomically
from onbook.adapters.files.template_toml import to_toml
from onbook.cli import templates_output as output
from onbook.cli.options import fail
from onbook.cli.templates_book import on_book
from onbook.cli.templates_output import counted
from onbook.cli.templates_read import all_rows
from onbook.cli.terminal import visible_line
from onbook.domain.templates import TemplateInvalid
from onbook.flows.read_templates import show_template
from onbook.ports.template_library import TemplateFilter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from onbook.domain.templates import Template
    from onbook.flows.template_editing import TemplateEditing
    from onbook.settings import Settings


def export(
    settings: "Settings", names: "Sequence[str]", directory: "Path | None", version: int | None
) -> None:
    """Write the templates ``names``, all of them for none, into ``directory`` or to stdout."""
    if directory is None and len(names) != 1:
        fail("give --dir for more than one template.", code=2)
    if version is not None and len(names) != 1:
        fail("--version goes with the name of one template.", code=2)
    skipped: list[str] = []

    async def work(editing: "TemplateEditing") -> "list[tuple[int, Template]]":
        if names:
            # All are read before the first is written: a name that is wrong writes nothing.
            return [await _content(name, version, editing) for name in dict.fromkeys(names)]
        return await _sound_rows(skipped, editing)

    found = on_book(settings, work, reads=True)
    if directory is None:
        ((number, template),) = found
        output.write(to_toml(template, version=number))
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for number, template in found:
            path = directory / file_name(template.template_name)
            write_atomically(path, to_toml(template, version=number).encode())
            # Written for its owner only, which is meant for keys.
            path.chmod(0o666 & ~_umask())
    except OSError as error:
        fail(visible_line(f"{directory} cannot be written: {error.strerror}."))
    output.note(f"{counted(len(found), 'template')} written to {directory}.")
    for problem in skipped:
        output.note(visible_line(f"Left out: {problem}"))
    if skipped:
        raise typer.Exit(1)


def file_name(template_name: str) -> str:
    """Return the name of a template's file; what is no plain letter of a file name is escaped."""
    # The first dot is escaped too, so that no name hides the file or leads out of the directory.
    safe = quote(template_name, safe=" ")
    return f"{safe.replace('.', '%2E', 1) if safe.startswith('.') else safe}.toml"


def _umask() -> int:
    current = os.umask(0o077)
    os.umask(current)
    return current


async def _sound_rows(
    skipped: list[str], editing: "TemplateEditing"
) -> "list[tuple[int, Template]]":
    """Return every row that keeps the rules; the others are named in ``skipped``, with why."""
    # The rules of names leave only those that a file can have.
    found = []
    for row in await all_rows(TemplateFilter(), editing):
        if row.template is None:
            skipped.append(f"{row.template_name}: version {row.version}: {row.problem}")
        else:
            found.append((row.version, row.template))
    return found


async def _content(
    name: str, version: int | None, editing: "TemplateEditing"
) -> "tuple[int, Template]":
    found = (await show_template(name, version, editing=editing)).version
    if found.template is None:
        raise TemplateInvalid(
            f"Version {found.version} of {name} breaks a rule: {found.problem}",
            suggested_action=f"'onbook templates rollback {name}' brings back the one before; or "
            "export another one with --version and draft a corrected one."
            if found.state == "live"
            else "Name another one with --version, or draft a corrected one.",
        )
    return found.version, found.template
