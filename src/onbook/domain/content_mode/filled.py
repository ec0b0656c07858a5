"""Judging a caller's values inside the sentences of the template that they are filled into."""

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from onbook.domain.content_mode.decision import ContentModeDetector, Detection, Span
from onbook.domain.content_mode.together import SEXUAL_SIGN, named, said
from onbook.domain.template_rules import SLOT
from onbook.domain.templates import Template

_SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s|[\n。！？]")  # noqa: RUF001 - ends of sentences
# Of a longer value the words at its two ends: all of it is judged elsewhere, and what the
# template's words add to it stands at an end.
_END_CHARS: Final = 100


@dataclass(frozen=True, slots=True)
class _Sentence:
    """A sentence of the template: without the caller's values, with them, and where they are."""

    without: str
    text: str
    values: tuple[tuple[int, int], ...]


def refused_when_filled(
    prompt: str,
    variables: Mapping[str, object],
    template: Template,
    detector: ContentModeDetector,
) -> Detection | None:
    """Return why the values are refused in the words of ``template``; None if they are not.

    "years old" is the template's, 12 the caller's: only the sentence says it. Where the
    template's own words would be refused without any value ("never a child", in an nsfw
    template), they are not the caller's: then only a minor in a value counts.

    Args:
        prompt: What the user wrote.
        variables: The caller's values by name, which `detect_request` has judged.
        template: The template that serves the request; its content mode is the request's.
        detector: Who judges.
    """
    given = {name: value for name, value in variables.items() if not isinstance(value, bool)}
    sentences = list(_sentences(template, given)) if given else []
    if not sentences:
        return None
    sign = (SEXUAL_SIGN,) if template.content_mode == "nsfw" else ()
    before = "\n".join((prompt, *named(given), *sign))
    filled = detector.detect("\n".join((before, *(item.text for item in sentences))))
    if filled.mode != "refused":
        return None
    if not _says_minor(filled.matched, sentences, len(before) + 1):
        bare = detector.detect("\n".join((prompt, *sign, *(item.without for item in sentences))))
        if bare.mode == "refused":
            return None
    return Detection(filled.mode, filled.score, filled.categories, (), filled.reason)


def _sentences(template: Template, given: Mapping[str, object]) -> Iterator[_Sentence]:
    """Yield each sentence of the system prompt that a value of ``given`` is filled into, once."""
    defaults = {item.name: item.default for item in template.variables if item.default is not None}
    for sentence in dict.fromkeys(_SENTENCE_END.split(template.system_prompt)):
        pieces = SLOT.split(sentence)
        if not any(name in given for name in pieces[1::2]):
            continue
        text: list[str] = []
        without: list[str] = []
        values: list[tuple[int, int]] = []
        length = 0
        for at, piece in enumerate(pieces):
            if at % 2 and piece in given:
                word = _ends(said(given[piece]))
                values.append((length, length + len(word)))
            else:
                word = said(defaults.get(piece, "")) if at % 2 else piece
                without.append(word)
            text.append(word)
            length += len(word)
        yield _Sentence("".join(without), "".join(text), tuple(values))


def _says_minor(matched: tuple[Span, ...], sentences: list[_Sentence], start: int) -> bool:
    """Tell whether a sign of a minor lies in a value; the sentences begin at ``start``."""
    values: list[tuple[int, int]] = []
    for sentence in sentences:
        values += [(start + first, start + last) for first, last in sentence.values]
        start += len(sentence.text) + 1
    # The values do not overlap, so of those that begin before a sign ends the last one decides.
    begins = [first for first, _ in values]
    for span in matched:
        at = bisect_left(begins, span.end) - 1
        if span.category == "minor" and at >= 0 and span.start < values[at][1]:
            return True
    return False


def _ends(value: str) -> str:
    if len(value) <= 2 * _END_CHARS:
        return value
    return f"{value[:_END_CHARS]}\n{value[-_END_CHARS:]}"
