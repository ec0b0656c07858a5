"""Prompts of Langfuse, as its API gives them: one, a list, or lines of JSON."""

from collections.abc import Mapping, Sequence
from typing import Final

from onbook.adapters.template_formats.assemble import assemble
from onbook.adapters.template_formats.json_text import content_text, load_json
from onbook.adapters.template_formats.source import (
    ROLES,
    ImportDefaults,
    ImportedTemplate,
    SourceMessage,
    SourcePrompt,
    read_parameters,
    set_keys,
)
from onbook.adapters.template_text import file_invalid

# Parameters that a team keeps in a table of their own inside the free-form config.
_NESTED: Final = ("model_parameters", "modelParameters", "model_params", "modelParams")
_REFERENCE: Final = "@@@langfusePrompt:"


def parse(data: bytes, *, file: str, defaults: ImportDefaults) -> ImportedTemplate:
    """Return the one prompt of a file as a template.

    Raises:
        TemplateInvalid: as ``parse_all``, or the file holds more than one prompt.
    """
    imported = parse_all(data, file=file, defaults=defaults)
    if len(imported) > 1:
        raise file_invalid(file, f"holds {len(imported)} prompts, not one")
    return imported[0]


def parse_all(data: bytes, *, file: str, defaults: ImportDefaults) -> list[ImportedTemplate]:
    """Return every prompt of a file as a template.

    Of several versions of a prompt, the one labelled ``production`` is taken, else ``latest``,
    else the highest. A text prompt becomes the system prompt, unless it holds the user's variable.

    Raises:
        TemplateInvalid: the file is not JSON or no prompt of Langfuse, or a prompt needs what a
            template has not.
    """
    prompts = _prompts(load_json(data, file), file)
    if len(prompts) > 1 and defaults.template_name is not None:
        raise file_invalid(file, f"holds {len(prompts)} prompts; one name cannot be theirs")
    return [
        assemble(_source(versions, path, file), defaults, file)
        for path, versions in prompts.items()
    ]


def _prompts(value: object, file: str) -> dict[str, list[Mapping[str, object]]]:
    """Return the versions of each prompt, by the path of the first one."""
    items: object = value
    prefix = ""
    if isinstance(value, Mapping) and "prompt" not in value:
        prefix = next((key for key in ("data", "prompts") if isinstance(value.get(key), list)), "")
        items = value.get(prefix)
    elif isinstance(value, Mapping):
        items = [value]
    if not isinstance(items, list) or not items:
        raise file_invalid(file, "holds no prompt of Langfuse")
    one = isinstance(value, Mapping) and not prefix
    by_name: dict[str, tuple[str, list[Mapping[str, object]]]] = {}
    for index, item in enumerate(items):
        path = "" if one else f"{prefix}[{index}]."
        if not isinstance(item, Mapping):
            raise file_invalid(file, f"{path[:-1]} is not a prompt")
        if "prompt" not in item and "versions" in item:
            raise file_invalid(
                file, "lists prompts without their texts; fetch each one by its name"
            )
        name = item.get("name")
        if not isinstance(name, str) or not name.strip():
            raise file_invalid(file, f"{path}name must be a text")
        by_name.setdefault(name, (path, []))[1].append(item)
    return dict(by_name.values())


def _source(versions: Sequence[Mapping[str, object]], path: str, file: str) -> SourcePrompt:
    prompt = max(versions, key=_rank)
    warnings = [
        f"Version {item['version']} of the same prompt is not carried over."
        if isinstance(item.get("version"), int)
        else "Another version of the same prompt is not carried over."
        for item in versions
        if item is not prompt
    ]
    content = prompt.get("prompt")
    left_out = list(set_keys(prompt, ("name", "prompt", "type", "config")))
    if isinstance(content, str):
        text = content_text(content, f"{path}prompt", file)
        messages = [SourceMessage("system", text)]
    elif isinstance(content, list) and content:
        messages = []
        for index, item in enumerate(content):
            where = f"{path}prompt[{index}]"
            if not isinstance(item, Mapping):
                raise file_invalid(file, f"{where} is not a message")
            if item.get("type") == "placeholder":
                left_out.append(f"{where} (a placeholder)")
                continue
            messages.append(_message(item, where, file))
            left_out += set_keys(item, ("type", "role", "content"), f"{where}.")
    else:
        raise file_invalid(file, f"{path}prompt must be a text or a list of messages")
    for message in messages:
        if _REFERENCE in message.content.text:
            line = message.content.text.partition(_REFERENCE)[0].count("\n")
            raise message.content.refused(
                file, "holds a reference to another prompt; export it resolved", line
            )
    parameters, others = _config(prompt.get("config"), f"{path}config", file)
    return SourcePrompt(
        name=str(prompt["name"]),
        messages=tuple(messages),
        parameters=parameters,
        left_out=(*left_out, *others),
        warnings=tuple(warnings),
    )


def _rank(prompt: Mapping[str, object]) -> tuple[bool, bool, int]:
    labels = prompt.get("labels")
    listed = labels if isinstance(labels, list) else []
    version = prompt.get("version")
    return (
        "production" in listed,
        "latest" in listed,
        version if isinstance(version, int) else 0,
    )


def _message(item: Mapping[str, object], where: str, file: str) -> SourceMessage:
    role = item.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise file_invalid(file, f"{where}.role must be one of {', '.join(ROLES)}")
    return SourceMessage(ROLES[role], content_text(item.get("content"), f"{where}.content", file))


def _config(config: object, path: str, file: str) -> tuple[dict[str, object], list[str]]:
    if config is None:
        return {}, []
    if not isinstance(config, Mapping):
        raise file_invalid(file, f"{path} must be an object")
    flat = {key: value for key, value in config.items() if key not in _NESTED}
    parameters, others = read_parameters(flat, "config.")
    for key in _NESTED:
        nested = config.get(key)
        if isinstance(nested, Mapping):
            found, more = read_parameters(nested, f"config.{key}.")
            parameters = {**found, **parameters}
            others += more
        elif nested is not None:
            others.append(f"config.{key}")
    return parameters, others
