"""``--var``: values for a template's declared variables, from the command line."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Final

from onbook.cli.options import fail

_GIVEN: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]{0,63})(:?=)(.*)", re.DOTALL)


def read_variables(given: Sequence[str]) -> Mapping[str, str | int | float | bool]:
    """Return the values of ``name=text`` and ``name:=number``, ``true`` or ``false``.

    Ends the program with 2 where one is neither, or a name is given twice. The message does not
    repeat a value.
    """
    values: dict[str, str | int | float | bool] = {}
    for item in given:
        found = _GIVEN.fullmatch(item)
        if found is None:
            fail("--var takes name=text, or name:=value for a number, true or false.", code=2)
        name, kind, text = found.groups()
        if name in values:
            fail(f"--var {name} is given twice.", code=2)
        values[name] = text if kind == "=" else _plain(name, text)
    return values


def _plain(name: str, text: str) -> int | float | bool:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, int | float):
        fail(f"--var {name}:= takes a number, true or false; use {name}=… for text.", code=2)
    return value
