"""Any file that holds templates, or prompts of another tool that can become templates."""

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Final, Literal, get_args

from onbook.adapters.files.template_toml import from_toml
from onbook.adapters.template_formats import dotprompt, langfuse, openai_prompt
from onbook.adapters.template_formats.json_text import load_json
from onbook.adapters.template_formats.source import ImportDefaults, ImportedTemplate
from onbook.adapters.template_text import decoded, file_invalid

Format = Literal["toml", "langfuse", "dotprompt", "openai"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)

_TOML_NAME: Final = re.compile(r"^template_name[ \t]*=", re.MULTILINE)
_OPENAI_KEYS: Final = ("instructions", "messages", "input")


def read_templates(
    data: bytes, *, file: str, format_: Format | None, defaults: ImportDefaults | None
) -> list[ImportedTemplate]:
    """Return every template of a file.

    ``format_`` None looks at the name and the content. ``defaults`` may be None for TOML, which
    says everything itself and ignores them.

    Raises:
        TemplateInvalid: the file cannot be read as what it is; the message names it, and the
            line or the path in it.
    """
    chosen = format_ or detect_format(data, file)
    if chosen == "toml":
        read = from_toml(data, file=file)
        return [ImportedTemplate(read.template, base_version=read.base_version)]
    if defaults is None:
        raise file_invalid(file, "is no TOML; say which model, use case and limits it is for")
    if chosen == "langfuse":
        return langfuse.parse_all(data, file=file, defaults=defaults)
    parser = dotprompt.parse if chosen == "dotprompt" else openai_prompt.parse
    return [parser(data, file=file, defaults=defaults)]


def detect_format(data: bytes, file: str) -> Format:
    """Return the format of a file by its name or, where that leaves it open, its content.

    Raises:
        TemplateInvalid: it is none of the known ones.
    """
    suffix = PurePath(file).suffix.lower()
    if suffix == ".toml":
        return "toml"
    if suffix == ".prompt":
        return "dotprompt"
    text = decoded(data, file).lstrip()
    if suffix in (".json", ".jsonl", ".ndjson") or text.startswith("{"):
        return _json_format(load_json(data, file), file)
    if text.startswith("---"):
        return "dotprompt"
    if _TOML_NAME.search(text):
        return "toml"
    if text.startswith("["):
        return _json_format(load_json(data, file), file)
    raise file_invalid(file, f"is none of the formats {', '.join(FORMATS)}; name the one it is")


def _json_format(value: object, file: str) -> Format:
    item = value
    if isinstance(value, Mapping):
        listed = next((value[key] for key in ("data", "prompts") if key in value), None)
        item = listed if isinstance(listed, list) else value
    if isinstance(item, list):
        item = item[0] if item else None
    if isinstance(item, Mapping):
        prompt = item.get("prompt")
        mentioned = item.get("id"), prompt.get("id") if isinstance(prompt, Mapping) else None
        if any(isinstance(name, str) and name.startswith("pmpt_") for name in mentioned):
            return "openai"
        if isinstance(prompt, str | list) or "versions" in item:
            return "langfuse"
        if any(key in item for key in _OPENAI_KEYS):
            return "openai"
    raise file_invalid(file, "is JSON, but neither a prompt of Langfuse nor one of OpenAI")
