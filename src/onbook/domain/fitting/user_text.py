"""The user's half of the final prompt, and how it is shortened when it alone is too long."""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from onbook.domain.errors import TokenLimitExceeded
from onbook.domain.fitting.clauses import Clause, join_exactly, repeats, without
from onbook.domain.fitting.words import content_words, is_boilerplate, words
from onbook.domain.must_keep import Masked, Span, without_controls

Measure = Callable[[str], int]

_SPACE = re.compile(r"\s+")
PAUSES = " \n\t,;\uff0c\u3001\uff1b"
# Scripts written without spaces: there a character, with its marks, is the smallest piece.
_SPACELESS = re.compile(
    "[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u2e80-\u303f\u3040-\u30ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]"
)
# What is longer and has no space is no word: a run of marks, a list without spaces.
_LONGEST_WORD = 30
_INNER_MARKS = "'\u2019-_"
_TRIES = 4
_COUNTED_CLAUSES = 64
_JOINERS = "\u200d\ufe0e\ufe0f\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff"


@dataclass(frozen=True, slots=True)
class UserText:
    """The user's text on one line; flags, which must stay last, apart.

    ``keeps`` are spans of ``body``: code-point offsets, end exclusive.
    """

    body: str
    keeps: tuple[Span, ...]
    flags: str

    @property
    def whole(self) -> str:
        """Return body and flags as one text."""
        return f"{self.body} {self.flags}".strip()


@dataclass(frozen=True, slots=True)
class Shortened:
    """What is left of the user's text, by whole clauses and, at the very end, by whole words."""

    text: str
    kept: tuple[str, ...]
    dropped: tuple[tuple[str, str], ...]  # (name of the step, text)


def user_text(masked: Masked) -> UserText:
    """Return the user's text with single spaces outside its untouchable spans."""
    flags_at = _flags_start(masked)
    pieces: list[str] = []
    keeps: list[Span] = []
    length = position = 0
    for keep in masked.keeps:
        if keep.start >= flags_at:
            break
        plain = _plain(masked.original[position : keep.start])
        if not pieces:
            plain = plain.lstrip()
        length += len(plain)
        keeps.append((length, length + len(keep.text)))
        length += len(keep.text)
        pieces += (plain, keep.text)
        position = keep.end
    rest = _plain(masked.original[position:flags_at]).rstrip()
    pieces.append(rest if pieces else rest.lstrip())
    flags = masked.original[flags_at:].rstrip(PAUSES)
    return UserText("".join(pieces), tuple(keeps), flags)


def shorten(
    user: UserText,
    clauses: tuple[Clause, ...],
    keeps: tuple[str, ...],
    *,
    limit: int,
    measure: Measure,
) -> Shortened:
    """Cut the user's text, split into ``clauses``, to ``limit`` tokens of ``measure``.

    First clauses said before, then quality words, then clauses from the least informative; the
    first clause and those with syntax or quoted text stay. Then whole trailing words.

    Raises:
        TokenLimitExceeded: Syntax, quoted text and one word of the prompt do not fit.
    """
    needed = measure(" ".join(keeps)) if keeps else 0
    if needed > limit:
        raise _too_long(limit, needed)
    order = _removal_order(clauses, user.keeps)
    removed: list[int] = []
    reasons = dict(order)
    text = _render(clauses, removed, user.flags)
    excess = measure(text) - limit
    pending = [index for index, _ in order]
    cost = _costs(clauses, pending, (excess + limit) / max(1, len(text)), measure)
    while excess > 0 and pending:
        freed = 0
        while pending and freed < excess:
            freed += cost[pending[0]]
            removed.append(pending.pop(0))
        text = _render(clauses, removed, user.flags)
        excess = measure(text) - limit
    if excess <= 0:
        back = [index for index in reversed(removed) if reasons[index] == "cut_clause"]
        text = _put_back(clauses, removed, back, user.flags, limit=limit, measure=measure)
    gone = set(removed)
    kept = [clause for index, clause in enumerate(clauses) if index not in gone]
    dropped = [(reasons[index], clauses[index].text) for index in sorted(removed)]
    kept_texts = tuple(clause.text for clause in kept if clause.text)
    if excess <= 0 and text:
        return Shortened(text, kept_texts, tuple(dropped))
    text, lost = _cut_words(kept, user, limit=limit, measure=measure)
    surviving = tuple(part for part in kept_texts if part in text)
    return Shortened(text, surviving or (text,), (*dropped, ("cut_words", lost)))


def _too_long(limit: int, needed: int) -> TokenLimitExceeded:
    return TokenLimitExceeded(
        f"What must be kept of the prompt needs {needed} tokens; the limit is {limit}.",
        details={"limit": limit, "needed": needed},
    )


def _plain(text: str) -> str:
    return _SPACE.sub(" ", without_controls(text))


def _flags_start(masked: Masked) -> int:
    """Return where the flags at the end of the prompt begin."""
    start = len(masked.original)
    for keep in reversed(masked.keeps):
        between = masked.original[keep.end : start]
        if not keep.text.startswith("--") or between.strip(PAUSES):
            break
        start = keep.start
    return start


