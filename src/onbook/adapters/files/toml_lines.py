"""Where each key of a TOML text stands, so that an error can name the line."""

import re
import tomllib
from typing import Final

# Every token is matched once and never given back, and a text that is not closed is one to the end
# of its line or file, so that reading is linear.
_TOKEN: Final = re.compile(
    r'"""(?:[^"\\]|\\.|"{1,2}(?!"))*+(?:"{3,5})?'
    r"|'''(?:[^']|'{1,2}(?!'))*+(?:'{3,5})?"
    r'|"(?:[^"\\\n]|\\[^\n])*+"?'
    r"|'[^'\n]*+'?"
    r"|\#[^\n]*+|\n|[\[\]{}=]|[^\s\"'\#\[\]{}=]++|[^\S\n]++|.",
    re.DOTALL,
)
# Templates have keys of two parts, and a list of numbers nowhere.
_MAX_DOTS: Final = 16
_PART: Final = re.compile(r'"((?:[^"\\]|\\.)*+)"|\'([^\']*+)\'|([^\s."\'\[\]]++)')


def key_lines(text: str) -> dict[str, int]:
    """Return the line, from 1, of each key of ``text``, which must be valid TOML.

    Keys are paths such as ``sampling.temperature``, ``examples[3]`` (its header) and
    ``examples[3].user``. Keys inside inline tables have the line of the statement.
    """
    lines: dict[str, int] = {}
    counts: dict[str, int] = {}
    table = ""
    for line, statement in _statements(text):
        if statement.startswith("[["):
            name = _path(statement, table="", counts=counts)
            counts[name] = counts.get(name, -1) + 1
            table = f"{name}[{counts[name]}]"
            lines.setdefault(name, line)
            lines[table] = line
        elif statement.startswith("["):
            table = _path(statement, table="", counts=counts)
            lines.setdefault(table, line)
        else:
            lines.setdefault(_path(statement, table=table, counts=counts), line)
    return lines


def deep_key_line(text: str) -> int | None:
    """Return the first line with a key of more than ``_MAX_DOTS`` dots, or None.

    The standard library's parser takes quadratic time on such a key.
    """
    line, dots = 1, 0
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token[0] in "\"'#":
            line += token.count("\n")
            continue
        dots = 0 if token == "\n" else dots + token.count(".")
        if dots > _MAX_DOTS:
            return line
        line += token == "\n"
    return None


def line_of(lines: dict[str, int], key: str) -> int | None:
    """Return the line of ``key``, of a key in it, or of the nearest table around it, or None."""
    while key:
        if key in lines:
            return lines[key]
        inside = next((line for path, line in lines.items() if path.startswith(f"{key}.")), None)
        if inside is not None:
            return inside
        cut = max(key.rfind("."), key.rfind("["))
        key = key[: max(cut, 0)]
    return None


def _statements(text: str) -> list[tuple[int, str]]:
    """Return the line and the head (all before the value) of each statement."""
    statements = []
    line, start, depth = 1, 1, 0
    head: list[str] | None = []
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token == "\n" and depth == 0:
            if head:
                statements.append((start, "".join(head)))
            head, start = [], line + 1
        elif token == "=" and depth == 0 and head:
            statements.append((start, "".join(head)))
            head = None
        elif head is not None and not token.isspace() and not token.startswith("#"):
            head.append(token)
        elif token in ("[", "{"):
            depth += 1
        elif token in ("]", "}"):
            depth -= 1
        line += token.count("\n")
    if head:
        statements.append((start, "".join(head)))
    return statements


def _path(statement: str, *, table: str, counts: dict[str, int]) -> str:
    path = table
    for quoted, literal, bare in _PART.findall(statement):
        # The last table of a list is the one that the header speaks of.
        if path in counts:
            path = f"{path}[{counts[path]}]"
        part = _unescaped(quoted) or literal or bare
        path = f"{path}.{part}" if path else part
    return path


def _unescaped(quoted: str) -> str:
    return next(iter(tomllib.loads(f'"{quoted}" = 0'))) if "\\" in quoted else quoted
