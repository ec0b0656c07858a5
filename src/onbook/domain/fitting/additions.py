"""What the model added to the user's idea, as units that can be cut whole."""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from onbook.domain.fitting.clauses import (
    Clause,
    Style,
    ends_abbreviated,
    ends_sentence,
    split_clauses,
)
from onbook.domain.fitting.refusals import is_refusal
from onbook.domain.fitting.words import content_words, jaccard, word_set, words
from onbook.domain.must_keep import Masked, Span, protect

_SAME_CLAUSE = 0.6
# A model repeats what the prompt says first; to compare all with all would cost the square.
_COMPARED_CLAUSES = 64
_MIN_HEAD_WORDS = 4
_MOST_MARKS = 32
_MIN_TAIL_WORDS = 3
_PAUSE_OR_END = " .,;:"
_LEAD = re.compile(r"[\s,;:.!?…\u2013—\uff0c\u3002-]*")
# A comma before one of these opens a phrase that can be left out of an English sentence.
# A clause that begins with one of these is no sentence without the clause after it.
_SUBORDINATE = word_set(
    "as while when whenever where if once after before until since although though despite amid "
    "amidst with without in on at under beneath above below behind beyond beside near from through "
    "throughout across along among around against inside outside within nestled surrounded set "
    "framed illuminated bathed lit captured nearby"
)
_OPENERS = word_set(
    "with as while its their his her the a an where which under in on at from against beneath "
    "beside behind above across through along amid among around within surrounded framed lit set "
    "captured shot creating casting giving leaving letting revealing making each every soft warm "
    "cool gentle faint distant subtle rich deep bright"
)


@dataclass(frozen=True, slots=True)
class Unit:
    """The smallest piece that may be cut: ``joint`` stands before it within its sentence.

    Units of one ``group`` form a sentence (in tags, each is its own group): only the last unit
    of a group can go, so that no sentence loses its head.
    """

    text: str
    joint: str
    group: int


@dataclass(frozen=True, slots=True)
class Additions:
    """The units in order; ``joint`` is how the first continues the user's text."""

    units: tuple[Unit, ...]
    joint: str
    repeated: tuple[str, ...]


def separate(text: str, masked: Masked, *, style: Style, loose: bool = False) -> Additions:
    """Separate the model's additions from its repetition of the idea.

    Where ``text`` starts with the idea (compared by letters and digits alone), the rest is the
    addition; else what merely repeats the user's words is left out. ``loose`` lets a sentence be
    cut at any comma: for a run-on sentence that fits the limit in no other way.
    """
    rest = _after_idea(text, masked.text)
    continues = rest is not None
    clauses = split_clauses((text if rest is None else rest).strip())
    lead = "" if rest is None else _lead(rest)
    if continues and clauses:
        stripped = clauses[0].text.lstrip(" \u2013—-:")
        clauses = (replace(clauses[0], text=stripped), *clauses[1:])
    clauses = tuple(
        replace(clause, text=clause.text.rstrip(" :-"))
        for clause in clauses
        if words(clause.text) and not _is_syntax(clause.text)
    )
    idea = content_words(masked.text) if masked.text else frozenset[str]()
    said: list[frozenset[str]] = []
    if not continues:
        said = [content_words(c.text) for c in split_clauses(masked.text)[:_COMPARED_CLAUSES]]
    units = (
        _tag_units(clauses)
        if style == "tags"
        else _sentence_units(clauses, continuing=continues and lead != ". ", loose=loose)
    )
    groups: dict[int, list[str]] = {}
    for unit in units:
        groups.setdefault(unit.group, []).append(unit.text)
    repeated = {
        group: " ".join(texts)
        for group, texts in groups.items()
        if _repeats(content_words(" ".join(texts)), idea, said)
    }
    left = tuple(unit for unit in units if unit.group not in repeated)
    if not continues or 0 in repeated:
        lead = ". " if style == "sentences" else ", "
    return Additions(left, lead, tuple(repeated.values()))


def echo_of_idea(raw: str, masked: Masked) -> Span | None:
    """Return where in ``raw`` the model repeats the idea, if it begins with that.

    Code-point offsets, end exclusive. An answer that declines where the idea alone does not is
    no echo: an idea of a word or two may be the beginning of a refusal.
    """
    rest = _after_idea(raw, masked.text)
    if rest is None or (is_refusal(raw) and not is_refusal(masked.text)):
        return None
    start = _first_letter(raw)
    lead = masked.text[: _first_letter(masked.text)]
    if raw[:start].endswith(lead):
        start -= len(lead)
    return start, len(raw) - len(rest)


def without_echo(raw: str, masked: Masked) -> str:
    """Return what the model said after it repeated the idea; ``raw`` if it did not begin so.

    Where the idea is continued without a pause, an ellipsis stands for it, so that the words
    that follow are not taken for the beginning of an answer.
    """
    echo = echo_of_idea(raw, masked)
    if echo is None:
        return raw
    rest = raw[echo[1] :]
    paused = not rest.strip() or "\n" in rest[:3] or not rest.lstrip()[:1].isalnum()
    return rest if paused else "…" + rest


