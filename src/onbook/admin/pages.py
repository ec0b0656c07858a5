"""Pages for people: what runs here, and a form to try it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp


def pages() -> "Mapping[str, ASGIApp]":
    """Return the pages by path."""
    return {}
