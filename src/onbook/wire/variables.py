"""The values that a caller gives for a template's declared variables."""

import re
from typing import Annotated, Final

import msgspec
from msgspec import Meta

MAX_VARIABLES: Final = 50
MAX_VARIABLE_CHARS: Final = 2000
# Beyond this an integer is not the same one in every language that reads JSON.
_MAX_INTEGER: Final = 2**53
_NAME: Final = r"^[A-Za-z_][A-Za-z0-9_]{0,63}$"
_name: Final = re.compile(_NAME)

VariableValue = (
    Annotated[str, Meta(max_length=MAX_VARIABLE_CHARS)]
    | Annotated[int, Meta(ge=-_MAX_INTEGER, le=_MAX_INTEGER)]
    | float
    | bool
)
Variables = Annotated[
    dict[Annotated[str, Meta(pattern=_NAME)], VariableValue], Meta(max_length=MAX_VARIABLES)
]


def wrong_variables(value: object) -> dict[str, str]:
    """Return why each of the variables is wrong, as ``variables.<name>``; never its value.

    A name that is none is the caller's text: it is not repeated.
    """
    if not isinstance(value, dict):
        return {"variables": "must be an object"}
    if len(value) > MAX_VARIABLES:
        return {"variables": f"must be at most {MAX_VARIABLES}"}
    errors: dict[str, str] = {}
    for name, item in value.items():
        if _name.fullmatch(name) is None:
            errors["variables"] = "must be named with letters, digits and underscores, up to 64"
            continue
        problem = _problem(item)
        if problem is not None:
            errors[f"variables.{name}"] = problem
    return errors


def _problem(value: object) -> str | None:
    if isinstance(value, str) and "\x00" in value:
        return "holds a NUL character"
    try:
        msgspec.convert(value, VariableValue)
    except msgspec.ValidationError as error:
        reason = str(error)
        return reason[:1].lower() + reason[1:]
    return None
