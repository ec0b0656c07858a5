"""How many ways of reading one text a grammar allows.

llama.cpp keeps a stack for each way in which the text so far can be read, and tries every token
of the vocabulary on all of them, without remembering what it has tried: its time grows with the
number of ways to read a token, and a grammar of some hundred bytes can have more of them than can
be tried in a year. Here the grammar is run as llama.cpp runs it, with a budget.
"""

import re
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

# Written out, repetitions and all: what llama.cpp holds in memory, too.
_MAX_ELEMENTS: Final = 100_000
# Readings of one text. Six thousand alternatives with a common beginning are still a word list.
_MAX_READINGS: Final = 20_000
# Looks at elements, about a microsecond each.
_MAX_WORK: Final = 500_000
# Ways multiply within one token only: between two, llama.cpp keeps different stacks once. Few
# tokens of words are longer than this, and those of one sign or space again and again are.
_CHARACTERS: Final = 12
_RUN_CHARACTERS: Final = 40
# Positions are looked at in so many surroundings each.
_SURROUNDINGS: Final = 2
_TRIED_CHARACTERS: Final = 8
_LAST_CODE: Final = 0x10FFFF
_ESCAPE: Final = re.compile(r"\\(x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)|(.)", re.DOTALL)
_NAMED: Final = {"n": 10, "r": 13, "t": 9}
_EMPTY: Final = 0

Range = tuple[int, int]


class EntangledError(Exception):
    """A text can be read in too many ways, or the grammar is too large to be run."""


@dataclass(frozen=True, slots=True)
class _Chars:
    """Characters that may come; none at all for a token by its id."""

    ranges: tuple[Range, ...]

    def has(self, code: int) -> bool:
        return any(low <= code <= high for low, high in self.ranges)


@dataclass(frozen=True, slots=True)
class _Rule:
    index: int


_Element = _Chars | _Rule | None  # None ends a sequence
_Sequence = list["_Element"]


@dataclass(slots=True)
class _Open:
    """A rule that is being read: its alternatives, and where in the last its last symbol began."""

    alternatives: list[_Sequence] = field(default_factory=lambda: [[]])
    symbol: int = 0


class _Grammar:
    """Every sequence of elements, one behind the other; of each rule where its begin."""

    def __init__(self, tokens: Iterable[tuple[str, str]]) -> None:
        self.elements: list[_Element] = []
        self.rules: list[list[int]] = []
        self._names: dict[str, int] = {}
        self._read(tokens)

    @property
    def root(self) -> int:
        return self._names["root"]

    def _read(self, tokens: Iterable[tuple[str, str]]) -> None:
        reading: list[tuple[int, _Open]] = []
        for kind, text in tokens:
            if kind == "rule":
                self._close(reading)
                reading = [(self._named(text), _Open())]
                continue
            current = reading[-1][1]
            sequence = current.alternatives[-1]
            if kind == "bar":
                current.alternatives.append([])
            elif kind == "open":
                reading.append((self._new(), _Open()))
            elif kind == "close":
                group = reading.pop()
                self._close([group])
                reading[-1][1].alternatives[-1].append(_Rule(group[0]))
                reading[-1][1].symbol = len(reading[-1][1].alternatives[-1]) - 1
            elif kind == "repeat":
                self._repeat(current, text)
            else:
                current.symbol = len(sequence)
                sequence.extend(self._symbol(kind, text))
        self._close(reading)

    def _symbol(self, kind: str, text: str) -> _Sequence:
        if kind == "name":
            return [_Rule(self._named(text))]
        if kind == "literal":
            return [_Chars(((code, code),)) for code in _codes(text[1:-1])]
        if kind == "any":
            return [_Chars(((0, _LAST_CODE),))]
        return [_class(text[1:-1]) if kind == "class" else _Chars(())]

    def _repeat(self, current: _Open, text: str) -> None:
        """Write a repetition out as llama.cpp does: what must come, then one rule in the other."""
        sequence = current.alternatives[-1]
        symbol = sequence[current.symbol :]
        least, most = _times(text)
        if (least + max(0, (most or least) - least)) * max(1, len(symbol)) > _MAX_ELEMENTS:
            raise EntangledError
        del sequence[current.symbol :]
        sequence.extend(symbol * least)
        if most is None:
            again = self._new()
            self._add(again, [*symbol, _Rule(again)])
            self._add(again, [])
            sequence.append(_Rule(again))
            return
        inner: _Sequence = []
        for _ in range(most - least):
            rule = self._new()
            self._add(rule, symbol + inner)
            self._add(rule, [])
            inner = [_Rule(rule)]
        sequence.extend(inner)

    def _close(self, reading: list[tuple[int, _Open]]) -> None:
        for index, rule in reading:
            for alternative in rule.alternatives:
                self._add(index, alternative)

    def _named(self, name: str) -> int:
        if name not in self._names:
            self._names[name] = self._new()
        return self._names[name]

    def _new(self) -> int:
        self.rules.append([])
        return len(self.rules) - 1

    def _add(self, rule: int, sequence: _Sequence) -> None:
        self.rules[rule].append(len(self.elements))
        self.elements += sequence
        self.elements.append(None)
        if len(self.elements) > _MAX_ELEMENTS:
            raise EntangledError


