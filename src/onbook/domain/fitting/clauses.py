"""Splitting a text into clauses and back, without losing a character."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Literal

from onbook.domain.fitting.words import jaccard, telling_words, word_set, words
from onbook.domain.must_keep import Span, opaque_spans

Style = Literal["tags", "sentences", "text"]

# Full-width comma, ideographic comma, full-width semicolon; full stop, exclamation, question.
_WIDE_PAUSES = "\uff0c\u3001\uff1b"
_WIDE_ENDS = "\u3002\uff01\uff1f"
_BOUNDARY = re.compile(
    # Letters are passed over before any alternative is tried.
    rf"(?=[\s,;.!?…{_WIDE_PAUSES}{_WIDE_ENDS}])(?:"
    rf"[,;{_WIDE_PAUSES}]|[.!?…]+|[{_WIDE_ENDS}]+|\n+|(?<=[\"'”\u2019」])\s(?=[A-Z]))"
)
_AFTER = re.compile(rf"[\s,;{_WIDE_PAUSES}]*")
_SENTENCE_MARKS = f".!?…\n{_WIDE_ENDS}"
_LAST_WORD = re.compile(r"[^\W\d_]+$")
_ABBREVIATIONS = word_set(
    "mr mrs ms dr st mt vs etc approx no vol fig prof sr jr inc ltd co feat e.g i.e"
)
# Of these a closing full stop is part of the word, whatever follows.
_DOTTED = word_set("etc approx jr sr inc ltd co e.g i.e")
_INITIALS = re.compile(r"(?<!\w)(?:[^\W\d_]\.){2,8}$")
_NEAR_DUPLICATE = 0.8
# In a shorter clause the one word that differs (left, right; red, blue) is what it says.
_NEAR_MIN_WORDS = 13
# A model that says the same for the third time is in a loop.
_LOOP_SAYINGS = 3
# Loops repeat what is near: comparing with the latest clauses keeps the pass linear.
_NEAR_WINDOW = 48


@dataclass(frozen=True, slots=True)
class Clause:
    """A piece of text, the separator that follows it, and the number of its sentence.

    ``start`` is the code-point offset of ``text`` in the text that was split.
    """

    text: str
    separator: str
    sentence: int
    start: int

    @property
    def end(self) -> int:
        """Return the offset after the last character of ``text``."""
        return self.start + len(self.text)


def split_clauses(text: str) -> tuple[Clause, ...]:
    """Split at commas, semicolons, sentence ends and line ends.

    Not inside brackets, quotes and tags, nor within numbers (1,000; 1.2), nor after
    abbreviations. ``join_exactly`` gives ``text`` back, character for character.
    """
    clauses: list[Clause] = []
    opaque = opaque_spans(text)
    opaque_index = start = sentence = 0
    position = 0
    while match := _BOUNDARY.search(text, position):
        position = match.end()
        while opaque_index < len(opaque) and opaque[opaque_index][1] <= match.start():
            opaque_index += 1
        if opaque_index < len(opaque) and _inside(match.start(), opaque[opaque_index]):
            position = opaque[opaque_index][1]
            continue
        if not _splits(text, match):
            continue
        after = _AFTER.match(text, match.end())
        position = after.end() if after else match.end()
        separator = text[match.start() : position]
        if not text[start : match.start()] and clauses:
            clauses[-1] = replace(clauses[-1], separator=clauses[-1].separator + separator)
        else:
            clauses.append(Clause(text[start : match.start()], separator, sentence, start))
        if ends_sentence(separator) or separator.isspace():
            sentence += 1
        start = position
    if start < len(text) or not clauses:
        clauses.append(Clause(text[start:], "", sentence, start))
    return tuple(clauses)


def join_exactly(clauses: Iterable[Clause]) -> str:
    """Return the text that ``split_clauses`` was given."""
    return "".join(clause.text + clause.separator for clause in clauses)


def join(texts: Iterable[str]) -> str:
    """Return the texts as one line of tags."""
    return ", ".join(text for text in texts if text)


def ends_sentence(separator: str) -> bool:
    """Say whether the separator closes a sentence."""
    return any(mark in separator for mark in _SENTENCE_MARKS)


def without(clauses: tuple[Clause, ...], dropped: Collection[int]) -> tuple[Clause, ...]:
    """Return the clauses without those at ``dropped``; each sentence keeps its end mark."""
    result: list[Clause] = []
    for index, clause in enumerate(clauses):
        if index not in dropped:
            result.append(clause)
        elif (
            result
            and result[-1].sentence == clause.sentence
            and (ends_sentence(clause.separator) or not clause.separator)
        ):
            result[-1] = replace(result[-1], separator=clause.separator)
    return tuple(result)


def ends_abbreviated(text: str) -> bool:
    """Say whether the full stop that ends ``text`` is part of its last word."""
    tail = text[-24:]
    if not tail.endswith(".") or tail.endswith(".."):
        return False
    found = _LAST_WORD.search(tail, 0, len(tail) - 1)
    known = found is not None and found.group().lower() in _DOTTED
    return known or _INITIALS.search(tail) is not None


def repeats(clauses: Iterable[str], *, exact: bool = False) -> list[int]:
    """Return the indexes of clauses that repeat an earlier one.

    A repetition has the same telling words; in the same order where ``exact``. Without that, so
    does a clause of more than 12 words if it is near (a Jaccard similarity of the word sets of
    at least .8, the threshold of the measured prototype) two of the latest clauses.
    """
    seen: set[tuple[str, ...] | frozenset[str]] = set()
    recent: list[frozenset[str]] = []
    result: list[int] = []
    for index, text in enumerate(clauses):
        telling = telling_words(text)
        if not telling:
            continue
        key = telling if exact else frozenset(telling)
        again = key in seen
        seen.add(key)
        found = frozenset(words(text))
        if not exact and len(found) >= _NEAR_MIN_WORDS:
            near = sum(_is_near(found, other) for other in recent)
            again = again or near + 1 >= _LOOP_SAYINGS
            recent.append(found)
            del recent[:-_NEAR_WINDOW]
        if again:
            result.append(index)
    return result


def _is_near(one: frozenset[str], other: frozenset[str]) -> bool:
    small, large = len(one), len(other)
    if small > large:
        small, large = large, small
    return small >= _NEAR_DUPLICATE * large and jaccard(one, other) >= _NEAR_DUPLICATE


def _inside(position: int, span: Span) -> bool:
    return span[0] <= position < span[1]


def _splits(text: str, match: re.Match[str]) -> bool:
    mark = match.group()
    before = text[match.start() - 1 : match.start()] if match.start() else ""
    after = text[match.end() : match.end() + 1]
    if mark in {",", ";"}:
        return not (before.isdigit() and after.isdigit())
    if mark[0] in ".!?…":
        if after and not after.isspace():
            return False
        return mark != "." or not _is_abbreviation(text, match.start())
    if mark.isspace() and "\n" not in mark:
        return match.start() >= 2 and text[match.start() - 2] in ".!?…"
    return True


def _is_abbreviation(text: str, dot: int) -> bool:
    found = _LAST_WORD.search(text, max(0, dot - 12), dot)
    if found is None:
        return False
    word = found.group()
    if len(word) == 1:
        return word.isascii() and dot + 1 < len(text)
    return word.lower() in _ABBREVIATIONS and dot + 1 < len(text)
