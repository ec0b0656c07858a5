"""``.prompt`` files (dotprompt): YAML front matter, then messages in a template language."""

import re
from collections.abc import Hashable, Mapping
from pathlib import PurePath
from typing import Final

import yaml

from onbook.adapters.template_formats.assemble import assemble
from onbook.adapters.template_formats.picoschema import schema_variables
from onbook.adapters.template_formats.slots import pieces
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
from onbook.adapters.template_text import decoded, file_invalid

# The YAML reader is slow and recursive; no front matter of a prompt comes near this.
_MAX_FRONT_CHARS: Final = 65_536
_MAX_DEPTH: Final = 20
_STARTS: Final = (
    yaml.FlowSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.BlockMappingStartToken,
)
_ENDS: Final = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken, yaml.BlockEndToken)
_FENCE: Final = re.compile(r"^---[ \t]*\r?$", re.MULTILINE)
_ROLE: Final = re.compile(r"""role\s+(?:"([a-z]{1,20})"|'([a-z]{1,20})')""")
_READ: Final = ("name", "variant", "description", "config", "input")


class _Refused(ValueError):
    def __init__(self, reason: str, line: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.line = line


class _Loader(yaml.SafeLoader):
    """The safe loader, which a key that is given twice does not pass."""

    def construct_mapping(
        self,
        node: yaml.MappingNode,
        deep: bool = False,  # noqa: FBT001, FBT002  # as in the base
    ) -> dict[Hashable, object]:
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                raise _Refused("gives a key twice", key.start_mark.line)
            seen.add(name)
        return super().construct_mapping(node, deep=deep)


def parse(data: bytes, *, file: str, defaults: ImportDefaults) -> ImportedTemplate:
    """Return the prompt of a file as a template.

    Text before the first ``{{role}}`` is a user's message, as the format has it.

    Raises:
        TemplateInvalid: the front matter is not YAML, or the prompt needs what a template has
            not, such as ``{{#if}}``; the message names the line.
    """
    text = decoded(data, file)
    front, body, line = _split(text, file)
    meta = _front_matter(front, file)
    config, schema = _table(meta, "config", file), _table(meta, "input", file)
    parameters, others = read_parameters(config, "config.")
    variables, left_out, warnings = schema_variables(
        schema.get("schema"), _table(schema, "default", file, "input."), file
    )
    description = meta.get("description")
    prompt = SourcePrompt(
        name=_name(meta, file),
        description=description if isinstance(description, str) else "",
        messages=tuple(_messages(body, line, file)),
        variables=tuple(variables),
        parameters=parameters,
        left_out=(
            *set_keys(meta, _READ),
            *others,
            *set_keys(schema, ("schema", "default"), "input."),
            *left_out,
        ),
        warnings=tuple(warnings),
    )
    return assemble(prompt, defaults, file)


def _split(text: str, file: str) -> tuple[str, str, int]:
    """Return the front matter, the body, and the line that the body starts on."""
    start = _FENCE.search(text)
    if start is None or text[: start.start()].strip():
        return "", text, 1
    end = _FENCE.search(text, start.end() + 1)
    if end is None:
        line = text.count("\n", 0, start.start()) + 1
        raise file_invalid(file, "opens front matter with --- and does not close it", line=line)
    front = text[: start.start()] + text[start.end() : end.start()]
    if len(front) > _MAX_FRONT_CHARS:
        raise file_invalid(file, f"has front matter of more than {_MAX_FRONT_CHARS} characters")
    return front, text[end.end() :], text.count("\n", 0, end.end()) + 1


def _front_matter(front: str, file: str) -> Mapping[str, object]:
    try:
        _check_tokens(front)
        loader = _Loader(front)
        try:
            meta = loader.get_single_data()
        finally:
            loader.dispose()
    except _Refused as error:
        raise file_invalid(
            file, f"{error.reason} in its front matter", line=error.line + 1
        ) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        raise file_invalid(file, "has front matter that is not YAML", line=line) from None
    except (yaml.YAMLError, ValueError, OverflowError):
        raise file_invalid(file, "has front matter with a value that is not YAML") from None
    if meta is None:
        return {}
    if not isinstance(meta, Mapping) or not all(isinstance(key, str) for key in meta):
        raise file_invalid(file, "has front matter that is not a table of named values")
    return meta


def _check_tokens(front: str) -> None:
    depth = 0
    for token in yaml.scan(front):
        line = token.start_mark.line
        # With them a few lines can grow without bounds.
        if isinstance(token, yaml.AnchorToken | yaml.AliasToken):
            raise _Refused("holds an anchor or alias", line)
        depth += isinstance(token, _STARTS)
        depth -= isinstance(token, _ENDS)
        # The scanner's time grows with the square of the depth, and the reader is recursive.
        if depth > _MAX_DEPTH:
            raise _Refused("is nested too deeply", line)


def _table(
    values: Mapping[str, object], key: str, file: str, path: str = ""
) -> Mapping[str, object]:
    value = values.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise file_invalid(file, "must be a table", key=f"{path}{key}")
    return value


def _name(meta: Mapping[str, object], file: str) -> str:
    name, variant = meta.get("name"), meta.get("variant")
    if not isinstance(name, str) or not name.strip():
        return PurePath(file).name.removesuffix(".prompt")
    return f"{name}.{variant}" if isinstance(variant, str) and variant else name


def _messages(body: str, line: int, file: str) -> list[SourceMessage]:
    whole = SourceText(body, line=line)
    role = "user"
    start = 0
    parts: list[str] = []
    messages: list[SourceMessage] = []

    def close() -> None:
        text = SourceText("".join(parts), line=line + start)
        if text.text.strip():
            messages.append(SourceMessage(ROLES[role], text))

    for piece in pieces(body, lambda reason, at: whole.refused(file, reason, at)):
        found = None if isinstance(piece, str) else _ROLE.fullmatch(piece.body)
        if not isinstance(piece, str) and piece.body == "history":
            raise whole.refused(file, "holds {{history}}, which is a helper", piece.line)
        if isinstance(piece, str) or found is None:
            parts.append(piece if isinstance(piece, str) else piece.raw)
            continue
        close()
        role, start = found[1] or found[2], piece.line
        if role not in ROLES:
            raise whole.refused(file, "holds a {{role}} that a template has not", piece.line)
        parts = []
    close()
    if not messages:
        raise file_invalid(file, "holds no text")
    return messages
