"""Finds the lexicon's terms in a sequence of words, and drops those used in another sense."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from onbook.domain.content_mode.lexicon import TIERS, Collocation, Lexicon
from onbook.domain.content_mode.tokens import Token, ends_phrase, minor_ages

# A label of this and the name of a benign context.
BENIGN = "benign:"
HARD = "hard"
UNCLEAR = "unclear"
PERSON = "person"
# A sexual word in a combination that is no sexual sign unless a minor is in the text.
GUARDED = "guarded"
# The name of a work of art with a child in it.
DEPICTED = "depicted"

_SEXUAL = frozenset((*TIERS, GUARDED))
_NUMERALS = "一二三四五六七八九"

# Scripts written without spaces between words: Han and the two kana.
_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]")


class Hit(NamedTuple):
    """A term found: its label, its words, and where (folded offsets and token numbers)."""

    label: str
    term: str
    start: int
    end: int
    first: int
    last: int


class _Phrase(NamedTuple):
    words: tuple[str, ...]
    term: str
    labels: tuple[str, ...]


def _labelled(lexicon: Lexicon) -> Mapping[str, tuple[str, ...]]:
    labels: dict[str, tuple[str, ...]] = {}
    groups: list[tuple[str, frozenset[str]]] = [
        *lexicon.sexual.items(),
        (HARD, lexicon.minor["hard"]),
        (UNCLEAR, lexicon.minor["unclear"]),
        (PERSON, lexicon.person),
        (DEPICTED, lexicon.depictions.subjects),
        *((BENIGN + context.name, context.words) for context in lexicon.benign),
    ]
    for label, terms in groups:
        for term in terms:
            labels[term] = (*labels.get(term, ()), label)
    return labels


class TermMatcher:
    """The terms of a lexicon, indexed by their first word or first character."""

    def __init__(self, lexicon: Lexicon) -> None:
        self._ages = lexicon.ages
        self._links = lexicon.links
        self._words: dict[str, list[_Phrase]] = {}
        self._unspaced: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
        vocabulary: set[str] = set()
        for term, labels in sorted(_labelled(lexicon).items()):
            if _UNSPACED.search(term):
                self._unspaced.setdefault(term[0], []).append((term, labels))
                continue
            words = tuple(re.findall(r"[^\W_]+", term))
            self._words.setdefault(words[0], []).append(_Phrase(words, term, labels))
            if not all(label.startswith(BENIGN) or label == DEPICTED for label in labels):
                vocabulary.update(words)
        for unit in lexicon.ages.units:
            vocabulary.update(unit.split())
        self.vocabulary = frozenset(word for word in vocabulary if len(word) >= 3)
        self._first = re.compile(f"[{re.escape(''.join(self._unspaced))}]")
        units = "|".join(re.escape(unit) for unit in lexicon.ages.cjk_units)
        self._unspaced_age = re.compile(rf"(?<!\d)(\d{{1,2}}) ?(?:{units})")
        self._numeral_age = re.compile(
            rf"(?<![{_NUMERALS}十百])(十[{_NUMERALS}]?|[{_NUMERALS}]) ?(?:{units})"
        )
        self._collocations: dict[str, list[Collocation]] = {}
        for collocation in lexicon.collocations:
            for term in collocation.words:
                self._collocations.setdefault(term, []).append(collocation)

    def match(self, tokens: Sequence[Token]) -> list[Hit]:
        """Return the hits in ``tokens``, without those that a collocation gives another sense."""
        hits: list[Hit] = []
        get = self._words.get
        for index, token in enumerate(tokens):
            for phrase in get(token.word, ()):
                size = len(phrase.words)
                if size > 1 and not self._spells(phrase.words, tokens, index):
                    continue
                last = index + size - 1
                labels = phrase.labels
                if phrase.term in self._collocations:
                    labels = self._labels_beside(phrase, tokens, index, last)
                hits.extend(
                    Hit(label, phrase.term, token.start, tokens[last].end, index, last)
                    for label in labels
                )
        sexual = {at for hit in hits if hit.label in _SEXUAL for at in (hit.first, hit.last)}
        hits.extend(
            Hit(HARD, "age", tokens[first].start, tokens[end - 1].end, first, end - 1)
            for first, end in minor_ages(tokens, self._ages, sexual)
        )
        return hits

    def match_unspaced(self, text: str) -> list[Hit]:
        """Return the hits of terms in scripts without spaces; ``first`` and ``last`` are -1."""
        if not _UNSPACED.search(text):
            return []
        hits = [
            Hit(label, term, found.start(), found.start() + len(term), -1, -1)
            for found in self._first.finditer(text)
            for term, labels in self._unspaced[found.group()]
            if text.startswith(term, found.start())
            for label in labels
        ]
        hits.extend(
            Hit(HARD, "age", found.start(), found.end(), -1, -1)
            for found in self._unspaced_age.finditer(text)
            if int(found.group(1)) < self._ages.adult_from
        )
        hits.extend(
            Hit(HARD, "age", found.start(), found.end(), -1, -1)
            for found in self._numeral_age.finditer(text)
            if _numeral(found.group(1)) < self._ages.adult_from
        )
        return hits

    @staticmethod
    def _spells(words: Sequence[str], tokens: Sequence[Token], index: int) -> bool:
        return len(tokens) - index >= len(words) and all(
            tokens[index + at].word == word for at, word in enumerate(words)
        )

    def _labels_beside(
        self, phrase: _Phrase, tokens: Sequence[Token], first: int, last: int
    ) -> tuple[str, ...]:
        """Return what the phrase still is beside its neighbours: none where another sense wins."""
        found = [
            each
            for each in self._collocations[phrase.term]
            if self._applies(each, tokens, first, last)
        ]
        if not found:
            return phrase.labels
        return (GUARDED,) if all(each.not_of_minors for each in found) else ()

    def _applies(
        self, collocation: Collocation, tokens: Sequence[Token], first: int, last: int
    ) -> bool:
        before = tokens[first - 1].word if first > 0 and tokens[first].touches else ""
        ends = [last] if before in collocation.preceded_by else []
        ends.extend(
            end for end, words in _following(tokens, last) if words in collocation.followed_by
        )
        if not collocation.ends_phrase:
            return bool(ends)
        return any(ends_phrase(tokens, end + 1, self._links) for end in ends)


def _numeral(written: str) -> int:
    """Return the value of a Chinese numeral below twenty."""
    return sum(_NUMERALS.find(each) + 1 or 10 for each in written)


def _following(tokens: Sequence[Token], last: int) -> Iterable[tuple[int, str]]:
    """Yield the next one, two and three words as phrases with the number of their last token.

    Only as far as soft gaps lie between the words.
    """
    phrase = ""
    for at, token in enumerate(tokens[last + 1 : last + 4], start=last + 1):
        if not token.touches:
            return
        phrase = f"{phrase} {token.word}" if phrase else token.word
        yield at, phrase
