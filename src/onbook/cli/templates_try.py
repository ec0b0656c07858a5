"""``onbook templates test``: a template's own cases on the real worker, nothing changed."""

from typing import TYPE_CHECKING

import typer

from onbook.cli import templates_output as output
from onbook.cli.options import fail
from onbook.cli.templates_activate import GATE_TIMEOUT_S
from onbook.cli.templates_book import on_book, told
from onbook.cli.templates_output import Column, counted
from onbook.cli.templates_server import Server
from onbook.cli.templates_source import read_template_file
from onbook.cli.templates_worker import judging
from onbook.cli.terminal import visible_line
from onbook.flows.gate_template import run_gate, try_template
from onbook.flows.read_templates import show_template
from onbook.gateway.routes.templates_mapping import tested_cases
from onbook.wire.templates_answers import TemplateAnswer, TemplateTestAnswer
from onbook.wire.templates_api import TemplateTestRequest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from onbook.domain.templates import Template
    from onbook.flows.evaluate_template import GateResult
    from onbook.flows.template_editing import TemplateEditing
    from onbook.settings import Settings
    from onbook.wire.templates_answers import TestedCaseBody


def try_cases(
    settings: "Settings",
    name: str,
    *,
    version: int | None,
    file: "Path | None",
    url: str | None,
    key: str | None,
    as_json: bool,
) -> None:
    """Run the cases of a version, or of a file, and end with 1 if one of them fails."""
    if file is not None and version is not None:
        fail("give either --version or --file, not both.", code=2)
    if url:
        _on_server(Server(url, key, timeout_s=GATE_TIMEOUT_S), name, version, file, as_json=as_json)
        return
    given = None if file is None else _from_file(file, name, as_json=as_json)

    async def work(editing: "TemplateEditing") -> "tuple[int | None, GateResult]":
        if given is not None:
            async with judging([given], settings, editing) as judged:
                return None, await run_gate(given, judged)
        number = version or await _version_to_test(name, editing)
        found = await editing.library.version(name, number)
        async with judging(
            [None if found is None else found.template], settings, editing
        ) as judged:
            return number, await try_template(name, number, editing=judged)

    number, gate = on_book(settings, work, name=name, create=given is not None, as_json=as_json)
    if as_json:
        output.as_json(
            {
                "template_name": name,
                "version": number,
                "passed": gate.passed,
                "cases": tested_cases(gate.cases),
            }
        )
    _show(name, number, tested_cases(gate.cases), as_json=as_json)


async def _version_to_test(name: str, editing: "TemplateEditing") -> int:
    """Return the newest draft, or the live version where that is newer."""
    shown = await show_template(name, editing=editing)
    live = 0 if shown.row is None else shown.row.version
    return _newest([draft.version for draft in shown.drafts], live)


def _newest(drafts: "Sequence[int]", live: int) -> int:
    # A draft that is older than the live version cannot go live any more.
    return max([live, *drafts])


def _from_file(file: "Path", name: str, *, as_json: bool) -> "Template":
    with told(as_json=as_json):
        template = read_template_file(file).template
    if template.template_name != name:
        fail(
            visible_line(f"the file holds template {template.template_name}, not {name}."),
            code=2,
        )
    return template


def _on_server(
    server: Server, name: str, version: int | None, file: "Path | None", *, as_json: bool
) -> None:
    if file is not None:
        fail("a server tests stored versions; draft the file first, or leave --url out.", code=2)
    with told(name=name, as_json=as_json):
        if version is None:
            known = server.get(name, TemplateAnswer)
            live = 0 if known.row is None else known.row.version
            version = _newest([draft.version for draft in known.drafts], live)
        answer = server.post(name, "test", TemplateTestRequest(version=version), TemplateTestAnswer)
    if as_json:
        output.as_json(answer)
    _show(name, version, answer.cases, as_json=as_json)


def _show(
    name: str, version: int | None, cases: "Sequence[TestedCaseBody]", *, as_json: bool
) -> None:
    failed = sum(not case.passed for case in cases)
    if not as_json:
        what = visible_line(name) if version is None else f"Version {version} of {name}"
        if not cases:
            output.note(f"{what} has no tests, so there is nothing to run; add [[tests]] to it.")
            return
        output.table(
            (
                Column("CASE"),
                Column("RESULT"),
                Column("TOKENS"),
                Column("WHY", wraps=True),
                Column("OUTPUT", wraps=True),
            ),
            [
                (
                    case.name,
                    "passed" if case.passed else "failed",
                    "-" if case.tokens is None else str(case.tokens),
                    " ".join(case.failures) or "-",
                    case.output or "-",
                )
                for case in cases
            ],
        )
        total = counted(len(cases), "test")
        said = f"{failed} of {total} failed" if failed else f"{total} passed"
        output.note(f"{what}: {said}.")
    if failed:
        raise typer.Exit(1)
