"""A sender's published keys in a header, for receivers that trust an older key of its ring."""

import base64
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import msgspec

from onbook.wire.signing import PublishedKey

KEYS_HEADER: Final = "Onbook-Signing-Keys"
# Whoever trusts one of the last eight keys can follow; a key takes some 350 characters.
MAX_KEYS: Final = 8
_MAX_CHARS: Final = 8_192


def keys_header(published: Sequence[PublishedKey]) -> dict[str, str]:
    """Return the header that shows ``published``, oldest first; none for a ring of one key."""
    if len(published) < 2:
        return {}
    return {KEYS_HEADER: _written(tuple(published[-MAX_KEYS:]))}


def shown_keys(text: str) -> list[PublishedKey]:
    """Return the keys that a header shows; none where it is malformed or too long."""
    if len(text) > _MAX_CHARS:
        return []
    try:
        data = base64.b64decode(text, validate=True)
        return msgspec.json.decode(data, type=list[PublishedKey])[:MAX_KEYS]
    except (ValueError, msgspec.DecodeError, RecursionError):
        return []


@lru_cache(maxsize=8)
def _written(published: tuple[PublishedKey, ...]) -> str:
    return base64.b64encode(msgspec.json.encode(published)).decode("ascii")
