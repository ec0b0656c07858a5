"""Reading a file that a person made: bytes in, text or one clear sentence out."""

from pathlib import Path
from typing import Final

from onbook.domain.templates import TemplateInvalid

MAX_FILE_BYTES: Final = 1024 * 1024

_BOM: Final = b"\xef\xbb\xbf"


def read_file(path: Path) -> bytes:
    """Return the bytes of a template file; of one that is too large, no more than is needed.

    Raises:
        OSError: it cannot be read.
        TemplateInvalid: it is larger than ``MAX_FILE_BYTES``.
    """
    with path.open("rb") as stream:
        data = stream.read(MAX_FILE_BYTES + 1)
    check_size(data, path.name)
    return data


def decoded(data: bytes, file: str) -> str:
    """Return the text of ``data``.

    Raises:
        TemplateInvalid: it is empty, larger than ``MAX_FILE_BYTES``, not UTF-8, or holds a
            byte-order mark or a NUL byte; the message names ``file`` and the line.
    """
    check_size(data, file)
    if not data.strip():
        raise file_invalid(file, "is empty")
    if data.startswith(_BOM):
        raise file_invalid(file, "starts with a byte-order mark; save it as UTF-8 without one")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise file_invalid(file, "is UTF-16; save it as UTF-8")
    if b"\0" in data:
        raise file_invalid(
            file, "holds a NUL byte", line=data.count(b"\n", 0, data.index(b"\0")) + 1
        )
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise file_invalid(file, "is not UTF-8", line=line) from None


def check_size(data: bytes, file: str) -> None:
    """Refuse data that is larger than ``MAX_FILE_BYTES``.

    Raises:
        TemplateInvalid: it is.
    """
    if len(data) > MAX_FILE_BYTES:
        raise file_invalid(file, f"is larger than {MAX_FILE_BYTES // 1024} KiB")


def file_invalid(
    file: str, reason: str, *, line: int | None = None, key: str | None = None
) -> TemplateInvalid:
    """Return the error that says ``<file>, line <line>: <key> <reason>``, as one sentence."""
    # A key may be any text of the file.
    key = key and "".join(char if char.isprintable() else "?" for char in key[:80])
    place = file if line is None else f"{file}, line {line}"
    details: dict[str, object] = {"file": file}
    if line is not None:
        details["line"] = line
    if key is not None:
        details["fields"] = [key]
        reason = f"{key} {reason}"
    return TemplateInvalid(f"{place}: {reason}.", details=details)
