"""Tokenising contents so that no control token comes out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import regex

from onbook.worker.rendering.budget import Budget, current_budget
from onbook.worker.rendering.errors import ContentNotPlainError, LongRunError

Tokenize = Callable[[str], list[int]]

_MAX_ROUNDS: Final = 16
# What one match of any of llama.cpp's patterns can span, over all kinds of pre-tokenizers: white
# space, signs, and whatever is neither white space nor one of the marks that end a clause.
_RUNS: Final = tuple(
    map(
        regex.compile,
        (
            r"\s++",
            r"[^\s\p{L}\p{N}]++",
            r"[^\s.,!?(|)\u2026\u3001\u3002\uff0c\u060c\u06d4\u0964]++",
        ),
    )
)
# Texts that may stand before a piece while it is tokenised and whose ids are then taken off.
_LEADS: Final = ("\u263a", "\U0001f98a", "\n", "|")


@dataclass(frozen=True, slots=True)
class PlainText:
    """Tokenises contents so that no id outside plain text can come out.

    ``special`` maps the text of each control or user-defined token to its id. ``bos`` is the id
    that the model wants before every prompt, None where it wants none; ``eos`` ends its texts.
    ``longest_token_bytes`` is the length in UTF-8 of what one id can stand for, None where that is
    not bounded. ``longest_run`` is how many characters without a gap, of white space or of signs
    the tokenizer survives; None where there is no such limit.
    """

    tokenize: Tokenize
    special: Mapping[str, int]
    bos: int | None = None
    eos: int | None = None
    longest_token_bytes: int | None = None
    longest_run: int | None = None

    def ids(self, text: str) -> list[int]:
        """Return the ids of ``text``, all of them plain.

        Raises:
            ContentNotPlainError: not even split literals come out plain, or the request has more
                of them than its budget allows.
            LongRunError: the text has a run that this tokenizer would not survive.
            TooManyTokensError: the request's budget of ids is used up.
        """
        if not text:
            return []
        budget = current_budget() or Budget()
        if self.longest_run is not None and has_longer_run(text, self.longest_run):
            raise LongRunError(self.longest_run)
        ids = self._plain(text, budget)
        budget.take_ids(len(ids))
        return ids

    def _plain(self, text: str, budget: Budget) -> list[int]:
        budget.check()
        ids = self.tokenize(text)
        forbidden = self._forbidden(ids)
        if not forbidden:
            return ids
        # Some tokenizers match user-defined tokens (Qwen's <tool_call>) even without special
        # parsing, or merge plain pieces into a control token. Cut inside the literal, its text
        # cannot be matched and stays the same text. Another literal may have hidden behind it.
        pieces = [text]
        for _ in range(_MAX_ROUNDS):
            for literal in sorted(forbidden, key=len, reverse=True):
                pieces = [part for piece in pieces for part in _cut_inside(piece, literal)]
                # Each of them costs two calls to the tokenizer.
                if len(pieces) > budget.pieces_left:
                    raise ContentNotPlainError
            ids = self._joined(pieces, budget)
            forbidden = self._forbidden(ids)
            if not forbidden:
                return ids
        raise ContentNotPlainError

    def literal(self, token: int | None) -> str | None:
        """Return the text of a control token, None where it is not known."""
        return next((text for text, known in self.special.items() if known == token), None)

    def _forbidden(self, ids: list[int]) -> list[str]:
        present = set(ids)
        if present.isdisjoint(self.special.values()):
            return []
        return [text for text, token in self.special.items() if token in present]

    def _joined(self, pieces: list[str], budget: Budget) -> list[int]:
        budget.pieces_left -= len(pieces)
        ids = list(self.tokenize(pieces[0]))
        for piece in pieces[1:]:
            budget.check(len(ids))
            ids += self._continued(piece)
        return ids

    def _continued(self, piece: str) -> list[int]:
        """Tokenise ``piece`` as the middle of a text.

        SentencePiece puts a space before every text it is given; in the middle of a content that
        space would be an addition.
        """
        for lead in _LEADS:
            before = self.tokenize(lead)
            ids = self.tokenize(lead + piece)
            if ids[: len(before)] == before:
                return ids[len(before) :]
        raise ContentNotPlainError


def has_longer_run(text: str, longest: int) -> bool:
    """Tell whether over ``longest`` characters may be one match of a pre-tokenizer."""
    if len(text) <= longest:
        return False
    return any(run.end() - run.start() > longest for runs in _RUNS for run in runs.finditer(text))


def is_control(text: str, *, user_defined: bool) -> bool:
    """Tell whether a token of the kinds CONTROL and USER_DEFINED must not come from a content.

    Gemma and others define their runs of white space as such tokens; those, and single
    characters, are text: no turn can be closed with them.
    """
    if not user_defined:
        return bool(text)
    visible = text.replace("\u2581", " ").replace("\u0120", " ").replace("\u010a", "\n")
    return len(text) > 1 and not visible.isspace()


def _cut_inside(text: str, literal: str) -> list[str]:
    if len(literal) < 2 or literal not in text:
        return [text]
    parts = text.split(literal)
    pieces = [parts[0] + literal[0]]
    pieces += [literal[1:] + part + literal[0] for part in parts[1:-1]]
    pieces.append(literal[1:] + parts[-1])
    return pieces