class _Machine:
    """llama.cpp's stacks, each by a number: the element on top, and the stack below it."""

    def __init__(self, grammar: _Grammar) -> None:
        self._elements = grammar.elements
        self._rules = grammar.rules
        self._stacks: list[Range] = [(-1, -1)]
        self._known: dict[Range, int] = {}
        self._expanded: dict[int, tuple[int, ...]] = {}
        self._work = 0

    def start(self, rule: int) -> tuple[int, ...]:
        """Return the stacks with which a text may begin."""
        stacks = [
            one for begin in self._rules[rule] for one in self._expand(self._push(_EMPTY, begin))
        ]
        return tuple(dict.fromkeys(stacks))

    def top(self, stack: int) -> _Chars:
        """Return what may come on ``stack``."""
        element = self._elements[self._stacks[stack][0]]
        return element if isinstance(element, _Chars) else _Chars(())

    def position(self, stack: int) -> int:
        """Return where in the grammar ``stack`` waits."""
        return self._stacks[stack][0]

    def after(self, stack: int) -> tuple[int, ...]:
        """Return the stacks that come of ``stack`` with a character."""
        position, below = self._stacks[stack]
        return self._expand(self._push(below, position + 1))

    def behind(self, stack: int) -> int:
        """Return the stack that waits for the last of the characters that come one by one."""
        position, below = self._stacks[stack]
        while isinstance(self._elements[position + 1], _Chars):
            position += 1
            self._spend(1)
        return self._push(below, position)

    def readings(self, stacks: tuple[int, ...], repeated: int | None) -> None:
        """Read a text of many readings from ``stacks``; ``repeated`` says one of one character.

        Raises:
            EntangledError: it has too many.
        """
        ways = Counter({stack: 1 for stack in stacks if stack != _EMPTY})
        length, before = 0, None
        for _ in range(_RUN_CHARACTERS):
            code = self._likeliest(ways) if repeated is None else repeated
            if code is not None and (code != before or chr(code).isalnum()):
                length += 1
                if length > _CHARACTERS:
                    return
            before = code
            self._spend(len(ways))
            going_on = {
                stack: count
                for stack, count in ways.items()
                if code is not None and self.top(stack).has(code)
            }
            if sum(going_on.values()) < 2:
                # One way is no ambiguity; where it leads is looked at from there.
                return
            after: Counter[int] = Counter()
            for stack, count in going_on.items():
                following = self.after(stack)
                self._spend(len(following))
                for one in following:
                    after[one] += count
            del after[_EMPTY]
            if after.total() > _MAX_READINGS:
                raise EntangledError
            ways = after

    def _likeliest(self, ways: Counter[int]) -> int | None:
        """Return a character that most ways go on with."""
        single: Counter[int] = Counter()
        classes: Counter[_Chars] = Counter()
        for stack, count in ways.items():
            chars = self.top(stack)
            if len(chars.ranges) == 1 and chars.ranges[0][0] == chars.ranges[0][1]:
                single[chars.ranges[0][0]] += count
            else:
                classes[chars] += count
        common = [code for code, _ in single.most_common(_TRIED_CHARACTERS)]
        tried = dict.fromkeys(
            [*common, *characters_of(chars for chars, _ in classes.most_common())]
        )
        self._spend(len(ways) + len(tried) * len(classes))
        return max(
            tried,
            key=lambda code: (
                single[code] + sum(count for chars, count in classes.items() if chars.has(code))
            ),
            default=None,
        )

    def _push(self, below: int, position: int) -> int:
        if self._elements[position] is None:
            return below
        key = (position, below)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = len(self._stacks)
            self._stacks.append(key)
        return known

    def _expand(self, stack: int) -> tuple[int, ...]:
        """Return the stacks that wait for a character, by all alternatives of rules on top.

        Nothing is remembered within: what comes up twice costs llama.cpp twice. A rule that
        begins with itself goes on for ever, and uses up the budget.
        """
        known = self._expanded.get(stack)
        if known is not None:
            return known
        found: dict[int, None] = {}
        waiting = [stack]
        while waiting:
            self._spend(1)
            one = waiting.pop()
            position, below = self._stacks[one]
            element = None if one == _EMPTY else self._elements[position]
            if isinstance(element, _Rule):
                rest = self._push(below, position + 1)
                waiting += [self._push(rest, begin) for begin in self._rules[element.index]]
            else:
                found[one] = None
        self._expanded[stack] = expanded = tuple(found)
        return expanded

    def _spend(self, work: int) -> None:
        self._work += work
        if self._work > _MAX_WORK:
            raise EntangledError


