"""What a grammar makes the model write at the very least."""

import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from onbook.wire.gbnf import grammar_tokens

# No reader's limit is longer; what goes on beyond it is over the limit already.
_LONGEST_CHARS: Final = 20_000
# Rules of people's grammars settle after two or three looks; a hostile one is given up.
_MAX_LOOKS_PER_RULE: Final = 20
_ESCAPE: Final = re.compile(r"\\(x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)", re.DOTALL)
_NAMED: Final = {"n": "\n", "r": "\r", "t": "\t"}


@dataclass(frozen=True, slots=True)
class _Reference:
    rule: str


@dataclass(slots=True)
class _Group:
    """Alternatives, each a sequence of parts with the least number of times that they come."""

    alternatives: list[list[tuple["_Part", int]]] = field(default_factory=lambda: [[]])


_Part = str | _Reference | _Group


def shortest_sentence(grammar: str, count: Callable[[str], int]) -> str:
    """Return the text with the smallest ``count`` among those that ``grammar`` allows.

    Only quoted literals are in it: of a character class nothing is known but its length. The
    choice is made part by part, so a text of other parts that run together may count a little
    less. At most 20,000 characters; empty for a grammar that is too entangled to tell.

    Args:
        grammar: GBNF that ``check_grammar`` accepts.
        count: Returns the tokens of a text.
    """
    rules = _parsed(grammar)
    users: dict[str, set[str]] = {name: set() for name in rules}
    for name, group in rules.items():
        for used in _references(group):
            users[used].add(name)
    known: dict[str, tuple[int, str]] = {}
    waiting = deque(rules)
    looks = 0
    while waiting and looks < len(rules) * _MAX_LOOKS_PER_RULE:
        looks += 1
        name = waiting.popleft()
        text = _shortest(rules[name], known, count)
        if text is None:
            continue
        cost = count(text)
        if name not in known or cost < known[name][0]:
            known[name] = cost, text
            waiting.extend(users[name])
    return "" if waiting or "root" not in known else known["root"][1]


def _parsed(grammar: str) -> dict[str, _Group]:
    rules: dict[str, _Group] = {}
    open_groups: list[_Group] = []
    for kind, text in grammar_tokens(grammar):
        if kind == "rule":
            rules[text] = _Group()
            open_groups = [rules[text]]
            continue
        parts = open_groups[-1].alternatives[-1]
        if kind == "bar":
            open_groups[-1].alternatives.append([])
        elif kind == "open":
            group = _Group()
            parts.append((group, 1))
            open_groups.append(group)
        elif kind == "close":
            open_groups.pop()
        elif kind == "repeat":
            part, _ = parts[-1]
            parts[-1] = part, _least(text)
        else:
            parts.append((_part(kind, text), 1))
    return rules


def _part(kind: str, text: str) -> "_Part":
    if kind == "name":
        return _Reference(text)
    return _ESCAPE.sub(_character, text[1:-1]) if kind == "literal" else ""


def _character(escape: re.Match[str]) -> str:
    found = escape.group(1)
    if len(found) == 1:
        return _NAMED.get(found, found)
    code = int(found[1:], 16)
    return chr(code) if code <= 0x10FFFF else ""


def _least(repeat: str) -> int:
    if repeat in "*?":
        return 0
    if repeat == "+":
        return 1
    number = repeat.strip("{} \t").partition(",")[0].strip()
    return int(number) if number else 0


def _references(group: _Group) -> Sequence[str]:
    found: list[str] = []
    waiting = [group]
    while waiting:
        for alternative in waiting.pop().alternatives:
            for part, _ in alternative:
                if isinstance(part, _Reference):
                    found.append(part.rule)
                elif isinstance(part, _Group):
                    waiting.append(part)
    return found


def _shortest(
    group: _Group, known: dict[str, tuple[int, str]], count: Callable[[str], int]
) -> str | None:
    """Return the group's shortest text, None while a rule that it needs has none yet."""
    texts = [
        text
        for alternative in group.alternatives
        if (text := _sequence(alternative, known, count)) is not None
    ]
    if len(texts) < 2:
        return texts[0] if texts else None
    return min(texts, key=count)


def _sequence(
    parts: Sequence[tuple["_Part", int]],
    known: dict[str, tuple[int, str]],
    count: Callable[[str], int],
) -> str | None:
    texts: list[str] = []
    size = 0
    for part, times in parts:
        if times == 0:
            continue
        text: str | None
        if isinstance(part, str):
            text = part
        elif isinstance(part, _Reference):
            text = known[part.rule][1] if part.rule in known else None
        else:
            text = _shortest(part, known, count)
        if text is None:
            return None
        if text and size < _LONGEST_CHARS:
            texts.append(text * min(times, _LONGEST_CHARS // len(text) + 1))
            size += len(texts[-1])
    return "".join(texts)[:_LONGEST_CHARS]
