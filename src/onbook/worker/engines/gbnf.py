"""What a grammar must keep to before llama.cpp may see it."""

import re
from typing import Final

from onbook.worker.engines.base import GrammarError

# llama.cpp parses groups by recursion and overflows its stack, with the whole process, somewhere
# below 32,000 of them. Grammars that people write need fewer than ten.
MAX_NESTING: Final = 200

# Literals, character classes and comments, where brackets are text; an unclosed one reaches to the
# end, so that no scan starts over.
_TOKEN: Final = re.compile(
    r'"(?:[^"\\]|\\.)*"?|\[(?:[^\]\\]|\\.)*\]?|#[^\r\n]*|[()]',
    re.DOTALL,
)


def check_nesting(grammar: str) -> None:
    """Check that no group lies deeper than ``MAX_NESTING``.

    Raises:
        GrammarError: one does.
    """
    depth = 0
    for match in _TOKEN.finditer(grammar):
        token = match.group()
        if token == "(":
            depth += 1
        elif token == ")":
            depth -= 1
        if depth > MAX_NESTING:
            raise GrammarError(f"The grammar nests groups deeper than {MAX_NESTING}.")
