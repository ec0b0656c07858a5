"""Showing templates to a person: tables and facts, wide in a pipe, fitted on a terminal."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from onbook.cli import terminal
from onbook.cli.terminal import visible, visible_line

HASH_CHARS: Final = 12
_LEAST_WIDTH: Final = 16

_STATE_STYLES: Final = {
    "live": "green",
    "active": "green",
    "passed": "green",
    "draft": "yellow",
    "inactive": "dim",
    "retired": "dim",
    "failed": "red",
    "behind": "red",
    "gone": "dim",
}


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    On a narrow terminal the text of one that ``wraps`` is broken over lines, and one that is
    ``optional`` is left out.
    """

    head: str
    wraps: bool = False
    optional: bool = False


def console() -> Console:
    """Return a console on standard output that is laid out for a terminal only if it is one."""
    return terminal.console(layout_for_terminal=sys.stdout.isatty())


def has_colour(out: Console) -> bool:
    """Tell whether ``out`` shows colours: a terminal that can, and no ``NO_COLOR``."""
    return out.is_terminal and out.color_system is not None and not os.environ.get("NO_COLOR")


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print ``rows``: fitted to a terminal, and in a pipe one full line each, never cut."""
    out = console()
    if out.is_terminal:
        _fitted(out, columns, rows)
        return
    lines = [tuple(column.head for column in columns)]
    lines += [tuple(visible_line(cell) for cell in row) for row in rows]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        say("  ".join(cells).rstrip())


def _fitted(out: Console, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    kept = list(range(len(columns)))
    while not (fits := _least_width(columns, rows, kept) <= out.width):
        dropped = next((at for at in reversed(kept) if columns[at].optional), None)
        if dropped is None:
            break
        kept.remove(dropped)
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for at in kept:
        # A name or a digest that is broken over lines cannot be copied; on a terminal that is
        # too narrow even for those, everything is broken rather than cut.
        no_wrap = fits and not columns[at].wraps
        shown.add_column(columns[at].head, overflow="fold", no_wrap=no_wrap)
    for row in rows:
        cells = [visible_line(row[at]) for at in kept]
        shown.add_row(*(Text(cell, _STATE_STYLES.get(cell, "")) for cell in cells))
    out.print(shown)
    hidden = [column.head for at, column in enumerate(columns) if at not in kept]
    if hidden:
        note(f"A wider terminal also shows {', '.join(hidden)}.")


def _least_width(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], kept: Sequence[int]
) -> int:
    return sum(
        2
        + (
            _LEAST_WIDTH
            if columns[at].wraps
            else max(len(columns[at].head), *(len(visible_line(row[at])) for row in rows), 0)
        )
        for at in kept
    )


def gate_cases(cases: object) -> None:
    """Print how each test ended; ``cases`` as the gate records them, and shows them in an error."""
    if not isinstance(cases, list):
        return
    rows = [case for case in cases if isinstance(case, dict)]
    if rows:
        table(
            (Column("CASE"), Column("RESULT"), Column("WHY", wraps=True)),
            [
                (
                    str(case.get("name")),
                    "passed" if case.get("passed") else "failed",
                    " ".join(map(str, case.get("failures") or ())),
                )
                for case in rows
            ],
        )


def facts(pairs: Sequence[tuple[str, str]]) -> None:
    """Print one fact per line, the names in a column of their own."""
    width = max(len(name) for name, _ in pairs) + 2
    out = console()
    for name, value in pairs:
        # Text + Text would keep the style of the first for both.
        line = Text.assemble((name.ljust(width), "dim"), visible_line(value))
        out.print(line, soft_wrap=True)


def heading(text: str) -> None:
    """Print a heading with an empty line before it."""
    out = console()
    out.print()
    out.print(Text(visible_line(text), style="bold"), soft_wrap=True)


def as_json(data: object) -> None:
    """Print ``data``, of plain values and wire structures, for a machine."""
    # A lone surrogate can come from raw SQL; escaped, it is still the text that is stored.
    say(json.dumps(msgspec.to_builtins(data), indent=2))


def say(text: str) -> None:
    """Print one line of the result."""
    typer.echo(text)


def write(text: str) -> None:
    """Print a whole file to standard output, in UTF-8 whatever the terminal's encoding is."""
    typer.echo(text.encode("utf-8", "surrogateescape"), nl=False)


def note(text: str) -> None:
    """Tell the person at the terminal; standard output is for the result alone."""
    typer.echo(visible(text), err=True)


def short_time(value: datetime) -> str:
    """Return a time for a table, in UTC to the minute."""
    return f"{value.astimezone(UTC):%Y-%m-%d %H:%M}"


def short_hash(value: str | None) -> str:
    """Return enough of a content hash to tell versions apart."""
    return "-" if value is None else value[:HASH_CHARS]


def counted(number: int, what: str) -> str:
    """Return ``number`` with its noun in the right number."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def indented(text: str) -> Iterator[str]:
    """Yield the lines of ``text``, visible and set in."""
    for line in visible(text).split("\n"):
        yield f"  {line}".rstrip()
