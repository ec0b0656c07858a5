"""Unicode repairs that every tokenizer here needs before it may see a caller's text."""

import unicodedata
from itertools import groupby

import regex

# Normalisation sorts a run of combining marks by insertion: quadratic in a hostile run. The
# Stream-Safe limit of UAX #15 is 30 marks, so no written language has a run that long.
_LONG_MARK_RUN = regex.compile(r"\p{M}{31,}")

# The three marks that count as starters and yet decompose into two non-starters (UAX #15).
_HIDDEN_NON_STARTERS = {0x0F73: "\u0f71\u0f72", 0x0F75: "\u0f71\u0f74", 0x0F81: "\u0f71\u0f80"}


def well_formed(text: str) -> str:
    """Return ``text`` with surrogate pairs joined and lone surrogates as U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def nfc(text: str) -> str:
    """Return the NFC form of ``text``, in near-linear time even for hostile runs of marks."""
    return unicodedata.normalize("NFC", sort_long_mark_runs(text))


def sort_long_mark_runs(text: str) -> str:
    """Return a canonically equivalent text that any normaliser handles in near-linear time."""
    return text if text.isascii() else _LONG_MARK_RUN.sub(_sorted_run, text)


def _sorted_run(match: regex.Match[str]) -> str:
    marks = match.group().translate(_HIDDEN_NON_STARTERS)
    groups = groupby(marks, key=lambda mark: unicodedata.combining(mark) == 0)
    return "".join(
        "".join(group) if starters else "".join(sorted(group, key=unicodedata.combining))
        for starters, group in groups
    )
