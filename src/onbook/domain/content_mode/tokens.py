"""The words of a folded text, and the ages written with them."""

import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

from onbook.domain.content_mode.lexicon import Ages

_WORD = re.compile(r"[^\W_]+")
_LEADING_NUMBER = re.compile(r"(\d{1,3})([a-z]*)\Z")
# Between words of one phrase; anything else (a comma, a line break) ends the phrase.
# Words of a thing's name after its age that are looked at: "12 year old single malt scotch".
_LONGEST_NAME = 4
_SOFT_GAP = frozenset(" \t-_'\u2019/*~")


class Token(NamedTuple):
    """A word with its offsets in the folded text; ``touches``: only a soft gap lies before it."""

    word: str
    start: int
    end: int
    touches: bool


def tokenize(text: str) -> list[Token]:
    """Return the words of the folded ``text``: runs of letters and digits."""
    tokens: list[Token] = []
    before = 0
    for match in _WORD.finditer(text):
        start, end = match.span()
        gap = text[before:start]
        touches = bool(tokens) and (
            gap == " "
            or _SOFT_GAP.issuperset(gap)
            # The point after an initial ends no phrase.
            or (gap == ". " and len(tokens[-1].word) == 1)
        )
        tokens.append(Token(match.group(), start, end, touches))
        before = end
    return tokens


def _starts_with(words: Sequence[str], phrases: frozenset[str]) -> int:
    """Return how many of up to three ``words`` make one of the phrases; 0 for none."""
    for length in range(len(words), 0, -1):
        if " ".join(words[:length]) in phrases:
            return length
    return 0


def ends_phrase(tokens: Sequence[Token], after: int, links: frozenset[str]) -> bool:
    """Tell whether a phrase ends before the token ``after``: by a hard gap or a link word."""
    return after >= len(tokens) or not tokens[after].touches or tokens[after].word in links


def minor_ages(
    tokens: Sequence[Token], ages: Ages, sexual: Collection[int]
) -> list[tuple[int, int]]:
    """Return the token ranges (end exclusive) that state an age below ``ages.adult_from``.

    ``sexual`` holds the numbers of the tokens in which a sexual sign begins or ends: a bare number
    joined to one is an age, and one directly after it is a person's.
    """
    found: list[tuple[int, int]] = []
    for index, token in enumerate(tokens):
        if token.word in ages.words or (
            token.word[0].isdecimal() and not (index and _same_number(tokens[index - 1], token))
        ):
            end = _age_at(tokens, index, ages, sexual)
            if end:
                found.append((index, end))
    return found


def _age_at(tokens: Sequence[Token], index: int, ages: Ages, sexual: Collection[int]) -> int:
    """Return the token after the minor's age that starts at ``index``; 0 where there is none."""
    word = tokens[index].word
    end = index + 1
    attached = ""
    if word in ages.words:
        value = ages.words[word]
    else:
        match = _LEADING_NUMBER.match(word)
        if match is None:
            return 0
        value, attached = int(match.group(1)), match.group(2)
    if end < len(tokens) and _same_number(tokens[index], tokens[end]):
        value, end = value * 10 + int(tokens[end].word), end + 1
    if value >= ages.adult_from:
        return 0
    unit = (
        0 if attached else _starts_with([each.word for each in tokens[end : end + 3]], ages.units)
    )
    if unit or attached in ages.attached:
        written = " ".join(each.word for each in tokens[end : end + unit]) or attached
        end += unit
        is_thing = written in ages.thing_units and _is_of_a_thing(tokens, index, end, ages, sexual)
        return 0 if is_thing else end
    if attached:
        return 0
    if end < len(tokens) and _is_a_measure(tokens[end - 1], tokens[end], ages):
        return 0
    # Small number words after "she is" are rarely ages: "she is one of".
    is_age = (value >= 10 or word not in ages.words) and _follows_prefix(tokens, index, ages)
    is_person = (value >= 10 and _word_at(tokens, index - 1) in ages.person_words) or (
        value > 1
        and _word_at(tokens, index - 1) == "of"
        and _word_at(tokens, index - 2) in ages.persons
    )
    is_joined = value >= 10 and _is_joined(tokens, index, end, ages, sexual)
    return end if is_age or is_person or is_joined else 0


def _word_at(tokens: Sequence[Token], index: int) -> str:
    return tokens[index].word if index >= 0 else ""


def _is_joined(
    tokens: Sequence[Token], index: int, end: int, ages: Ages, sexual: Collection[int]
) -> bool:
    """Tell whether "and" joins the number to a sexual sign on either side of it."""
    after = end + 1 in sexual and tokens[end].word in ages.joins
    return after or (index - 2 in sexual and tokens[index - 1].word in ages.joins)


def _is_of_a_thing(
    tokens: Sequence[Token], index: int, end: int, ages: Ages, sexual: Collection[int]
) -> bool:
    """Tell whether the age before ``end`` is a thing's: its name follows and ends the phrase.

    In doubt it is a person's: after a sexual sign, a person or "she is", and before any other
    word ("12 year old cat" is a thing, "12 year old cat girl" is none).
    """
    before = index - 1
    if before >= 0 and tokens[before].word in ("a", "an", "the"):
        before -= 1
    sexual_near = {before - 1, before - 2}
    if (
        before in sexual
        or (_word_at(tokens, before) in ("of", "with") and not sexual_near.isdisjoint(sexual))
        or _word_at(tokens, before) in ages.persons
        or _follows_prefix(tokens, index, ages)
    ):
        return False
    last = ""
    for at in range(end, min(end + _LONGEST_NAME, len(tokens))):
        word = tokens[at].word
        if not tokens[at].touches or not (word in ages.things or word in ages.thing_modifiers):
            break
        last, end = word, at + 1
    return last in ages.things and ends_phrase(tokens, end, ages.links)


def _is_a_measure(number: Token, after: Token, ages: Ages) -> bool:
    """Tell whether a number has another unit than an age, or is half of "16:9"."""
    return (after.touches and after.word in ages.not_ages) or (
        after.start - number.end == 1 and after.word.isdecimal()
    )


def _same_number(left: Token, right: Token) -> bool:
    """Tell whether two single figures are one number taken apart: "1 5 year old"."""
    return (
        len(left.word) == len(right.word) == 1
        and right.touches
        and left.word.isdecimal()
        and right.word.isdecimal()
    )


def _follows_prefix(tokens: Sequence[Token], index: int, ages: Ages) -> bool:
    before = [each.word for each in tokens[max(0, index - 2) : index]]
    return any(" ".join(before[-length:]) in ages.prefixes for length in range(1, len(before) + 1))
