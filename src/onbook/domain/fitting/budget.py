"""Choosing which additions stay when the limit leaves no room for all."""

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from onbook.domain.fitting.additions import Unit
from onbook.domain.fitting.clauses import repeats
from onbook.domain.fitting.words import (
    content_words,
    is_boilerplate,
    visual_categories,
    visual_words,
    words,
)

DUPLICATE, BOILERPLATE, ORDINARY = range(3)
# What one unit is worth: a visual category not yet there above all, then visual words, then words.
_NEW_CATEGORY = 3.0
_VISUAL_WORD = 1.0
_OTHER_WORD = 0.25


@dataclass(frozen=True, slots=True)
class Priced:
    """A unit with its class, its worth and its price in tokens."""

    unit: Unit
    kind: int
    worth: float
    tokens: int

    @property
    def rate(self) -> float:
        """Return the worth per token."""
        return self.worth / max(1, self.tokens)


def price(
    units: Sequence[Unit], user_clauses: Sequence[str], tokens: Sequence[int]
) -> list[Priced]:
    """Give each unit its class and worth; what the user already said is worth nothing."""
    offset = len(user_clauses)
    again = {
        index - offset
        for index in repeats([*user_clauses, *(unit.text for unit in units)])
        if index >= offset
    }
    users = frozenset[str]().union(*(words(text) for text in user_clauses))
    seen = set(users)
    categories = Counter(dict.fromkeys(visual_categories(users), 1))
    result: list[Priced] = []
    for index, unit in enumerate(units):
        new = content_words(unit.text) - seen
        seen |= new
        worth = _OTHER_WORD * len(new) + _VISUAL_WORD * len(visual_words(new))
        for category in visual_categories(new):
            worth += _NEW_CATEGORY / (1 + categories[category])
            categories[category] += 1
        kind = ORDINARY
        if index in again:
            kind = DUPLICATE
        elif is_boilerplate(unit.text):
            kind = BOILERPLATE
        result.append(Priced(unit, kind, worth if kind == ORDINARY else 0.0, tokens[index]))
    return result


def choose(priced: Sequence[Priced], excess: int) -> set[int]:
    """Return the indexes of the units to cut so that at least ``excess`` tokens are freed.

    Greedy by class, then by worth per token, from the end where equal; then what still fits is
    put back, and one single cut is taken instead of several where it costs no more worth.
    """
    if excess <= 0:
        return set()
    cut = _cheapest_first(priced, excess)
    _put_back(priced, cut, excess)
    lost = sum(priced[index].worth for index in cut)
    alone = [
        index
        for index in _ends(priced)
        if priced[index].tokens >= excess and priced[index].worth <= lost
    ]
    if len(cut) > 1 and alone:
        return {min(alone, key=lambda index: (priced[index].worth, -index))}
    return cut


def _cheapest_first(priced: Sequence[Priced], excess: int) -> set[int]:
    def key(index: int) -> tuple[int, float, int]:
        return priced[index].kind, priced[index].rate, -index

    heap = [(key(index), index) for index in _ends(priced)]
    heapq.heapify(heap)
    cut: set[int] = set()
    freed = 0
    while heap and freed < excess:
        _, index = heapq.heappop(heap)
        cut.add(index)
        freed += priced[index].tokens
        before = index - 1
        if before >= 0 and priced[before].unit.group == priced[index].unit.group:
            heapq.heappush(heap, (key(before), before))
    return cut


def _put_back(priced: Sequence[Priced], cut: set[int], excess: int) -> None:
    spare = sum(priced[index].tokens for index in cut) - excess
    for index in sorted(cut, key=lambda index: (-priced[index].worth, index)):
        one = priced[index]
        joined = index - 1 in cut and priced[index - 1].unit.group == one.unit.group
        if one.kind == ORDINARY and one.tokens <= spare and not joined:
            cut.remove(index)
            spare -= one.tokens


def _ends(priced: Sequence[Priced]) -> list[int]:
    """Return the last unit of each group: what may go first."""
    return list({one.unit.group: index for index, one in enumerate(priced)}.values())
