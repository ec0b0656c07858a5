"""The ``{{...}}`` of other tools' prompts: plain variables are taken, all else is refused."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from onbook.domain.template_rules import SLOT
from onbook.domain.templates import TemplateInvalid

_SHOWN: Final = re.compile(r"[#^/>&@*]? ?[\w.@/-]{0,40}")
_LOGIC: Final = ("#", "^", "/")

# Makes the error for a reason and a line of the text, from 0.
Refuse = Callable[[str, int], TemplateInvalid]


@dataclass(frozen=True, slots=True)
class Tag:
    """One ``{{...}}``: as it stands, what is inside, and its line in the text, from 0."""

    raw: str
    body: str
    line: int


@dataclass(frozen=True, slots=True)
class SlottedText:
    """A text whose every slot is a plain ``{{name}}``; ``comments`` were taken out of it."""

    text: str
    names: tuple[str, ...]
    comments: int


def pieces(text: str, refuse: Refuse) -> Iterator[str | Tag]:
    """Yield the text between tags and the tags, in order, reading ``text`` once.

    Raises:
        TemplateInvalid: a tag is not closed.
    """
    position = line = 0
    while (start := text.find("{{", position)) >= 0:
        yield text[position:start]
        line += text.count("\n", position, start)
        opening, closing = "{{", "}}"
        if text.startswith("{{!--", start):
            opening, closing = "{{!--", "--}}"
        elif text.startswith("{{{", start):
            opening, closing = "{{{", "}}}"
        end = text.find(closing, start + len(opening))
        if end < 0:
            raise refuse(f"holds {opening} that is not closed", line)
        position = end + len(closing)
        body = text[start + len(opening) : end]
        yield Tag(text[start:position], "!" if opening == "{{!--" else body.strip(), line)
        line += text.count("\n", start, position)
    yield text[position:]


def read_slots(text: str, refuse: Refuse) -> SlottedText:
    """Return ``text`` with its slots in the form of a template, and their names in order.

    Raises:
        TemplateInvalid: from ``refuse``, naming the construct that is not a plain variable.
    """
    parts: list[str] = []
    names: list[str] = []
    comments = 0
    after_comment = False
    for piece in pieces(text, refuse):
        if isinstance(piece, str):
            parts.append(_without_line(parts, piece) if after_comment else piece)
            after_comment = False
        elif piece.body.startswith("!"):
            comments += 1
            after_comment = True
        elif parts and parts[-1].endswith("\\"):
            raise refuse("holds an escaped {{, which a template cannot", piece.line)
        elif SLOT.fullmatch(f"{{{{{piece.body}}}}}") is None or piece.body in ("else", "this"):
            raise refuse(f"holds {_described(piece.body)}", piece.line)
        else:
            names.append(piece.body)
            parts.append(f"{{{{{piece.body}}}}}")
    return SlottedText("".join(parts), tuple(names), comments)


def _without_line(parts: list[str], piece: str) -> str:
    """Take the rest of the line out of ``piece`` if a comment was all that the line held."""
    before = "".join(parts[-2:])
    line_start = not before.rpartition("\n")[2].strip() or not before
    rest, newline, following = piece.partition("\n")
    return following if line_start and newline and not rest.strip() else piece


def _described(body: str) -> str:
    if body.startswith("~") or body.endswith("~"):
        return "a {{~}}, which trims white space; a template does not"
    match = _SHOWN.match(body)
    shown = f"{{{{{match.group() if match else ''}}}}}"
    word = body.partition(" ")[0]
    kinds = (
        (body.startswith(_LOGIC) or word == "else", "logic; a template has none"),
        (body.startswith(">"), "a partial; put its text here"),
        (body.startswith("@"), "a value of the context; use a variable"),
        (word == "media", "media; a template is text only"),
        (" " in body, "a helper; a template has none"),
        ("." in body or "/" in body or "[" in body, "a nested path; use a plain variable"),
    )
    kind = next((text for found, text in kinds if found), "not the name of a variable")
    return f"{shown}, which is {kind}"
