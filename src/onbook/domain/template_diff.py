"""What changed between two versions of a template, field by field and word by word."""

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import SequenceMatcher
from json import dumps
from typing import Final, Literal, TypeVar

from onbook.domain.templates import Example, Template, TemplateSampling, TemplateTest, Variable

# A word with the white space after it, a mark with the white space after it, or leading space.
_WORD: Final = re.compile(r"\w+\s*|[^\w\s]\s*|\s+")
_LINE: Final = re.compile(r"[^\n]*\n|[^\n]+")
# How many pairs of equal tokens one comparison by difflib may have, and all of one text together:
# its time grows with them. Beyond it, only tokens that are unique on both sides are aligned.
_MAX_PAIRS: Final = 10_000
_ALL_PAIRS: Final = 500_000
# Each round of aligning unique tokens reads the text once.
_MAX_ROUNDS: Final = 8

_Named = TypeVar("_Named", Variable, TemplateTest)


@dataclass(frozen=True, slots=True)
class WordOp:
    """A stretch of text that both sides have, or only the old or the new one."""

    op: Literal["equal", "insert", "delete"]
    text: str


@dataclass(frozen=True, slots=True)
class FieldDiff:
    """One field that differs, such as ``system_prompt`` or ``examples[3].assistant``.

    A side is None where it has no such field. The texts of the ``equal`` and ``insert`` words
    joined are ``new``, those of ``equal`` and ``delete`` are ``old``. A value that is no text is
    given as JSON.
    """

    field: str
    old: str | None
    new: str | None
    words: tuple[WordOp, ...]


def diff_templates(old: Template | None, new: Template) -> tuple[FieldDiff, ...]:
    """Return every field of ``new`` that differs from ``old``, in the order of the fields.

    Version and content hash are left out. With ``old`` None every field that is set is new. An
    example has the index of the new side, or of the old one if it is gone; variables and tests
    are compared by name, as in ``variables.author.default``.
    """
    return tuple(
        FieldDiff(name, before, after, diff_words(before or "", after or ""))
        for name, before, after in _compared(old, new)
        if before != after
    )


def diff_words(old: str, new: str) -> tuple[WordOp, ...]:
    """Return how ``new`` differs from ``old``, in whole words with their white space.

    The time is bounded: of large texts that have little in common, or too much of the same, some
    stretches are shown as replaced as a whole.
    """
    budget = [_ALL_PAIRS]
    merged: list[tuple[Literal["equal", "insert", "delete"], list[str]]] = []
    for kind, before, after in _line_blocks(old, new, budget):
        if kind == "equal":
            _add(merged, "equal", before)
            continue
        for same, left, right in _aligned(_tokens(_WORD, before), _tokens(_WORD, after), budget):
            if same:
                _add(merged, "equal", "".join(left))
            else:
                _add(merged, "delete", "".join(left))
                _add(merged, "insert", "".join(right))
    return tuple(WordOp(op, "".join(texts)) for op, texts in merged)


def _add(
    merged: list[tuple[Literal["equal", "insert", "delete"], list[str]]],
    op: Literal["equal", "insert", "delete"],
    text: str,
) -> None:
    if not text:
        return
    # A deletion right after an insertion joins the deletion before it: no equal word is between.
    if op == "delete" and merged and merged[-1][0] == "insert":
        if len(merged) > 1 and merged[-2][0] == "delete":
            merged[-2][1].append(text)
        else:
            merged.insert(-1, ("delete", [text]))
    elif merged and merged[-1][0] == op:
        merged[-1][1].append(text)
    else:
        merged.append((op, [text]))


def _tokens(pattern: re.Pattern[str], text: str) -> list[str]:
    return pattern.findall(text)


def _line_blocks(
    old: str, new: str, budget: list[int]
) -> Iterator[tuple[Literal["equal", "changed"], str, str]]:
    """Yield stretches of whole lines that are equal, and those whose words are to be compared."""
    for same, left, right in _aligned(_tokens(_LINE, old), _tokens(_LINE, new), budget):
        yield "equal" if same else "changed", "".join(left), "".join(right)


_Block = tuple[bool, Sequence[str], Sequence[str]]


def _aligned(
    old: Sequence[str], new: Sequence[str], budget: list[int], rounds: int = _MAX_ROUNDS
) -> Iterator[_Block]:
    """Yield ``(equal, old part, new part)`` in order; ``budget`` is what difflib may still cost."""
    start = _common(old, new)
    if start:
        yield True, old[:start], new[:start]
    old, new = old[start:], new[start:]
    end = _common(old[::-1], new[::-1])
    tail_old, tail_new = old[len(old) - end :], new[len(new) - end :]
    old, new = old[: len(old) - end], new[: len(new) - end]
    if not old or not new:
        if old or new:
            yield False, old, new
    else:
        yield from _middle(old, new, budget, rounds)
    if end:
        yield True, tail_old, tail_new


