"""Picoschema and JSON Schema of a ``.prompt`` file's input, as declared variables."""

import re
from collections.abc import Mapping
from typing import Final, cast

from onbook.adapters.template_text import file_invalid
from onbook.domain.template_rules import SLOT
from onbook.domain.templates import Variable, VariableType

_KEY: Final = re.compile(r"([^?(]{1,200})(\?)?(?:\((\w{1,20})(,.{0,1000})?\))?", re.DOTALL)
_TYPES: Final = {
    "string": "string",
    "integer": "integer",
    "number": "number",
    "boolean": "boolean",
    "any": "string",
}


def schema_variables(
    schema: object, defaults: Mapping[str, object], file: str
) -> tuple[list[Variable], list[str], list[str]]:
    """Return the variables of an input schema, what is left out of it, and warnings.

    A field that is not optional and has no default is required. Fields that are lists or tables
    are left out: a slot that uses one is refused where it stands.

    Raises:
        TemplateInvalid: a default is no text, number or boolean.
    """
    left_out: list[str] = []
    warnings: list[str] = []
    found: dict[str, Variable] = {}
    for name, kind, required in _declared(schema, left_out, warnings):
        found[name] = Variable(name, kind, required and name not in defaults)
    for name, value in defaults.items():
        if SLOT.fullmatch(f"{{{{{name}}}}}") is None:
            left_out.append(f"input.default.{name}")
            continue
        if not isinstance(value, str | int | float):
            raise file_invalid(
                file, "must be a text, a number, true or false", key=f"input.default.{name}"
            )
        kind = found[name].type if name in found else _type_of(value)
        found[name] = Variable(name, kind, default=value)
    return list(found.values()), left_out, warnings


def _declared(
    schema: object, left_out: list[str], warnings: list[str]
) -> list[tuple[str, VariableType, bool]]:
    if schema is None:
        return []
    if not isinstance(schema, Mapping):
        left_out.append("input.schema (it is not in the file)")
        return []
    properties = schema.get("properties")
    if schema.get("type") == "object" and isinstance(properties, Mapping):
        return _json_schema(schema, properties, left_out)
    declared = []
    described = False
    for key, value in schema.items():
        match = _KEY.fullmatch(str(key))
        name = match[1].strip() if match else ""
        kind, comma, _ = (value if isinstance(value, str) else "").partition(",")
        structure = match[3] if match else None
        if structure == "enum" and isinstance(value, list):
            warnings.append(f"The choices of {{{{{name}}}}} are not carried over; it is any text.")
            kind, structure = "string", None
        if match is None or structure or kind.strip() not in _TYPES or not _is_slot(name):
            left_out.append(f"input.schema.{name or key}")
            continue
        described = described or bool(comma or match[4])
        declared.append((name, cast("VariableType", _TYPES[kind.strip()]), match[2] is None))
    if described:
        left_out.append("input.schema (the descriptions)")
    return declared


def _json_schema(
    schema: Mapping[object, object], properties: Mapping[object, object], left_out: list[str]
) -> list[tuple[str, VariableType, bool]]:
    listed = schema.get("required")
    required = listed if isinstance(listed, list) else []
    declared = []
    for name, value in properties.items():
        kind = value.get("type") if isinstance(value, Mapping) else None
        if not isinstance(kind, str) or kind not in _TYPES or not _is_slot(str(name)):
            left_out.append(f"input.schema.{name}")
            continue
        if isinstance(value, Mapping) and set(value) - {"type"}:
            left_out.append(f"input.schema.{name} (all but its type)")
        declared.append((str(name), cast("VariableType", _TYPES[kind]), name in required))
    return declared


def _is_slot(name: str) -> bool:
    return SLOT.fullmatch(f"{{{{{name}}}}}") is not None


def _type_of(value: object) -> VariableType:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    return "number" if isinstance(value, float) else "string"
