"""JSON of other tools, read strictly: nothing that it says twice is silently lost."""

import json
from collections.abc import Mapping
from typing import Final, NoReturn

from onbook.adapters.template_formats.source import SourceText
from onbook.adapters.template_text import decoded, file_invalid

_MEDIA: Final = ("image", "file", "audio", "video")


class _Twice(ValueError):
    pass


def load_json(data: bytes, file: str) -> object:
    """Return the JSON value of ``data``, or the list of the values of JSON lines.

    Raises:
        TemplateInvalid: it is neither, is nested too deeply, or gives a key twice; the message
            names ``file`` and the line, and never quotes the file.
    """
    text = decoded(data, file)
    try:
        return _loaded(text)
    except json.JSONDecodeError as error:
        lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        if error.msg != "Extra data" or error.lineno == 1 or not _closed(lines[0][1]):
            reason = f"is not JSON at column {error.colno}"
            raise file_invalid(file, reason, line=error.lineno) from None
    except _Twice:
        raise file_invalid(file, "gives a key of an object twice") from None
    except RecursionError:
        raise file_invalid(file, "is nested too deeply") from None
    except ValueError:
        raise file_invalid(file, "holds a number that JSON does not have") from None
    return [_line(line, number, file) for number, line in lines]


def content_text(content: object, where: str, file: str) -> SourceText:
    """Return the text of a message's content: a text, or a list of text parts.

    Raises:
        TemplateInvalid: it holds anything but text.
    """
    if isinstance(content, str):
        return SourceText(content, where)
    if not isinstance(content, list):
        raise file_invalid(file, f"{where} must be a text or a list of parts")
    texts = []
    for index, part in enumerate(content):
        kind = str(part.get("type", "text")) if isinstance(part, Mapping) else ""
        if any(medium in kind for medium in _MEDIA):
            raise file_invalid(file, f"{where}[{index}] is media; a template is text only")
        text = part.get("text") if isinstance(part, Mapping) else None
        if not isinstance(text, str):
            raise file_invalid(file, f"{where}[{index}] holds no text")
        texts.append(text)
    return SourceText("\n".join(texts), where)


def _closed(line: str) -> bool:
    return line.lstrip().startswith("{") and line.rstrip().endswith("}")


def _line(line: str, number: int, file: str) -> object:
    try:
        return _loaded(line)
    except (ValueError, RecursionError):
        raise file_invalid(file, "is not a line of JSON", line=number) from None


def _loaded(text: str) -> object:
    return json.loads(text, object_pairs_hook=_object, parse_constant=_constant)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise _Twice
    return values


def _constant(_: str) -> NoReturn:
    raise ValueError
