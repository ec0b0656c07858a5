"""Reading what a chat template wrote around its contents: control tokens, roles, white space."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from onbook.wire.worker_api import Message
from onbook.worker.rendering.plain_text import PlainText
from onbook.worker.rendering.renderer import Part
from onbook.worker.rendering.sandbox import WHY, Written, written

# Words that only name the speaker, and that a control token encloses.
ROLE_WORDS: Final = frozenset({"system", "user", "assistant", "model"})
SHAPES: Final[dict[str, tuple[str, ...]]] = {
    "user only": ("user",),
    "system and user": ("system", "user"),
    "three turns": ("user", "assistant", "user"),
    "system and three turns": ("system", "user", "assistant", "user"),
}


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of a content, by the index of its message."""

    index: int


@dataclass(frozen=True, slots=True)
class Skeleton:
    """What a template writes for one sequence of roles.

    ``groups`` are control ids, and runs of plain text and contents between them. ``additions``
    are texts that are neither roles nor white space; ``problem`` says in a few words what makes
    the skeleton unusable, None where it is pure.
    """

    roles: tuple[str, ...]
    groups: tuple[int | tuple[str | Slot, ...], ...] = ()
    additions: tuple[str, ...] = ()
    problem: str | None = None

    def parts(self, messages: Sequence[Message]) -> list[Part]:
        """Put the contents of ``messages`` into their places."""
        return [
            group
            if isinstance(group, int)
            else "".join(
                messages[piece.index].content if isinstance(piece, Slot) else piece
                for piece in group
            )
            for group in self.groups
        ]

    def order(self) -> list[int | Slot]:
        """Return control ids and contents in their order, without any other text."""
        found: list[int | Slot] = []
        for group in self.groups:
            if isinstance(group, int):
                found.append(group)
            else:
                found += [piece for piece in group if isinstance(piece, Slot)]
        return found


def read_skeletons(
    text: PlainText, template: str, shapes: Iterable[tuple[str, ...]]
) -> list[Skeleton]:
    """Run ``template`` in the sandbox for every sequence of roles. Blocking."""
    bos, eos = text.literal(text.bos) or "", text.literal(text.eos) or ""
    return [_read(text, each) for each in written(template, bos, eos, tuple(shapes))]


def from_parts(roles: tuple[str, ...], parts: Sequence[Part], contents: Sequence[str]) -> Skeleton:
    """Return the skeleton of a renderer that was given ``contents`` that appear nowhere else."""
    pattern = "|".join(map(re.escape, contents))
    groups: list[int | tuple[str | Slot, ...]] = []
    for part in parts:
        if isinstance(part, int):
            groups.append(part)
        else:
            pieces = [piece for piece in re.split(f"({pattern})", part) if piece]
            groups.append(
                tuple(
                    Slot(contents.index(piece)) if piece in contents else piece for piece in pieces
                )
            )
    return Skeleton(roles, tuple(_joined(groups)))


def _read(text: PlainText, result: Written) -> Skeleton:
    if result.text is None:
        return Skeleton(result.roles, problem=WHY[result.failure or "refused"])
    groups = _groups(result.text, result.mark, text.special)
    if text.bos is not None and (not groups or groups[0] != text.bos):
        groups.insert(0, text.bos)
    words = [piece for group in groups if isinstance(group, tuple) for piece in group]
    additions = tuple(
        " ".join(piece.split())
        for piece in words
        if isinstance(piece, str) and not ROLE_WORDS.issuperset(piece.lower().split())
    )
    skeleton = Skeleton(result.roles, tuple(groups), additions)
    problem = _problem(skeleton)
    if problem is None and result.asked_the_time:
        problem = WHY["clock"]
    return Skeleton(result.roles, tuple(groups), additions, problem)


def _groups(
    written_text: str, mark: str, special: Mapping[str, int]
) -> list[int | tuple[str | Slot, ...]]:
    present = sorted((one for one in special if one and one in written_text), key=len, reverse=True)
    controls = "|".join(map(re.escape, present))
    chunks = re.split(f"({controls})", written_text) if controls else [written_text]
    groups: list[int | tuple[str | Slot, ...]] = []
    for chunk in filter(None, chunks):
        if chunk in special:
            groups.append(special[chunk])
            continue
        # The pattern's one group: texts and places take turns.
        pieces = re.split(mark, chunk)
        groups.append(
            tuple(
                Slot(int(piece)) if odd else piece
                for at, piece in enumerate(pieces)
                if (odd := at % 2 == 1) or piece
            )
        )
    return groups


def _problem(skeleton: Skeleton) -> str | None:
    if skeleton.additions:
        words = sum(len(addition.split()) for addition in skeleton.additions)
        return f"adds text of its own ({words} {'word' if words == 1 else 'words'})"
    order = skeleton.order()
    places = [piece.index for piece in order if isinstance(piece, Slot)]
    wanted = list(range(len(skeleton.roles)))
    if places != wanted:
        if set(places) < set(wanted):
            return "leaves a content out"
        return "repeats contents or changes their order"
    if not isinstance(order[0], int) or not isinstance(order[-1], int):
        return "does not set the turns off with control tokens"
    for before, after in pairwise(order):
        # A system text may stand in the user's turn: both come from before the model's answer.
        if isinstance(before, Slot) and isinstance(after, Slot):
            if skeleton.roles[before.index] == "system":
                continue
            return "does not set the turns off with control tokens"
    return None


def _joined(
    groups: Sequence[int | tuple[str | Slot, ...]],
) -> list[int | tuple[str | Slot, ...]]:
    """Join neighbouring texts, as a template that writes one text has them."""
    joined: list[int | tuple[str | Slot, ...]] = []
    for group in groups:
        last = joined[-1] if joined else None
        if isinstance(group, tuple) and isinstance(last, tuple):
            joined[-1] = last + group
        elif group != ():
            joined.append(group)
    return joined