def _middle(
    old: Sequence[str], new: Sequence[str], budget: list[int], rounds: int
) -> Iterator[_Block]:
    left, right = Counter(old), Counter(new)
    pairs = sum(count * right[token] for token, count in left.items())
    if pairs <= min(_MAX_PAIRS, budget[0]):
        budget[0] -= pairs
        matcher = SequenceMatcher(None, old, new, autojunk=False)
        for tag, a, b, c, d in matcher.get_opcodes():
            yield tag == "equal", old[a:b], new[c:d]
        return
    anchors = _anchors(old, new, left, right) if rounds else []
    if not anchors:
        yield False, old, new
        return
    a = c = 0
    for b, d in [*anchors, (len(old), len(new))]:
        yield from _aligned(old[a:b], new[c:d], budget, rounds - 1)
        if b < len(old):
            yield True, old[b : b + 1], new[d : d + 1]
        a, c = b + 1, d + 1


def _common(old: Sequence[str], new: Sequence[str]) -> int:
    for index, (left, right) in enumerate(zip(old, new, strict=False)):
        if left != right:
            return index
    return min(len(old), len(new))


def _anchors(
    old: Sequence[str], new: Sequence[str], left: Mapping[str, int], right: Mapping[str, int]
) -> list[tuple[int, int]]:
    """Return the longest run of index pairs, rising on both sides, of tokens unique in both."""
    places = {token: index for index, token in enumerate(new) if right[token] == 1}
    tops: list[int] = []
    chain: list[tuple[int, int, int]] = []
    heads: list[int] = []
    for index, token in enumerate(old):
        if left[token] != 1 or token not in places:
            continue
        place = places[token]
        height = bisect_left(tops, place)
        chain.append((index, place, heads[height - 1] if height else -1))
        tops[height : height + 1] = [place]
        heads[height : height + 1] = [len(chain) - 1]
    found = []
    link = heads[-1] if heads else -1
    while link >= 0:
        index, place, link = chain[link]
        found.append((index, place))
    return found[::-1]


def _compared(old: Template | None, new: Template) -> Iterator[tuple[str, str | None, str | None]]:
    for item in fields(Template):
        name = item.name
        before, after = (None if old is None else getattr(old, name)), getattr(new, name)
        match name:
            case "version" | "content_sha256":
                continue
            case "sampling":
                yield from _sampling(before, after)
            case "examples":
                yield from _examples(before or (), after)
            case "variables":
                yield from _named(name, before or (), after, _variable_fields)
            case "tests":
                yield from _named(name, before or (), after, _test_fields)
            case _:
                unset = old is None and after in ("", 0)
                yield name, _shown(before), None if unset else _shown(after)


def _shown(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


def _sampling(
    old: TemplateSampling | None, new: TemplateSampling
) -> Iterator[tuple[str, str | None, str | None]]:
    for item in fields(TemplateSampling):
        before, after = getattr(old, item.name, None), getattr(new, item.name)
        if before != after:
            yield (
                f"sampling.{item.name}",
                None if before == () else _shown(before),
                None if after == () else _shown(after),
            )


def _examples(
    old: Sequence[Example], new: Sequence[Example]
) -> Iterator[tuple[str, str | None, str | None]]:
    # An example that was put in between moves the rest; it does not change them.
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag == "equal":
            continue
        for offset in range(max(b - a, d - c)):
            before = old[a + offset] if a + offset < b else None
            after = new[c + offset] if c + offset < d else None
            path = f"examples[{c + offset if after else a + offset}]"
            for side in ("user", "assistant"):
                yield f"{path}.{side}", getattr(before, side, None), getattr(after, side, None)


def _named(
    field: str,
    old: Sequence[_Named],
    new: Sequence[_Named],
    values: Callable[[_Named], Mapping[str, object]],
) -> Iterator[tuple[str, str | None, str | None]]:
    before: dict[str, Mapping[str, object]] = {item.name: values(item) for item in old}
    after: dict[str, Mapping[str, object]] = {item.name: values(item) for item in new}
    nothing: Mapping[str, object] = {}
    kept = [name for name in before if name in after]
    order = [name for name in after if name in before]
    if kept != order:
        yield field, ", ".join(kept), ", ".join(order)
    for name in [*after, *(name for name in before if name not in after)]:
        left: Mapping[str, object] = before.get(name, nothing)
        right: Mapping[str, object] = after.get(name, nothing)
        for key in dict.fromkeys([*right, *left]):
            yield f"{field}.{name}.{key}", _shown(left.get(key)), _shown(right.get(key))


def _variable_fields(variable: Variable) -> Mapping[str, object]:
    return {
        "type": variable.type,
        "required": variable.required,
        "default": variable.default,
    }


def _test_fields(test: TemplateTest) -> Mapping[str, object]:
    return {
        "input": test.input,
        "must_keep": test.must_keep or None,
        "must_not": test.must_not or None,
        "max_tokens": test.max_tokens,
        "mode": test.mode,
        "seed": test.seed,
        **{f"variables.{name}": value for name, value in test.variables.items()},
    }
