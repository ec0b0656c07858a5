"""Reading bodies and query strings into structs: every wrong field named, no value repeated."""

from types import NoneType, UnionType
from typing import Annotated, Final, TypeVar, Union, get_args, get_origin
from urllib.parse import parse_qsl

import msgspec

from onbook.wire.gateway_api import FieldErrors, NotJsonError

_Struct = TypeVar("_Struct", bound=msgspec.Struct)
_MAX_QUERY_FIELDS: Final = 32
_MAX_DEPTH: Final = 32
_NAME_CHARS: Final = 100
_decoder: Final = msgspec.json.Decoder(dict[str, object])


def read_struct(body: bytes, wanted: type[_Struct]) -> _Struct:
    """Decode and check a JSON body.

    Raises:
        NotJsonError: it is not UTF-8, not JSON, or not an object.
        FieldErrors: each field that is wrong, with the reason; nested ones as ``outer.inner``.
    """
    try:
        body.decode("utf-8")
        data = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise NotJsonError from None
    return _checked(data, wanted, strict=True)


def read_query(query: bytes, wanted: type[_Struct]) -> _Struct:
    """Decode and check a query string; a parameter may be given once.

    Raises:
        FieldErrors: each parameter that is wrong, with the reason.
    """
    try:
        pairs = parse_qsl(
            query.decode("latin-1"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_MAX_QUERY_FIELDS,
        )
    except (ValueError, UnicodeError):
        raise FieldErrors({"query": "is not a query string of at most 32 parameters"}) from None
    data: dict[str, object] = {}
    twice: dict[str, str] = {}
    for name, value in pairs:
        if name in data:
            twice[name[:_NAME_CHARS]] = "is given twice"
        data[name] = value
    if twice:
        raise FieldErrors(twice)
    return _checked(data, wanted, strict=False)


def _checked(data: dict[str, object], wanted: type[_Struct], *, strict: bool) -> _Struct:
    errors = _nul_characters(data)
    if not errors:
        try:
            return msgspec.convert(data, wanted, strict=strict)
        except (msgspec.ValidationError, OverflowError, RecursionError):
            errors = _wrong_fields(data, wanted, strict=strict)
    raise FieldErrors(errors or {"body": "is not valid"})


def _wrong_fields(
    data: dict[str, object], wanted: type[msgspec.Struct], *, strict: bool, within: str = ""
) -> dict[str, str]:
    """Check field by field, to name all that are wrong: the decoder stops at the first."""
    errors: dict[str, str] = {}
    fields = {field.encode_name: field for field in msgspec.structs.fields(wanted)}
    for name, field in fields.items():
        if field.required and name not in data:
            errors[within + name] = "is required"
    for name, value in data.items():
        if name not in fields:
            errors[within + name[:_NAME_CHARS]] = "is not a known field"
            continue
        nested = _nested(fields[name].type)
        if nested is not None and isinstance(value, dict):
            errors |= _wrong_fields(value, nested, strict=strict, within=f"{within}{name}.")
            continue
        try:
            msgspec.convert(value, fields[name].type, strict=strict)
        except msgspec.ValidationError as error:
            place, reason = _place_and_reason(error)
            errors[within + name + place] = reason
        except (OverflowError, RecursionError):
            errors[within + name] = "is not valid"
    return errors


def _nested(kind: object) -> type[msgspec.Struct] | None:
    """Return the struct that a field holds, or may hold."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) in (Union, UnionType):
        kinds = [item for item in get_args(kind) if item is not NoneType]
        kind = kinds[0] if len(kinds) == 1 else None
    return kind if isinstance(kind, type) and issubclass(kind, msgspec.Struct) else None


def _place_and_reason(error: msgspec.ValidationError) -> tuple[str, str]:
    reason, _, place = str(error).partition(" - at `$")
    if "Invalid enum value" in reason:
        reason = "is not one of the choices"
    return place.rstrip("`"), reason[:1].lower() + reason[1:]


def _nul_characters(data: object, name: str = "", depth: int = 0) -> dict[str, str]:
    """Name every text that holds a NUL character: no database stores one."""
    if isinstance(data, str):
        return {name: "holds a NUL character"} if "\x00" in data else {}
    errors: dict[str, str] = {}
    if depth > _MAX_DEPTH:
        return errors
    if isinstance(data, list):
        for i, item in enumerate(data):
            errors |= _nul_characters(item, f"{name}[{i}]", depth + 1)
    elif isinstance(data, dict):
        for key, item in data.items():
            if "\x00" in key:
                errors[name or "body"] = "holds a NUL character"
            else:
                inner = f"{name}.{key[:_NAME_CHARS]}" if name else key[:_NAME_CHARS]
                errors |= _nul_characters(item, inner, depth + 1)
    return errors
