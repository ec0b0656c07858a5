import pytest
from hypothesis import given
from hypothesis import strategies as st

from onbook.domain.fitting.additions import Unit
from onbook.domain.fitting.budget import (
    BOILERPLATE,
    DUPLICATE,
    ORDINARY,
    Priced,
    choose,
    price,
)


def priced(
    *parts: tuple[float, int], kinds: tuple[int, ...] = (), groups: str = ""
) -> list[Priced]:
    return [
        Priced(
            Unit(f"u{index}", ", ", int(groups[index]) if groups else index),
            kinds[index] if kinds else ORDINARY,
            worth,
            tokens,
        )
        for index, (worth, tokens) in enumerate(parts)
    ]


@pytest.mark.parametrize(
    ("units", "excess", "cut"),
    [
        (priced((1, 4), (9, 4)), 0, set()),
        (priced((1, 4), (9, 4)), 3, {0}),
        (priced((5, 4), (5, 4), (5, 4)), 4, {2}),
        # The cheap one went first; once the second must go, it can stay.
        (priced((0.2, 2), (1.0, 8), (9, 4)), 8, {1}),
        # One cut of no more worth is better than three.
        (priced((1, 2), (1, 2), (1, 2), (2.9, 6)), 6, {3}),
        (priced((9, 9), (0, 2), (0, 2), kinds=(DUPLICATE, BOILERPLATE, ORDINARY)), 5, {0}),
        # In a sentence the end goes before the head, whatever they are worth.
        (priced((0, 4), (9, 4), (5, 4), groups="001"), 4, {2}),
        (priced((0, 4), (1, 4), (5, 4), groups="001"), 4, {1}),
        (priced((1, 4), (1, 4)), 99, {0, 1}),
    ],
)
def test_what_is_worth_least_goes(units: list[Priced], excess: int, cut: set[int]) -> None:
    assert choose(units, excess) == cut


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9), st.integers(0, 2)), max_size=12),
    st.integers(1, 60),
)
def test_enough_is_freed_and_no_sentence_loses_its_head(
    parts: list[tuple[int, int, int]], excess: int
) -> None:
    parts = sorted(parts, key=lambda part: part[2])
    units = [
        Priced(Unit(f"u{index}", ", ", group), ORDINARY, float(worth), tokens)
        for index, (worth, tokens, group) in enumerate(parts)
    ]
    cut = choose(units, excess)
    assert sum(units[index].tokens for index in cut) >= min(
        excess, sum(unit.tokens for unit in units)
    )
    for index in cut:
        later = index + 1
        if later < len(units) and units[later].unit.group == units[index].unit.group:
            assert later in cut


def test_a_new_visual_category_is_worth_more_than_words_and_a_second_one_less() -> None:
    texts = ["soft window light", "hard rim light", "and so it went on", "best quality", "a cat"]
    found = price([Unit(text, ", ", i) for i, text in enumerate(texts)], ["a cat"], [3] * 5)
    assert found[0].worth > found[1].worth > found[2].worth > 0
    assert [one.kind for one in found] == [ORDINARY, ORDINARY, ORDINARY, BOILERPLATE, DUPLICATE]
    assert found[3].worth == found[4].worth == 0
