"""JSON that has one reading: an object that names a key twice is refused.

Which of the two counts is left open by the format; a reader that takes the first would see another
text than the one that was checked.
"""

import json
from collections.abc import Sequence
from typing import Final

import msgspec


class NotStrictJson(ValueError):
    """The text is no JSON, or has two readings; the message never holds any of it."""


def strict_json(data: str | bytes) -> object:
    """Return the value that ``data`` says.

    Raises:
        NotStrictJson: it is no JSON, or names a key of an object twice.
    """
    try:
        value: object = msgspec.json.decode(data)
        # What is written back as it stands named every key once, and most texts are.
        written = msgspec.json.encode(value)
        if written != (data if isinstance(data, bytes) else data.encode()):
            _slow.decode(data.decode() if isinstance(data, bytes) else data)
    except NotStrictJson:
        raise
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise NotStrictJson("It is no JSON.") from None
    return value


def _pairs(pairs: Sequence[tuple[str, object]]) -> None:
    if len({name for name, _ in pairs}) != len(pairs):
        raise NotStrictJson("It names a key of an object twice.")


_slow: Final = json.JSONDecoder(object_pairs_hook=_pairs)