def _removal_order(clauses: tuple[Clause, ...], keeps: tuple[Span, ...]) -> list[tuple[int, str]]:
    """Return the clauses that may go, in the order in which they go, each with its reason."""
    subject = next((i for i, clause in enumerate(clauses) if words(clause.text)), 0)
    free = [
        index
        for index, clause in enumerate(clauses)
        if index != subject
        and clause.text
        and not any(start < clause.end and end > clause.start for start, end in keeps)
    ]
    free_set = set(free)
    order = [
        (index, "cut_duplicate")
        for index in repeats((clause.text for clause in clauses), exact=True)
        if index in free_set
    ]
    taken = {index for index, _ in order}
    for index in free:
        if index not in taken and is_boilerplate(clauses[index].text):
            order.append((index, "cut_boilerplate"))
            taken.add(index)
    seen: set[str] = set()
    value: dict[int, float] = {}
    for index, clause in enumerate(clauses):
        found = content_words(clause.text)
        value[index] = len(found - seen) / (1 + len(words(clause.text)))
        seen |= found
    rest = sorted((i for i in free if i not in taken), key=lambda i: (round(value[i], 2), -i))
    return order + [(index, "cut_clause") for index in rest]


def _render(clauses: tuple[Clause, ...], removed: list[int], flags: str) -> str:
    body = join_exactly(without(clauses, set(removed)))
    return f"{body.strip(PAUSES)} {flags}".strip()


def _costs(
    clauses: tuple[Clause, ...], indexes: list[int], rate: float, measure: Measure
) -> dict[int, int]:
    """Return what each clause costs: counted, or by ``rate`` per character where they are many."""
    if len(indexes) <= _COUNTED_CLAUSES:
        return {index: measure(clauses[index].text) + 1 for index in indexes}
    return {index: 1 + int(rate * len(clauses[index].text)) for index in indexes}


def _put_back(
    clauses: tuple[Clause, ...],
    removed: list[int],
    candidates: list[int],
    flags: str,
    *,
    limit: int,
    measure: Measure,
) -> str:
    """Restore the candidates that fit after all, in their order; at most four are counted."""
    text = _render(clauses, removed, flags)
    for index in candidates[:_TRIES]:
        candidate = _render(clauses, [other for other in removed if other != index], flags)
        if measure(candidate) <= limit:
            text = candidate
            removed.remove(index)
    return text


def _cut_words(
    clauses: list[Clause], user: UserText, *, limit: int, measure: Measure
) -> tuple[str, str]:
    """Return the text without its last words, and the words; untouchable spans stay."""
    pieces = [piece for clause in clauses for piece in _pieces(clause, user)]
    free = [index for index, piece in enumerate(pieces) if not piece[2]]
    fixed = [index for index, piece in enumerate(pieces) if piece[2]]
    total = len(free)

    def first(count: int) -> str:
        stop = free[count] if count < total else len(pieces)
        kept = "".join(gap + text for gap, text, _ in pieces[:stop])
        rest = "".join(" " + pieces[index][1] for index in fixed if index >= stop)
        return f"{(kept + rest).strip(PAUSES)} {user.flags}".strip()

    low, high = 0, min(total, 4 * limit)
    while low < high:
        middle = (low + high + 1) // 2
        if measure(first(middle)) <= limit:
            low = middle
        else:
            high = middle - 1
    while low and measure(first(low)) > limit:
        low -= 1
    text = first(low)
    if not text or measure(text) > limit:
        raise _too_long(limit, measure(first(min(1, total))) or measure(user.whole))
    lost = "".join(pieces[index][0] + pieces[index][1] for index in free[low:])
    return text, lost.strip(PAUSES)


def _pieces(clause: Clause, user: UserText) -> list[tuple[str, str, bool]]:
    """Return (gap before, text, untouchable) for each word and span of a clause."""
    result: list[tuple[str, str, bool]] = []
    position = clause.start
    for start, end in user.keeps:
        if start < clause.end and end > clause.start:
            result += _words(user.body[position:start])
            gap = " " if user.body[position:start][-1:].isspace() else ""
            result.append((gap, user.body[start:end], True))
            position = end
    result += _words(user.body[position : clause.end] + clause.separator)
    if result and not result[0][0]:
        result[0] = (" ", *result[0][1:])
    return result


def _words(text: str) -> list[tuple[str, str, bool]]:
    result: list[tuple[str, str, bool]] = []
    gap = " " if text[:1].isspace() else ""
    for word in text.split():
        for part in _characters(word):
            result.append((gap, part, False))
            gap = ""
        gap = " "
    return result


def _characters(word: str) -> list[str]:
    """Split a word where its script has no spaces, and a very long one after its marks."""
    parts: list[str] = []
    open_end = False
    long = len(word) > _LONGEST_WORD
    for character in word:
        mark = character in _JOINERS or unicodedata.category(character).startswith("M")
        joined = bool(parts) and (mark or parts[-1][-1] == "\u200d")
        alone = not joined and (
            _SPACELESS.match(character) is not None or unicodedata.category(character) == "So"
        )
        if parts and (joined or (open_end and not alone)):
            parts[-1] += character
        else:
            parts.append(character)
        if not joined:
            open_end = not (
                alone or (long and not character.isalnum() and character not in _INNER_MARKS)
            )
    return parts
