"""``onbook templates import``: files become drafts, once all of them have been read and checked."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NoReturn

from onbook.adapters.template_files import read_templates
from onbook.cli import templates_output as output
from onbook.cli.options import fail
from onbook.cli.templates_book import on_book
from onbook.cli.templates_diff import print_fields
from onbook.cli.templates_options import author_of, reason_of
from onbook.cli.templates_output import counted
from onbook.cli.templates_source import STDIN, read_bytes, shown
from onbook.cli.templates_worker import judging
from onbook.cli.terminal import visible_line
from onbook.domain.errors import Conflict
from onbook.domain.templates import TemplateInvalid
from onbook.flows.import_templates import compare_templates, import_templates
from onbook.flows.manage_templates import activate_template
from onbook.gateway.routes.templates_mapping import diff_bodies

if TYPE_CHECKING:
    from pathlib import Path

    from onbook.adapters.template_files import Format
    from onbook.adapters.template_formats.source import ImportDefaults, ImportedTemplate
    from onbook.flows.import_templates import TemplateImport
    from onbook.flows.template_editing import TemplateEditing
    from onbook.settings import Settings

_CHANGES: Final = ("changed", "drafted")
_DRAFTS: Final = ("drafted", "drafted_before")
_SUFFIXES: Final = (".json", ".jsonl", ".ndjson", ".prompt", ".toml")


@dataclass(frozen=True, slots=True)
class _Read:
    """One template of one file."""

    file: str
    read: "ImportedTemplate"


@dataclass(frozen=True, slots=True)
class _Item:
    """One template of one file, and what came of it."""

    source: _Read
    done: "TemplateImport"
    activated: bool = False

    @property
    def name(self) -> str:
        return self.done.template.template_name


def import_files(
    settings: "Settings",
    paths: "Sequence[Path]",
    *,
    file_format: "Format | None",
    defaults: "ImportDefaults",
    dry_run: bool,
    activate: bool,
    rebase: bool,
    override: str | None,
    reason: str | None,
    author: str | None,
    as_json: bool,
) -> None:
    """Store the templates in ``paths`` as drafts, or show what that would change."""
    sources = _read_all(list(_files(paths)), file_format, defaults)
    if rebase:
        sources = [replace(item, read=replace(item.read, base_version=None)) for item in sources]
    found = [source.read for source in sources]
    why = "" if dry_run else reason_of(reason)
    who = "" if dry_run else author_of(author)

    async def work(editing: "TemplateEditing") -> list[_Item]:
        with _file_named(sources):
            done = (
                await compare_templates(found, editing=editing)
                if dry_run
                else await import_templates(found, author=who, reason=why, editing=editing)
            )
        items = [_Item(source, item) for source, item in zip(sources, done, strict=True)]
        if not as_json:
            _tell(items, dry_run=dry_run)
        if not activate:
            return items
        return await _activate(
            items, settings, editing, override, author=who, reason=why, as_json=as_json
        )

    items = on_book(settings, work, create=not dry_run, as_json=as_json)
    if as_json:
        output.as_json({"dry_run": dry_run, "templates": [_item_json(item) for item in items]})


def _files(paths: "Sequence[Path]") -> "Iterator[Path]":
    """Yield the files of ``paths``, those of a directory by name; ends the program without any."""
    for path in paths:
        if path == STDIN or not path.is_dir():
            yield path
            continue
        inside = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES)
        if not inside:
            fail(
                visible_line(
                    f"there is no {', '.join(_SUFFIXES[:-1])} or {_SUFFIXES[-1]} file in {path}."
                )
            )
        yield from inside


def _read_all(
    files: "Sequence[Path]", file_format: "Format | None", defaults: "ImportDefaults"
) -> list[_Read]:
    sources: list[_Read] = []
    problems: list[str] = []
    for path in files:
        file = shown(path)
        try:
            data = read_bytes(path)
            found = read_templates(data, file=file, format_=file_format, defaults=defaults)
        except TemplateInvalid as error:
            problems.append(error.message)
        else:
            sources += [_Read(file, read) for read in found]
    by_name: dict[str, _Read] = {}
    for source in sources:
        name = source.read.template.template_name
        other = by_name.setdefault(name, source)
        if other is not source:
            problems.append(f"{source.file}: template {name} is in {other.file} as well.")
    if problems:
        _refuse(problems)
    return sources


@contextmanager
def _file_named(sources: Sequence[_Read]) -> Iterator[None]:
    """Say in a refusal which file it is about, and how to have the files win."""
    files = {source.read.template.template_name: source.file for source in sources}
    try:
        yield
    except (Conflict, TemplateInvalid) as error:
        details = error.details or {}
        name = details.get("template_name")
        file = files.get(name) if isinstance(name, str) else None
        if file is None:
            raise
        told = f"{file}: {error.message}"
        if isinstance(error, TemplateInvalid):
            raise TemplateInvalid(told, details=details) from None
        raise Conflict(
            told,
            suggested_action="Export it again and bring your change over, or give --rebase to take "
            "the files over whatever is live.",
            details=details,
        ) from None


def _refuse(problems: Sequence[str]) -> NoReturn:
    if len(problems) == 1:
        fail(visible_line(f"{problems[0]} Nothing was written."))
    for problem in problems:
        output.note(f"  {visible_line(problem)}")
    fail(f"{counted(len(problems), 'mistake')} in the files, shown above; nothing was written.")


async def _activate(
    items: Sequence[_Item],
    settings: "Settings",
    editing: "TemplateEditing",
    override: str | None,
    *,
    author: str,
    reason: str,
    as_json: bool,
) -> list[_Item]:
    ended = []
    drafts = [item.done.template for item in items if item.done.outcome in _DRAFTS]
    if override is not None:
        drafts = []
    async with judging(drafts, settings, editing) as judged:
        for item in items:
            if item.done.outcome not in _DRAFTS:
                ended.append(item)
                continue
            live = await activate_template(
                item.name,
                item.done.version,
                override=override,
                author=author,
                reason=reason,
                editing=judged,
            )
            ended.append(replace(item, activated=True))
            if not as_json:
                output.say(visible_line(f"Version {live.version} of {item.name} is live."))
    return ended


def _tell(items: Sequence[_Item], *, dry_run: bool) -> None:
    for item in items:
        done, file = item.done, item.source.file
        said = _said(done, dry_run=dry_run)
        output.say(visible_line(f"{item.name} ({file}): {said}"))
        for warning in item.source.read.warnings:
            output.say(visible_line(f"  warning: {warning}"))
        if done.outcome in _CHANGES and done.live_version is not None:
            print_fields(done.diff)
    changed = sum(item.done.outcome in _CHANGES for item in items)
    did = "would be drafted; nothing was written" if dry_run else "drafted"
    output.note(f"{changed} of {counted(len(items), 'template')} {did}.")


def _said(done: "TemplateImport", *, dry_run: bool) -> str:
    if done.outcome == "unchanged":
        return f"unchanged, version {done.version} is live and holds just this"
    if done.outcome == "drafted_before":
        return f"unchanged, version {done.version} is a draft of just this"
    against = "new" if done.live_version is None else f"differs from version {done.live_version}"
    return f"{against}, would be drafted" if dry_run else f"{against}, drafted as {done.version}"


def _item_json(item: _Item) -> dict[str, object]:
    return {
        "template_name": item.name,
        "file": item.source.file,
        "outcome": "activated" if item.activated else item.done.outcome,
        "version": item.done.version,
        "live_version": item.done.live_version,
        "warnings": list(item.source.read.warnings),
        "diff": diff_bodies(item.done.diff),
    }
