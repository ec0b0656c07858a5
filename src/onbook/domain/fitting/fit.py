"""Fitting a model's raw text to the reader's token limit, without losing what the user asked for.

The final prompt is the user's own text followed by the model's additions as whole clauses. Only
additions are cut, unless the user's text alone is over the limit; syntax and quoted text never.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from onbook.domain.fitting.additions import Additions, Unit, echo_of_idea, separate
from onbook.domain.fitting.assemble import assemble
from onbook.domain.fitting.budget import BOILERPLATE, DUPLICATE, choose, price
from onbook.domain.fitting.clauses import Clause, Style, join_exactly, split_clauses
from onbook.domain.fitting.clean import Cleaned, clean
from onbook.domain.fitting.conflicts import without_conflicts
from onbook.domain.fitting.user_text import UserText, shorten, user_text
from onbook.domain.fitting.words import (
    directs_camera,
    names_person,
    negates,
    shows_camera,
    wants_person,
)
from onbook.domain.must_keep import Masked
from onbook.domain.token_counting import TokenCounter

# Stands for the user's words while the model's are cleaned: of a private use, and no word.
_ECHO = "\ue000"
_CUT_STEPS = {DUPLICATE: "cut_duplicate", BOILERPLATE: "cut_boilerplate"}


@dataclass(frozen=True, slots=True)
class Step:
    """One thing done to the text: its name, and the piece it was done to."""

    name: str
    detail: str


@dataclass(frozen=True, slots=True)
class Stage:
    """The whole text as it was after one stage of the way from the raw text to ``text``.

    ``clean``: without what is not part of the prompt. ``merge``: behind the user's own words,
    without what repeats or contradicts them. ``fit``: within the limit, in the spelling to send.
    """

    name: Literal["clean", "merge", "fit"]
    text: str


@dataclass(frozen=True, slots=True)
class FittedPrompt:
    """The text to send, counted exactly, and what became of each part.

    ``tokens``, ``tokens_before`` (before anything was cut for the limit) and ``limit`` are in
    tokens of ``tokenizer``. ``kept`` and ``dropped`` are the user's clauses, ``added`` the
    model's that survived; ``cuts`` are all texts cut, the user's included. ``compressed`` says
    whether the limit forced a cut.
    """

    text: str
    tokens: int
    tokens_before: int
    limit: int
    tokenizer: str
    compressed: bool
    cuts: tuple[str, ...]
    kept: tuple[str, ...]
    added: tuple[str, ...]
    dropped: tuple[str, ...]
    steps: tuple[Step, ...]
    warnings: tuple[str, ...]
    stages: tuple[Stage, ...]


@dataclass(frozen=True, slots=True)
class _Reader:
    """The counter with the spans that its canonical spelling must not touch."""

    counter: TokenCounter
    keeps: tuple[str, ...]
    spelt: dict[str, tuple[str, int]] = field(default_factory=dict)

    def spell(self, text: str) -> tuple[str, int]:
        """Return the spelling to send, and its tokens; each text is counted once.

        That is the canonical one, unless it would alter an untouchable span: then the text as
        it is, with the larger of both counts.
        """
        if text not in self.spelt:
            self.spelt[text] = self._spell(text)
        return self.spelt[text]

    def _spell(self, text: str) -> tuple[str, int]:
        canonical = self.counter.canonical(text)
        if canonical == text:
            return text, self.counter.count(text)
        if _in_order(self.keeps, canonical):
            return canonical, self.counter.count(canonical)
        return text, max(self.counter.count(text), self.counter.count(canonical))

    def tokens(self, text: str) -> int:
        """Return the tokens of the spelling to send."""
        return self.spell(text)[1]


def fit(
    raw: str,
    masked: Masked,
    *,
    limit: int,
    counter: TokenCounter,
    style: Style,
    truncated: bool = False,
) -> FittedPrompt:
    """Return the prompt to send: at most ``limit`` tokens of ``counter``, counted exactly.

    ``truncated``: the model's generation ended by length. In style ``text`` (chat) the result is
    the cleaned raw text alone, and may be empty; else it begins with the user's text.

    Raises:
        TokenLimitExceeded: The prompt's syntax and quoted text alone exceed the limit.
    """
    cleaned = _cleaned(raw, masked, style=style, truncated=truncated)
    steps = [Step(name, "") for name in cleaned.steps]
    if style == "text":
        return _fit_reply(cleaned.text, steps, limit=limit, counter=counter)
    warnings = ["model_refused"] if cleaned.refusal else []
    user = user_text(masked)
    reader = _Reader(counter, tuple(keep.text for keep in masked.keeps))
    clauses = split_clauses(user.body)
    kept = _texts_of(clauses, user)
    additions = separate(cleaned.text, masked, style=style)
    steps += [Step("repeats_prompt", text) for text in additions.repeated]
    additions, guarded = _guard(additions, masked.text, style)
    merged, tokens_before = reader.spell(assemble(user, additions, style))
    additions, cut = _cut_additions(additions, user, kept, limit=limit, reader=reader, style=style)
    if style == "sentences" and cut and not additions.units:
        # One run-on sentence: part of it is better than none, if the user's text leaves room.
        loose = separate(cleaned.text, masked, style=style, loose=True)
        additions, cut = _cut_additions(loose, user, kept, limit=limit, reader=reader, style=style)
    if _added_people(guarded, additions, masked.text):
        warnings.append("added_people")
    text, tokens = _finished(user, additions, limit, reader, style)
    lost: list[Step] = []
    if tokens > limit:
        short = shorten(user, clauses, reader.keeps, limit=limit, measure=reader.tokens)
        text, tokens = reader.spell(short.text)
        kept, lost = short.kept, [Step(name, piece) for name, piece in short.dropped]
        warnings.append(f"the prompt alone exceeds the limit of {limit} tokens")
    return FittedPrompt(
        text=text,
        tokens=tokens,
        tokens_before=tokens_before,
        limit=limit,
        tokenizer=counter.name,
        compressed=tokens_before > limit,
        cuts=tuple(step.detail for step in (*guarded, *cut, *lost)),
        kept=kept,
        added=tuple(unit.text for unit in additions.units),
        dropped=tuple(step.detail for step in lost),
        steps=(*steps, *guarded, *cut, *lost),
        warnings=tuple(warnings),
        stages=(Stage("clean", cleaned.text), Stage("merge", merged), Stage("fit", text)),
    )


def _texts_of(clauses: Sequence[Clause], user: UserText) -> tuple[str, ...]:
    return tuple(text for text in (*(clause.text for clause in clauses), user.flags) if text)


def _cleaned(raw: str, masked: Masked, *, style: Style, truncated: bool) -> Cleaned:
    """Clean what the model said; its echo of the user's own words is neither judged nor changed."""
    echo = echo_of_idea(raw, masked) if style != "text" else None
    if echo is None:
        return clean(raw, style=style, truncated=truncated)
    start, end = echo
    cleaned = clean(raw[:start] + _ECHO + raw[end:], style=style, truncated=truncated)
    return replace(cleaned, text=cleaned.text.replace(_ECHO, raw[start:end], 1))


