"""A console on standard output, and texts of others that are safe to print on it."""

import sys

from rich.console import Console


def console(*, layout_for_terminal: bool | None = None) -> Console:
    """Return a console on standard output; what its encoding lacks is shown escaped.

    ``layout_for_terminal`` says whether to lay out for a terminal; None finds out, and a person
    can force it by ``FORCE_COLOR``.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    return Console(
        file=sys.stdout,
        force_terminal=layout_for_terminal,
        highlight=False,
        markup=False,
        emoji=False,
    )


def visible(text: str) -> str:
    """Return ``text`` without control characters, which a terminal would obey."""
    return "".join(
        char if char in "\n\t" or (char >= " " and not "\x7f" <= char <= "\x9f") else "\ufffd"
        for char in text
    )


def visible_line(text: str) -> str:
    """Return ``text`` as ``visible`` does, on one line."""
    return visible(text).replace("\n", " ").replace("\t", " ")
