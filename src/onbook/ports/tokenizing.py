"""Token counters by the unit that a template's limit is given in."""

from typing import Protocol

from onbook.domain.templates import TokenUnit
from onbook.domain.token_counting import TokenCounter


class TokenCounters(Protocol):
    """Finds the counter for a token unit."""

    def __getitem__(self, unit: TokenUnit, /) -> TokenCounter:
        """Return the exact counter for ``unit``, or its documented stand-in."""