def _finished(
    user: UserText, additions: Additions, limit: int, reader: _Reader, style: Style
) -> tuple[str, int]:
    text, tokens = reader.spell(assemble(user, additions, style))
    # The closing full stop is ours, so it goes before any word of the user's.
    return reader.spell(user.whole) if tokens > limit else (text, tokens)


def _in_order(keeps: tuple[str, ...], text: str) -> bool:
    position = 0
    for keep in keeps:
        position = text.find(keep, position)
        if position < 0:
            return False
        position += len(keep)
    return True


def _guard(additions: Additions, idea: str, style: Style) -> tuple[Additions, list[Step]]:
    """Drop what contradicts the idea; from tags also invented people and new negations.

    Sentences with people only get a warning. A shot has one camera move: where the user directs
    the camera, an added sentence about it goes.
    """
    agreeing, conflicts = without_conflicts(additions.units, idea, style)
    steps = [Step(name, text) for name, text in conflicts]
    if conflicts:
        additions = _reduced(additions, agreeing, style)
    if style != "tags":
        additions, second = _one_camera(additions, idea, style)
        return additions, [*steps, *second]
    left: list[Unit] = []
    nobody = not wants_person(idea)
    for unit in additions.units:
        if nobody and names_person(unit.text):
            steps.append(Step("added_people", unit.text))
        elif negates(unit.text):
            steps.append(Step("added_negation", unit.text))
        else:
            left.append(unit)
    return replace(additions, units=tuple(left)), steps