def _first_letter(text: str) -> int:
    return next((at for at, character in enumerate(text) if character.isalnum()), len(text))


def _is_syntax(text: str) -> bool:
    """Say whether a clause is nothing but a tag: those are the user's to set, not the model's."""
    return "<" in text and not protect(text).text


def _repeats(found: frozenset[str], idea: frozenset[str], said: Iterable[frozenset[str]]) -> bool:
    """Say whether words bring nothing that the user did not say."""
    return found <= idea or any(jaccard(found, clause) >= _SAME_CLAUSE for clause in said)


def _after_idea(text: str, idea: str) -> str | None:
    """Return what follows the idea in ``text``, or None where the text does not start with it."""
    needed = [letter for _, letters in _letters(idea) for letter in letters]
    end = _match_end(text, needed)
    if end is None:
        return None
    rest = text[end:]
    if rest[:1].isalnum() or (rest[:1] in {"'", "\u2019", "-", "_"} and rest[1:2].isalnum()):
        return None
    if ends_abbreviated(idea):
        rest = rest.removeprefix(".")
    tail = idea[len(idea.rstrip("\"'”\u2019»」』)]}!?.")) :]
    if tail.strip(_PAUSE_OR_END):
        consumed = 0
        while consumed < min(len(tail), len(rest)) and rest[consumed] in tail:
            consumed += 1
        rest = rest[consumed:]
    return rest


def _match_end(text: str, needed: list[str]) -> int | None:
    """Return where in ``text`` the letters and digits ``needed`` have all been read."""
    matched = 0
    for end, letters in _letters(text):
        for letter in letters:
            if matched == len(needed) or letter != needed[matched]:
                return None
            matched += 1
        if needed and matched == len(needed):
            return end
    return None


def _letters(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield each character with its marks as (end, folded letters of its composed form)."""
    start = 0
    while start < len(text):
        end = start + 1
        # Bounded: composing sorts a run of marks, which costs the square of its length.
        while end < len(text) and end - start < _MOST_MARKS and _joins(text[end]):
            end += 1
        composed = text[start] if end == start + 1 else _composed(text[start:end])
        yield end, [c for c in composed.casefold() if c.isalnum() or _is_vowel_sign(c)]
        start = end


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _joins(character: str) -> bool:
    """Say whether a character belongs to the one before it: a mark, a joiner, a later jamo."""
    return not character.isascii() and (
        character in "\u200c\u200d"
        or "\u1160" <= character <= "\u11ff"
        or unicodedata.category(character).startswith("M")
    )


def _is_vowel_sign(character: str) -> bool:
    """Say whether a mark of the Indic and South-East Asian scripts tells words apart."""
    return "\u0900" <= character <= "\u17ff" and unicodedata.category(character)[0] == "M"


def _lead(rest: str) -> str:
    """Return the joint between the user's text and its continuation, in one of five forms."""
    found = _LEAD.match(rest)
    lead = found.group() if found else ""
    if ends_sentence(lead):
        return ". "
    if any(mark in lead for mark in ",\uff0c:"):
        return ", "
    if ";" in lead:
        return "; "
    following = rest[len(lead) : len(lead) + 1]
    if lead.strip():
        return " — "
    return ". " if following.isupper() else " "


def _tag_units(clauses: tuple[Clause, ...]) -> tuple[Unit, ...]:
    texts = (clause.text.strip(" .") for clause in clauses)
    return tuple(Unit(text, ", ", index) for index, text in enumerate(texts) if text)


def _sentence_units(
    clauses: tuple[Clause, ...], *, continuing: bool, loose: bool
) -> tuple[Unit, ...]:
    units: list[Unit] = []
    group = -1
    sentence: int | None = None
    joint = ""
    for clause in clauses:
        if clause.sentence != sentence:
            group, sentence, joint = group + 1, clause.sentence, ""
            units.append(Unit(clause.text, "", group))
        elif _cuttable(units[-1], clause, continuing=continuing and group == 0, loose=loose):
            units.append(Unit(clause.text, joint, group))
        else:
            units[-1] = replace(units[-1], text=units[-1].text + joint + clause.text)
        joint = f"{clause.separator.strip()[:1]} " if clause.separator.strip() else " "
    return tuple(units)


def _cuttable(before: Unit, clause: Clause, *, continuing: bool, loose: bool) -> bool:
    """Say whether the sentence still stands when it ends before ``clause``."""
    if not before.joint:
        head = words(before.text)
        if not continuing and head[0] in _SUBORDINATE and "," not in before.text:
            return False
        if len(head) < _MIN_HEAD_WORDS and not loose:
            return False
    found = words(clause.text)
    opens = found[0] in _OPENERS or found[0].endswith("ing")
    return loose or (opens and len(found) >= _MIN_TAIL_WORDS)
