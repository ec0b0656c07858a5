"""``onbook templates diff``, and how every command shows what differs: word by word."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.padding import Padding
from rich.text import Text

from onbook.cli import templates_output as output
from onbook.cli.options import fail
from onbook.cli.templates_book import on_book, told
from onbook.cli.templates_options import MAX_VERSION
from onbook.cli.templates_source import read_template_file, shown
from onbook.cli.terminal import visible, visible_line
from onbook.domain.errors import TemplateNotFound
from onbook.domain.template_diff import FieldDiff, WordOp, diff_templates
from onbook.domain.templates import TemplateInvalid
from onbook.flows.read_templates import show_template
from onbook.gateway.routes.templates_mapping import diff_bodies

if TYPE_CHECKING:
    from rich.console import Console

    from onbook.domain.template_history import TemplateVersion
    from onbook.domain.templates import Template
    from onbook.flows.template_editing import TemplateEditing
    from onbook.settings import Settings
    from onbook.wire.templates_answers import FieldDiffBody

# Of a text that both sides have, this many characters are shown beside a change.
_CONTEXT: Final = 120
_SHORT: Final = 60
_MARKS: Final = {"delete": ("[-", "-]"), "insert": ("{+", "+}"), "equal": ("", "")}
_STYLES: Final = {"delete": "red strike", "insert": "green", "equal": ""}
_BLANK_STYLES: Final = {"delete": "reverse red", "insert": "reverse green", "equal": ""}


def diff(
    settings: "Settings", name: str, first: str | None, second: int | None, *, as_json: bool
) -> None:
    """Print what differs between two versions, or between the live one and a file."""
    number = int(first) if first is not None and first.isdecimal() and first.isascii() else None
    if number is not None and not 1 <= number <= MAX_VERSION:
        fail(f"a version is a number from 1 to {MAX_VERSION}.", code=2)
    file = Path(first) if first is not None and number is None else None
    if file is not None and second is not None:
        fail("a file is compared with the live version; give no version beside it.", code=2)
    given = None
    if file is not None:
        with told(as_json=as_json):
            given = read_template_file(file).template

    async def work(
        editing: "TemplateEditing",
    ) -> "tuple[TemplateVersion, TemplateVersion | None]":
        if given is None:
            return await _versions(name, number, second, editing)
        found = (await show_template(name, editing=editing)).version
        return found, None

    before, after = on_book(settings, work, name=name, reads=True, as_json=as_json)
    with told(as_json=as_json):
        old, new = _content(before), _content(after) if after is not None else given
    if new is None:
        raise AssertionError("there is a second version or a file")
    to = "file" if after is None else f"version {after.version}"
    if as_json:
        output.as_json(
            {
                "template_name": name,
                "from_version": before.version,
                "to_version": None if after is None else after.version,
                "fields": diff_body(old, new),
            }
        )
        return
    if unchanged(old, new):
        output.note(f"Version {before.version} and the {to} of {name} hold the same.")
        return
    source = "" if file is None else f" ({shown(file)})"
    output.say(visible_line(f"From version {before.version}, {before.state}, to {to}{source}"))
    print_diff(old, new)


async def _versions(
    name: str, first: int | None, second: int | None, editing: "TemplateEditing"
) -> "tuple[TemplateVersion, TemplateVersion]":
    """Return what to compare: the live version and the newest draft unless versions are given."""
    live = await show_template(name, editing=editing)
    if first is None:
        later = [draft for draft in live.drafts if draft.version != live.version.version]
        if live.row is None or not later:
            raise TemplateNotFound(
                f"Template {name} has no live version and a draft beside it to compare.",
                suggested_action="Give two versions; "
                f"'onbook templates history {name}' shows which there are.",
            )
        return live.version, later[0]
    one = (await show_template(name, first, editing=editing)).version
    if second is not None:
        return one, (await show_template(name, second, editing=editing)).version
    return (one, live.version) if first < live.version.version else (live.version, one)


def _content(version: "TemplateVersion") -> "Template":
    if version.template is None:
        raise TemplateInvalid(
            f"Version {version.version} of {version.template_name} breaks a rule: "
            f"{version.problem}",
            suggested_action="Compare other versions.",
        )
    return version.template


def unchanged(old: "Template", new: "Template") -> bool:
    """Tell whether two templates hold the same, whatever their versions."""
    return not diff_templates(old, new)


def diff_body(old: "Template | None", new: "Template") -> "list[FieldDiffBody]":
    """Return what differs, for a machine: every word."""
    return diff_bodies(diff_templates(old, new))


def print_diff(old: "Template | None", new: "Template") -> None:
    """Print every field that differs, as ``print_fields`` does."""
    print_fields(diff_templates(old, new))


def print_fields(fields: Sequence[FieldDiff]) -> None:
    """Print fields that differ, in colour where that can be shown, else with marks."""
    out = output.console()
    in_colour = output.has_colour(out)
    for field in fields:
        text = _coloured(field.words) if in_colour else Text(_marked(field.words))
        _print_field(_title(field), text, out)


def _title(field: FieldDiff) -> str:
    if field.old is None:
        return f"{field.field} (new)"
    return f"{field.field} (gone)" if field.new is None else field.field


def _print_field(title: str, text: Text, out: "Console") -> None:
    head = Text(visible_line(title), style="bold")
    if "\n" not in text.plain and len(text.plain) <= _SHORT:
        out.print(Text.assemble(head, ": ", text), soft_wrap=not out.is_terminal)
        return
    out.print(head, soft_wrap=True)
    if out.is_terminal:
        out.print(Padding(text, (0, 0, 0, 2)))
        return
    for line in output.indented(text.plain):
        output.say(line)


def _coloured(words: Sequence[WordOp]) -> Text:
    text = Text()
    for word in _shortened(words):
        # A change of white space alone would not be seen in the colour of letters.
        styles = _STYLES if word.text.strip() else _BLANK_STYLES
        text.append(visible(word.text), style=styles[word.op])
    return text


def _marked(words: Sequence[WordOp]) -> str:
    return "".join(
        f"{_MARKS[word.op][0]}{visible(word.text)}{_MARKS[word.op][1]}"
        for word in _tightened(list(_shortened(words)))
    )


def _tightened(words: Sequence[WordOp]) -> Iterator[WordOp]:
    """Yield ``words`` with the white space that old and new end with behind both."""
    space = ""
    for word, after in zip(words, [*words[1:], None], strict=True):
        text = word.text
        if word.op == "delete" and after is not None and after.op == "insert":
            space = _common_end(text, after.text)
        if space and word.op != "equal":
            text = text[: len(text) - len(space)]
        if text:
            yield WordOp(word.op, text)
        if space and word.op == "insert":
            yield WordOp("equal", space)
            space = ""


def _common_end(old: str, new: str) -> str:
    """Return the white space that both texts end with, unless one of them is nothing else."""
    end = old[len(old.rstrip()) :]
    is_common = end == new[len(new.rstrip()) :] and old.strip() and new.strip()
    return end if is_common else ""


def _shortened(words: Sequence[WordOp]) -> Iterator[WordOp]:
    """Yield ``words`` with what both sides have cut to what is near a change."""
    last = len(words) - 1
    for number, word in enumerate(words):
        text = word.text
        if word.op == "equal" and len(text) > 2 * _CONTEXT:
            head = "" if number == 0 else f"{text[:_CONTEXT].rpartition(' ')[0]} "
            tail = "" if number == last else f" {text[-_CONTEXT:].partition(' ')[2]}"
            text = f"{head}…{tail}"
        yield WordOp(word.op, text)