def _one_camera(additions: Additions, idea: str, style: Style) -> tuple[Additions, list[Step]]:
    if not directs_camera(idea):
        return additions, []
    heads: dict[int, str] = {}
    for unit in additions.units:
        heads.setdefault(unit.group, unit.text)
    cut = {group for group, head in heads.items() if shows_camera(head)}
    left = tuple(unit for unit in additions.units if unit.group not in cut)
    steps = [Step("second_camera", unit.text) for unit in additions.units if unit.group in cut]
    return (_reduced(additions, left, style) if steps else additions), steps


def _added_people(guarded: list[Step], additions: Additions, idea: str) -> bool:
    return any(step.name == "added_people" for step in guarded) or (
        _invents_people(additions.units, idea)
    )


def _invents_people(units: tuple[Unit, ...], idea: str) -> bool:
    return not wants_person(idea) and any(names_person(unit.text) for unit in units)


def _cut_additions(
    additions: Additions,
    user: UserText,
    user_clauses: tuple[str, ...],
    *,
    limit: int,
    reader: _Reader,
    style: Style,
) -> tuple[Additions, list[Step]]:
    """Cut the least valuable additions until the whole fits, or until none is left.

    Prices are estimates, one count per unit; the whole is counted exactly after each round, and
    a round that fell short asks for the difference more.
    """
    excess = reader.tokens(assemble(user, additions, style)) - limit
    if excess <= 0 or not additions.units:
        return additions, []
    tokens = [
        reader.counter.count((unit.joint or ". ").rstrip() + " " + unit.text)
        for unit in additions.units
    ]
    priced = price(additions.units, user_clauses, tokens)
    wanted = excess
    while True:
        cut = choose(priced, wanted)
        left = tuple(unit for index, unit in enumerate(additions.units) if index not in cut)
        tried = _reduced(additions, left, style)
        over = reader.tokens(assemble(user, tried, style)) - limit
        if over <= 0 or not left:
            break
        wanted += over
    return tried, [
        Step(_CUT_STEPS.get(priced[index].kind, "cut_clause"), priced[index].unit.text)
        for index in sorted(cut)
    ]


def _reduced(additions: Additions, left: tuple[Unit, ...], style: Style) -> Additions:
    """Return the additions with the units left; a new first sentence starts anew."""
    first_group = additions.units[0].group
    joint = additions.joint
    if style == "sentences" and left and left[0].group != first_group:
        joint = ". "
    return replace(additions, units=left, joint=joint)


def _fit_reply(text: str, steps: list[Step], *, limit: int, counter: TokenCounter) -> FittedPrompt:
    """Return a chat reply whole, or as many whole clauses, then words, as the limit allows."""
    reader = _Reader(counter, ())
    before = counter.count(text)
    if before <= limit:
        return _reply(text, text, before, before, limit, counter, (), steps)
    clauses = split_clauses(text)
    low, high = 0, len(clauses)
    while low < high:
        middle = (low + high + 1) // 2
        if counter.count(join_exactly(clauses[:middle]).strip()) <= limit:
            low = middle
        else:
            high = middle - 1
    short = join_exactly(clauses[:low]).strip()
    cut = join_exactly(clauses[low:]).strip()
    if not short:
        whole = UserText(clauses[0].text, (), "")
        shortened = shorten(whole, clauses[:1], (), limit=limit, measure=reader.counter.count)
        short, cut = shortened.text, text[len(shortened.text) :].strip()
    steps = [*steps, Step("cut_end", cut)]
    return _reply(text, short, counter.count(short), before, limit, counter, (cut,), steps)


def _reply(
    cleaned: str,
    text: str,
    tokens: int,
    before: int,
    limit: int,
    counter: TokenCounter,
    cuts: tuple[str, ...],
    steps: list[Step],
) -> FittedPrompt:
    return FittedPrompt(
        text=text,
        tokens=tokens,
        tokens_before=before,
        limit=limit,
        tokenizer=counter.name,
        compressed=bool(cuts),
        cuts=cuts,
        kept=(),
        added=(text,) if text else (),
        dropped=(),
        steps=tuple(steps),
        warnings=() if text else ("empty_output",),
        stages=(Stage("clean", cleaned), Stage("fit", text)),
    )
