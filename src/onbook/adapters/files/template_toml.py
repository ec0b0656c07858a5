"""One template as one TOML file that a person edits: lossless both ways."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import tomli_w

from onbook.adapters.files.toml_lines import deep_key_line, key_lines, line_of
from onbook.adapters.template_text import decoded, file_invalid
from onbook.domain.templates import (
    Example,
    Template,
    TemplateInvalid,
    TemplateTest,
    Variable,
    sampling_mapping,
    template_from_mapping,
)

# From here on a text gets lines of its own, even if it is a single one.
_LONG: Final = 80
_TOP: Final = (
    "template_name",
    "description",
    "model_type",
    "use_case",
    "content_mode",
    "target",
    "token_limit",
    "token_unit",
    "max_tokens",
    "system_prompt",
    "user_format",
    "negative_prompt",
    "examples_sent",
    "grammar",
)
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
# A quote that would be one of three, or next to the three that close the text.
_CLOSING: Final = re.compile(r'"(?="")|"\Z')
_POSITION: Final = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_MAX_VERSION: Final = 2**31 - 1
# How the standard library's messages start, and what they mean to a person. They are not passed
# on: some of them quote the file.
_SYNTAX: Final = {
    "Cannot overwrite": "a key is given twice",
    "Cannot declare": "a table is given twice",
    "Cannot mutate": "a table or list is added to after its end",
    "Duplicate inline": "a key is given twice",
    "Unterminated string": "a text is not closed",
    "Unclosed": "a list or table is not closed",
    "Unescaped": "a backslash in a text is not escaped",
    "Illegal character": "a character is not allowed there",
    "Found invalid character": "a character is not allowed there",
    "Invalid value": "a value is missing, or is not valid TOML",
    "Invalid statement": "a line is neither a key, a table nor a comment",
    "Expected": "something is missing, or there is too much",
}


@dataclass(frozen=True, slots=True)
class TemplateFile:
    """A template from a file, and the version that the file says it was exported from, if any.

    The template's own version is that one, or 1.
    """

    template: Template
    base_version: int | None


def to_toml(template: Template, *, version: int | None) -> str:
    """Return ``template`` as TOML; ``from_toml`` gives the same template back.

    ``version`` goes on top and says which version a person started from. What is not set, and a
    default, is left out.
    """
    return "\n".join(_lines(template, version)) + "\n"


def from_toml(data: bytes, *, file: str) -> TemplateFile:
    """Return the template of a TOML file.

    Raises:
        TemplateInvalid: it is no text or no TOML, or the template breaks a rule; the message names
            ``file``, the line and the key, and never quotes the file.
    """
    text = decoded(data, file)
    values = _parsed(text, file)
    version = values.pop("version", None)
    if version is not None and not (type(version) is int and 1 <= version <= _MAX_VERSION):
        line = line_of(key_lines(text), "version")
        raise file_invalid(file, "must be a whole number from 1", line=line, key="version")
    try:
        template = template_from_mapping(values, version=version or 1)
    except TemplateInvalid as error:
        raise _located(error, values, text, file) from None
    return TemplateFile(template, version)


def _lines(template: Template, version: int | None) -> Iterator[str]:
    if version is not None:
        yield f"version = {version}"
    for key in _TOP:
        value = getattr(template, key)
        # An empty negative prompt is not the same as none.
        if value or (value == "" and key == "negative_prompt"):
            yield _value(key, value)
    yield "\n[sampling]"
    for key, value in sampling_mapping(template.sampling).items():
        yield _plain(key, value)
    for variable in template.variables:
        yield from _variable(variable)
    for example in template.examples:
        yield from _example(example)
    for test in template.tests:
        yield from _test(test)


def _variable(variable: Variable) -> Iterator[str]:
    yield "\n[[variables]]"
    yield _plain("name", variable.name)
    yield _plain("type", variable.type)
    if variable.required:
        yield "required = true"
    if variable.default is not None:
        yield _value("default", variable.default)


def _example(example: Example) -> Iterator[str]:
    yield "\n[[examples]]"
    yield _text("user", example.user)
    yield _text("assistant", example.assistant)


def _test(test: TemplateTest) -> Iterator[str]:
    yield "\n[[tests]]"
    yield _plain("name", test.name)
    yield _text("input", test.input)
    for key, texts in (("must_keep", test.must_keep), ("must_not", test.must_not)):
        if texts:
            yield _plain(key, list(texts))
    if test.max_tokens is not None:
        yield _plain("max_tokens", test.max_tokens)
    if test.mode is not None:
        yield _plain("mode", test.mode)
    if test.seed:
        yield _plain("seed", test.seed)
    if test.variables:
        yield "\n[tests.variables]"
        for name, value in test.variables.items():
            yield _value(name, value)


def _value(key: str, value: object) -> str:
    return _text(key, value) if isinstance(value, str) else _plain(key, value)


def _plain(key: str, value: object) -> str:
    return tomli_w.dumps({key: value}).rstrip("\n")


def _text(key: str, value: str) -> str:
    # A reader of TOML turns CR LF inside a text of several lines into LF, so that such a text
    # stays on one line, escaped.
    if "\r" in value or ("\n" not in value and len(value) <= _LONG):
        return _plain(key, value)
    head = _plain(key, "").partition("=")[0]
    if (
        ('"' in value or "\\" in value)
        and "'''" not in value
        and not value.endswith("'")
        and _CONTROL.search(value) is None
    ):
        return f"{head}= '''\n{value}'''"
    body = _CLOSING.sub(r"\\\g<0>", value.replace("\\", "\\\\"))
    body = _CONTROL.sub(lambda match: f"\\u{ord(match.group()):04x}", body)
    return f'{head}= """\n{body}"""'


def _parsed(text: str, file: str) -> dict[str, object]:
    deep = deep_key_line(text)
    if deep is not None:
        raise file_invalid(file, "has a key of too many parts", line=deep)
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise file_invalid(file, "is nested too deeply") from None
    except ValueError as error:
        message = str(error)
        position = _POSITION.search(message)
        line = int(position[1]) if position and position[1] else None
        meaning = next(
            (known for start, known in _SYNTAX.items() if message.startswith(start)), "a mistake"
        )
        column = f" at column {position[2]}" if position and position[2] else ""
        end = " at the end of the file" if position and not position[1] else ""
        raise file_invalid(file, f"is not TOML{column}{end}: {meaning}", line=line) from None


def _located(
    error: TemplateInvalid, values: Mapping[str, object], text: str, file: str
) -> TemplateInvalid:
    details = error.details or {}
    listed = details.get("fields")
    key = str(listed[0]) if isinstance(listed, list) else ""
    place = key
    if key.startswith("variables."):
        place = _variable_place(values, key.removeprefix("variables."))
    line = line_of(key_lines(text), place)
    name = str(details.get("template_name", ""))
    reason = error.message.removeprefix(f"Template {name}: {key} ").removesuffix(".")
    return file_invalid(file, reason, line=line, key=key)


def _variable_place(values: Mapping[str, object], name: str) -> str:
    variables = values.get("variables")
    for index, item in enumerate(variables if isinstance(variables, list) else []):
        if isinstance(item, Mapping) and item.get("name") == name:
            return f"variables[{index}]"
    return "variables"
