"""Template files that a person names on the command line; '-' is standard input."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from onbook.adapters.files.template_toml import from_toml
from onbook.adapters.template_text import MAX_FILE_BYTES, file_invalid, read_file
from onbook.cli.options import fail
from onbook.cli.terminal import visible_line

if TYPE_CHECKING:
    from onbook.adapters.files.template_toml import TemplateFile

STDIN: Final = Path("-")


def read_template_file(path: Path) -> "TemplateFile":
    """Return the template in ``path``; ends the program if it cannot be read.

    Raises:
        TemplateInvalid: it is no template; the message names file, line and key.
    """
    return from_toml(read_bytes(path), file=shown(path))


def read_bytes(path: Path) -> bytes:
    """Return what ``path`` holds, at most 1 MiB; ends the program if it cannot be read.

    Raises:
        TemplateInvalid: it is larger.
    """
    if path == STDIN:
        data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise file_invalid(shown(path), f"is larger than {MAX_FILE_BYTES // 1024} KiB")
        return data
    try:
        return read_file(path)
    except OSError as error:
        fail(visible_line(f"{path} cannot be read: {error.strerror}."))


def shown(path: Path) -> str:
    """Return ``path`` as an error names it."""
    return "standard input" if path == STDIN else str(path)
