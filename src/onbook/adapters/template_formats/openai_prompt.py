"""Reusable prompts of OpenAI: the ``pmpt_`` object, or a request or response that uses one."""

from collections.abc import Mapping
from typing import Final

from onbook.adapters.template_formats.assemble import assemble
from onbook.adapters.template_formats.json_text import content_text, load_json
from onbook.adapters.template_formats.source import (
    ROLES,
    ImportDefaults,
    ImportedTemplate,
    SourceMessage,
    SourcePrompt,
    SourceText,
    read_parameters,
    set_keys,
)
from onbook.adapters.template_text import file_invalid
from onbook.domain.templates import Variable

_TEXT_KEYS: Final = ("instructions", "messages", "input")
# What a prompt object calls itself and its variables; read apart from the parameters.
_READ: Final = (*_TEXT_KEYS, "name", "title", "description", "variables", "prompt")


def parse(data: bytes, *, file: str, defaults: ImportDefaults) -> ImportedTemplate:
    """Return the prompt of a file as a template.

    ``instructions`` are the system text; ``messages`` or ``input`` follow. A variable with a value
    gets it as its default.

    Raises:
        TemplateInvalid: the file is not JSON or holds no prompt's text, or the prompt needs what
            a template has not.
    """
    value = load_json(data, file)
    if isinstance(value, Mapping) and isinstance(value.get("data"), list):
        value = value["data"]
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, Mapping):
        raise file_invalid(file, "does not hold exactly one prompt")
    return assemble(_source(value, file), defaults, file)


def _source(value: Mapping[str, object], file: str) -> SourcePrompt:
    nested = value.get("prompt")
    prompt = nested if isinstance(nested, Mapping) else {}
    messages: list[SourceMessage] = []
    left_out: list[str] = []
    for path, holder in (("prompt.", prompt), ("", value)):
        for key in _TEXT_KEYS:
            found, others = _messages(holder.get(key), key, f"{path}{key}", file)
            messages += found
            left_out += others
    if not isinstance(nested, Mapping):
        messages += _messages(nested, "prompt", "prompt", file)[0]
    if not messages:
        raise file_invalid(
            file, "holds no text of a prompt, at most a reference to it; add its instructions"
        )
    variables, more = _variables(value.get("variables"), "variables", file)
    inner, inner_more = _variables(prompt.get("variables"), "prompt.variables", file)
    parameters, others = read_parameters(
        {key: item for key, item in value.items() if key not in _READ and item not in ("", [], {})}
    )
    outer = {variable.name: variable for variable in variables}
    name = next((item for item in (
        value.get("name"), value.get("title"), prompt.get("name"), prompt.get("id"), value.get("id")
    ) if isinstance(item, str) and item.strip()), "")  # fmt: skip
    description = value.get("description")
    return SourcePrompt(
        name=name,
        description=description if isinstance(description, str) else "",
        messages=tuple(messages),
        variables=tuple({**{item.name: item for item in inner}, **outer}.values()),
        parameters=parameters,
        left_out=(
            *others,
            *set_keys(prompt, (*_TEXT_KEYS, "variables", "name"), "prompt."),
            *left_out,
            *more,
            *inner_more,
        ),
    )


def _messages(
    value: object, key: str, where: str, file: str
) -> tuple[list[SourceMessage], list[str]]:
    if value is None or value == "":
        return [], []
    if isinstance(value, str):
        author = "user" if key == "input" else "system"
        return [SourceMessage(ROLES[author], SourceText(value, where))], []
    if not isinstance(value, list):
        raise file_invalid(file, f"{where} must be a text or a list of messages")
    messages: list[SourceMessage] = []
    left_out: list[str] = []
    for index, item in enumerate(value):
        place = f"{where}[{index}]"
        role = item.get("role") if isinstance(item, Mapping) else None
        if not isinstance(item, Mapping) or not isinstance(role, str) or role not in ROLES:
            raise file_invalid(file, f"{place}.role must be one of {', '.join(ROLES)}")
        content = content_text(item.get("content"), f"{place}.content", file)
        messages.append(SourceMessage(ROLES[role], content))
        left_out += set_keys(item, ("type", "role", "content"), f"{place}.")
    return messages, left_out


def _variables(value: object, path: str, file: str) -> tuple[list[Variable], list[str]]:
    """Read ``{name: value}``, ``{name: {...}}`` or a list of names or of ``{"name": ...}``."""
    items: list[tuple[object, object]]
    if value is None:
        return [], []
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, list):
        items = [
            (item.get("name"), item) if isinstance(item, Mapping) else (item, None)
            for item in value
        ]
    else:
        raise file_invalid(file, f"{path} must be an object or a list")
    variables: list[Variable] = []
    left_out: list[str] = []
    for name, item in items:
        if not isinstance(name, str):
            raise file_invalid(file, f"{path} must each have a name")
        default: object = item
        if isinstance(item, Mapping):
            kind = str(item.get("type", "string"))
            if kind not in ("string", "text", "input_text"):
                raise file_invalid(file, f"{path}.{name[:64]} is not a text")
            keys = ("default", "default_value", "value", "text")
            default = next((item[key] for key in keys if item.get(key) is not None), None)
            left_out += set_keys(item, (*keys, "name", "type"), f"{path}.{name}.")
        if not isinstance(default, str | None):
            raise file_invalid(file, f"{path}.{name[:64]} must have a text as its value")
        variables.append(Variable(name, "string", default is None, default))
    return variables, left_out
