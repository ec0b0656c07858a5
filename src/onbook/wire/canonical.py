"""Canonical JSON (RFC 8785) and the digests over it.

Two parties that hash the same value get the same digest, whatever library wrote the JSON.
"""

import hashlib
from collections.abc import Mapping
from json import encoder
from typing import Final, cast

import msgspec

# RFC 8785 numbers are IEEE 754 doubles: a larger integer has no canonical form.
_MAX_SAFE_INTEGER: Final = 2**53 - 1
_escape: Final = encoder.encode_basestring


class CanonicalizationError(ValueError):
    """The value has no canonical JSON form; the message never contains the value."""


def canonical_json(value: object) -> bytes:
    """Return the RFC 8785 form of ``value`` (JSON types and msgspec structs) as UTF-8.

    Raises:
        CanonicalizationError: for NaN, infinities, integers beyond 2**53 - 1, lone surrogates,
            keys that are not strings, types that JSON does not have, and values nested deeper
            than the interpreter's stack.
    """
    parts: list[str] = []
    try:
        _write(value, parts)
        return "".join(parts).encode()
    except RecursionError:
        raise CanonicalizationError("the value is nested too deeply") from None
    except UnicodeEncodeError as error:
        raise CanonicalizationError("a string holds a lone surrogate") from error


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of ``data`` in lower-case hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_of(value: object) -> str:
    """Return the SHA-256 of the canonical JSON of ``value``."""
    return sha256_hex(canonical_json(value))


def sha256_of_text(text: str) -> str:
    """Return the SHA-256 of ``text`` as UTF-8 (lone surrogates as they would be escaped)."""
    return sha256_hex(text.encode("utf-8", "surrogatepass"))


def _write(value: object, parts: list[str]) -> None:
    if isinstance(value, str):
        parts.append(_escape(value))
    elif value is None or value is True or value is False:
        parts.append({None: "null", True: "true", False: "false"}[value])
    elif isinstance(value, int):
        if abs(value) > _MAX_SAFE_INTEGER:
            raise CanonicalizationError("an integer is beyond 2**53 - 1")
        parts.append(str(value))
    elif isinstance(value, float):
        parts.append(_number(value))
    elif isinstance(value, list | tuple):
        _write_array(cast("list[object]", value), parts)
    elif isinstance(value, Mapping):
        _write_object(cast("Mapping[object, object]", value), parts)
    elif isinstance(value, msgspec.Struct):
        _write_object(_fields(value), parts)
    else:
        raise CanonicalizationError(f"{type(value).__name__} is not a JSON type")


def _fields(value: msgspec.Struct) -> dict[object, object]:
    # Not to_builtins: a struct with omit_defaults drops a field by the identity of its value, so
    # that equal structs would get different digests.
    names = zip(value.__struct_encode_fields__, value.__struct_fields__, strict=True)
    return {encoded: getattr(value, name) for encoded, name in names}


def _write_array(items: list[object] | tuple[object, ...], parts: list[str]) -> None:
    separator = "["
    for item in items:
        parts.append(separator)
        _write(item, parts)
        separator = ","
    parts.append("]" if items else "[]")


def _write_object(mapping: Mapping[object, object], parts: list[str]) -> None:
    keys: list[str] = []
    for key in mapping:
        if not isinstance(key, str):
            raise CanonicalizationError("an object key is not a string")
        keys.append(key)
    # The RFC sorts by UTF-16 code units, which differs from code points beyond the BMP only.
    keys.sort(key=str if all(map(str.isascii, keys)) else _utf16)
    separator = "{"
    for key in keys:
        parts.append(f"{separator}{_escape(key)}:")
        _write(mapping[key], parts)
        separator = ","
    parts.append("}" if keys else "{}")


def _utf16(key: str) -> bytes:
    return key.encode("utf-16-be", "surrogatepass")


def _number(value: float) -> str:
    """Write a double as ECMAScript does (RFC 8785, 3.2.2.3)."""
    if value != value or value in (float("inf"), float("-inf")):  # noqa: PLR0124 - the NaN test
        raise CanonicalizationError("NaN and infinities have no JSON form")
    if value == 0:
        return "0"
    # repr gives the shortest digits that round-trip, as ECMAScript does; only the layout differs.
    sign = "-" if value < 0 else ""
    mantissa, _, exponent_text = repr(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    fraction = "" if fraction == "0" else fraction
    exponent = int(exponent_text or 0)
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + exponent - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    count = len(digits)
    if count <= point <= 21:
        return f"{sign}{digits}{'0' * (point - count)}"
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    power = f"{'+' if point > 0 else '-'}{abs(point - 1)}"
    return f"{sign}{digits[0]}{'.' if count > 1 else ''}{digits[1:]}e{power}"