def check_readings(tokens: Iterable[tuple[str, str]]) -> None:
    """Check that no token can be read in over 20,000 ways.

    A token is 12 characters, of which a sign or a space may be a run of up to 40. From every place
    of the grammar the text with the most readings is looked for, by the most likely character at
    each step, and of one character repeated. That finds repetitions in
    repetitions and runs of optional parts wherever they stand; it is a search and no proof.

    Args:
        tokens: What ``grammar_tokens`` yields for a grammar that defines all that it uses.

    Raises:
        EntangledError: there is such a text, or the grammar is too large to look.
    """
    grammar = _Grammar(tokens)
    machine = _Machine(grammar)
    start = machine.start(grammar.root)
    surroundings: Counter[int] = Counter()
    looked_at: set[tuple[int, ...]] = set()
    waiting = deque([start])
    while waiting:
        stacks = waiting.popleft()
        if stacks in looked_at:
            continue
        looked_at.add(stacks)
        if len(stacks) > 1 + (_EMPTY in stacks):
            machine.readings(stacks, None)
            for code in characters_of(map(machine.top, stacks)):
                machine.readings(stacks, code)
        for stack in stacks:
            position = machine.position(stack)
            if stack == _EMPTY or surroundings[position] == _SURROUNDINGS:
                continue
            surroundings[position] += 1
            waiting.append(machine.after(machine.behind(stack)))


def characters_of(several: Iterable[_Chars]) -> list[int]:
    """Return a few characters that classes begin with; literals speak for themselves."""
    codes: dict[int, None] = {}
    for chars in several:
        for low, high in chars.ranges:
            if low != high:
                # A class of nearly everything begins with what no token has.
                codes[max(low, 32) if high >= 32 else low] = None
                if low <= 97 <= high:
                    codes[97] = None
        if len(codes) >= _TRIED_CHARACTERS:
            break
    return list(codes)[:_TRIED_CHARACTERS]


def _codes(text: str) -> list[int]:
    return [
        ord(plain)
        if plain
        else int(escaped[1:], 16)
        if len(escaped) > 1
        else _NAMED.get(escaped, ord(escaped))
        for escaped, plain in _ESCAPE.findall(text)
    ]


def _class(text: str) -> _Chars:
    negated = text.startswith("^")
    parts = _ESCAPE.findall(text[1:] if negated else text)
    codes = _codes(text[1:] if negated else text)
    ranges: list[Range] = []
    at = 0
    while at < len(codes):
        # A dash that stands between two characters makes a range; an escaped one is a character.
        if at + 2 < len(codes) and parts[at + 1][1] == "-":
            ranges.append((codes[at], codes[at + 2]))
            at += 3
        else:
            ranges.append((codes[at], codes[at]))
            at += 1
    return _Chars(tuple(_complement(ranges) if negated else ranges))


def _complement(ranges: list[Range]) -> list[Range]:
    gaps: list[Range] = []
    begin = 0
    for low, high in sorted(ranges):
        if low > begin:
            gaps.append((begin, low - 1))
        begin = max(begin, high + 1)
    if begin <= _LAST_CODE:
        gaps.append((begin, _LAST_CODE))
    return gaps


def _times(repeat: str) -> tuple[int, int | None]:
    """Return how often a repetition must and may come, None where there is no limit."""
    if repeat in "*+?":
        return {"*": (0, None), "+": (1, None), "?": (0, 1)}[repeat]
    least, comma, most = (part.strip() for part in repeat.strip("{} \t").partition(","))
    if not comma:
        return int(least), int(least)
    return int(least or 0), int(most) if most else None
