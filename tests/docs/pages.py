"""Reading the documentation: its pages, tables, code blocks and shell sessions."""

import importlib.util
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(slots=True)
class Command:
    """One command of a shell session, and the lines that the page shows as its output."""

    text: str
    shown: list[str] = field(default_factory=list)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(text: str, *languages: str) -> list[str]:
    return [body for language, body in _FENCE.findall(text) if language in languages]


def without_blocks(text: str) -> str:
    return _FENCE.sub("", text)


def tables(text: str) -> dict[str, list[list[str]]]:
    """Return the rows of the tables below each heading, without their heads."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for line in text.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            found.setdefault(heading, []).append([cell.strip() for cell in cells])
    return {
        heading: [row for row in rows if row[0].startswith("`")] for heading, rows in found.items()
    }


def names(rows: list[list[str]]) -> set[str]:
    """Return what stands in backticks in the first column."""
    return {row[0].split("`")[1] for row in rows}


def session(text: str) -> Iterator[Command]:
    """Yield the commands of all ``console`` blocks in order."""
    for block in blocks(text, "console"):
        command: Command | None = None
        for line in block.splitlines():
            if line.startswith("$ "):
                if command is not None:
                    yield command
                command = Command(line[2:])
            else:
                assert command is not None, f"a console block begins with output: {line}"
                if _is_complete(command.text):
                    command.shown.append(line)
                else:
                    command.text += "\n" + line
        if command is not None:
            yield command


def generator() -> ModuleType:
    """Return scripts/reference.py as a module."""
    spec = importlib.util.spec_from_file_location("reference", ROOT / "scripts" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _is_complete(command: str) -> bool:
    if command.endswith("\\"):
        return False
    try:
        shlex.split(command)
    except ValueError:
        return False
    return True
