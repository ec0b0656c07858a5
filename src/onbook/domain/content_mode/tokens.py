"""The words of a folded text, and the ages written with them."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from onbook.domain.content_mode.lexicon import Ages

_WORD = re.compile(r"[^\W_]+")
_LEADING_NUMBER = re.compile(r"(\d{1,3})([a-z]*)\Z")
# Between words of one phrase; anything else (a comma, a line break) ends the phrase.
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


def minor_ages(tokens: Sequence[Token], ages: Ages) -> list[tuple[int, int]]:
    """Return the token ranges (end exclusive) that state an age below ``ages.adult_from``."""
    found: list[tuple[int, int]] = []
    for index, token in enumerate(tokens):
        if token.word in ages.words or (
            token.word[0].isdecimal() and not (index and _same_number(tokens[index - 1], token))
        ):
            end = _age_at(tokens, index, ages)
            if end:
                found.append((index, end))
    return found


def _age_at(tokens: Sequence[Token], index: int, ages: Ages) -> int:
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
    if attached:
        return end if attached in ages.attached else 0
    unit = _starts_with([each.word for each in tokens[end : end + 3]], ages.units)
    if unit:
        return end + unit
    if end < len(tokens) and _is_a_measure(tokens[end - 1], tokens[end], ages):
        return 0
    # Small number words after "she is" are rarely ages: "she is one of".
    is_age = (value >= 10 or word not in ages.words) and _follows_prefix(tokens, index, ages)
    is_person = value >= 10 and index > 0 and tokens[index - 1].word in ages.person_words
    return end if is_age or is_person else 0


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
