"""What a path of ``/v1/templates`` names: a template, and a version of it."""

from typing import Final

from onbook.gateway.functions import Call
from onbook.wire.gateway_api import FieldErrors
from onbook.wire.templates_api import MAX_VERSION

_MAX_DIGITS: Final = 10


def name_in(call: Call) -> str:
    """Return the template's name, whatever it is: the library knows what there is."""
    return call.parameters["name"]


def version_in(call: Call) -> int:
    """Return the version.

    Raises:
        FieldErrors: it is not the number of one.
    """
    text = call.parameters["version"]
    if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS:
        version = int(text)
        if 1 <= version <= MAX_VERSION:
            return version
    raise FieldErrors({"version": f"is not a whole number from 1 to {MAX_VERSION}"})
