"""What a grammar must keep to before llama.cpp may see it.

llama.cpp prints a grammar that it cannot parse, in full, to standard error; and the grammar holds
the prompt. So what is wrong with one is found here first, and told without it.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from onbook.wire.gbnf_readings import EntangledError, check_readings


class GrammarInvalid(ValueError):
    """The grammar cannot be used; the message says why without repeating it."""


# llama.cpp parses groups by recursion and overflows its stack, with the whole process, somewhere
# below 32,000 of them. Grammars that people write need fewer than ten.
MAX_NESTING: Final = 200

# Every alternative is bounded or never given back, so that no scan starts over.
_TOKEN: Final = re.compile(
    r"""
    (?P<space>[ \t\r\n]++|\#[^\r\n]*+)
    | (?P<rule>[A-Za-z0-9-]++(?=[ \t]*+::=))[ \t]*+::=(?![ \t]*+[\r\n])
    | (?P<name>[A-Za-z0-9-]++)
    | (?P<literal>"(?:[^"\\]|\\.)*+")
    | (?P<class>\[(?:[^\]\\]|\\.)*+\])
    | (?P<token>!?<\[?[^<>\r\n]{1,64}>)
    | (?P<open>\()
    | (?P<close>\))
    | (?P<repeat>[*+?]|\{[ \t]{0,8}\d{1,4}[ \t]{0,8}(?:,[ \t]{0,8}\d{0,4})?[ \t]{0,8}\})
    | (?P<bar>\|)
    | (?P<any>\.)
    """,
    re.VERBOSE | re.DOTALL,
)
_BREAK: Final = re.compile(r"[\r\n]")
# Checked grammars that are remembered: the same ones come with every request of a template.
_REMEMBERED: Final = 64
_ESCAPE: Final = re.compile(r"\\(?:[tnr\\\"\[\]-]|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8})")


@lru_cache(_REMEMBERED)
def check_grammar(grammar: str) -> None:
    """Check that ``grammar`` is GBNF that llama.cpp can parse, and can run in bounded time.

    Up to a second for a long one that is new: not for the event loop.

    Raises:
        GrammarInvalid: saying what is wrong, without repeating the grammar.
    """
    try:
        check_readings(check_syntax(grammar))
    except EntangledError:
        raise GrammarInvalid(
            "The grammar lets a text be read in too many ways, or is too large written out."
        ) from None


def check_syntax(grammar: str) -> list[tuple[str, str]]:
    """Check that llama.cpp can parse ``grammar``; return its tokens. Far cheaper than all of it.

    Raises:
        GrammarInvalid: saying what is wrong, without repeating the grammar.
    """
    defined: set[str] = set()
    used: set[str] = set()
    tokens = list(grammar_tokens(grammar))
    for kind, text in tokens:
        if kind == "rule":
            defined.add(text)
        elif kind == "name":
            used.add(text)
        elif kind in ("literal", "class"):
            _check_escapes(text)
    if "root" not in defined:
        raise GrammarInvalid("The grammar defines no rule 'root'.")
    if not used <= defined:
        raise GrammarInvalid("The grammar uses a rule that it does not define.")
    return tokens


def grammar_tokens(grammar: str) -> Iterator[tuple[str, str]]:
    """Yield kind and text of each token that means something, and check how they follow.

    Raises:
        GrammarInvalid: as ``check_grammar``.
    """
    depth = position = 0
    before = "end"
    while position < len(grammar):
        match = _TOKEN.match(grammar, position)
        kind = match.lastgroup if match else None
        if match is None or kind is None or not _may_follow(before, kind):
            line = grammar.count("\n", 0, position) + 1
            raise GrammarInvalid(f"The grammar cannot be read at line {line}.")
        position = match.end()
        if kind == "space":
            # A line break ends a rule, unless it stands in a group or after a bar.
            if depth == 0 and before != "bar" and _BREAK.search(match.group()):
                before = "end"
            continue
        before = kind
        depth += {"open": 1, "close": -1}.get(kind, 0)
        _check_depth(depth, kind)
        yield kind, match.group(kind)
    _check_depth(depth, "rule")


def _may_follow(before: str, kind: str) -> bool:
    """Tell whether a token may stand behind another: a new line begins with a rule's name."""
    if before == "end":
        return kind in ("space", "rule")
    return kind != "repeat" or before in ("name", "literal", "class", "token", "close", "any")


def _check_depth(depth: int, kind: str) -> None:
    if depth and kind == "rule":
        raise GrammarInvalid("The grammar leaves a group open.")
    if depth > MAX_NESTING:
        raise GrammarInvalid(f"The grammar nests groups deeper than {MAX_NESTING}.")
    if depth < 0:
        raise GrammarInvalid("The grammar closes a group that it did not open.")


def _check_escapes(text: str) -> None:
    if "\\" in text and "\\" in _ESCAPE.sub("", text):
        raise GrammarInvalid("The grammar has an escape that GBNF does not know.")
