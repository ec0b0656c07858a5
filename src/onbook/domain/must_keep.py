"""What of a prompt must survive word for word, and the plain words a model may see of it.

Two things in a prompt are not language: generator syntax (LoRA tags, weights, wildcards, flags)
and quoted text, which the picture shall show letter by letter. No model is trusted with the
first, and neither is ever shortened. The syntaxes are those of AUTOMATIC1111's web UI, ComfyUI,
Dynamic Prompts and Midjourney-style flags.

Everything is found in one pass from left to right; brackets are paired on a stack, and a bracket
without a partner is literal text.
"""

import re
import unicodedata
from dataclasses import dataclass, field
from typing import Literal

KeepKind = Literal["syntax", "quote"]
Span = tuple[int, int]

_TOKEN = re.compile(
    # Most characters begin no token: they are passed over before any alternative is tried.
    r"(?=[\\<:;=_\-\"'\u2018“„«「『()\[\]{}|BA]|embedding:)(?:"
    r"(?P<escape>\\[()\[\]{}])"
    r"|(?P<control><\|[^<>|\n]{1,40}\|>)"
    r"|(?P<tag><[A-Za-z][\w-]{0,31}:[^<>\n]{1,200}>)"
    r"|(?P<concept><[A-Za-z][\w-]{0,39}>)"
    r"|(?P<emoticon>(?<!\w)[:;=]['-]?[()\[\]{}](?!\w))"
    r"|(?P<embedding>(?<!\w)embedding:[\w./\\-]{0,99}\w)"
    r"|(?P<wildcard>__(?=[^\W_])[\w/*.-]{1,100}?__)"
    r"|(?P<flag>(?<!\S)--[A-Za-z][\w-]{0,31})"
    r"|(?P<keyword>(?<!\w)(?:BREAK|AND|ADDCOMM|ADDBASE|ADDCOL|ADDROW)(?!\w))"
    r"|(?P<quote>[\"'\u2018“„«「『])"
    r"|(?P<bracket>[()\[\]{}])"
    r"|(?P<separator>[|:]))"
)
_TAG = re.compile(r"<[A-Za-z][\w-]{0,31}:[^<>\n]{1,200}>")
# A whole prompt of more words than this in quotes is pasted text, not a sign to be shown.
_WRAPPED_WORDS = 8
_CLOSES = {")": "(", "]": "[", "}": "{"}
_QUOTE_ENDS = {'"': '"', "“": "”", "„": "“”", "«": "»", "「": "」", "『": "』"}
_QUOTE_MAX = 4000
_SINGLE_QUOTE_MAX = 200
_SINGLE_QUOTE_END = re.compile(r"(?<=\S)['\u2019](?!\w)")
# Words that begin with an apostrophe: 'tis, 'em, rock 'n' roll, the '90s.
_ELISION = re.compile(r"['\u2018\u2019](?:\d\ds?|tis|twas|em|til|cause|bout|n)\b", re.IGNORECASE)
_WEIGHT = re.compile(r":\s{0,4}[-+]?(?:\d{1,4}(?:\.\d{0,6})?|\.\d{1,6})\s{0,4}$")
_WEIGHT_MAX = 24
_PICK_COUNT = re.compile(r"\s{0,4}\d{1,3}(?:-\d{1,3})?\$\$")
# A single pair of round brackets is emphasis when short; longer ones are a remark in prose.
_EMPHASIS_MAX = 40
_FLAG_NUMBER = re.compile(r"[ =]-?\d[\d.:x/]{0,15}(?=[\s,]|$)")
_FLAG_WORD = re.compile(r"[ =](?!--)[^\s,]{1,100}")
_FLAGS_WITH_WORD = frozenset(
    ("--style", "--sref", "--cref", "--profile", "--p", "--personalize", "--niji", "--version")
)
_PAUSES = " \t\n,;\uff0c\u3001\uff1b"
_SHOUTED = re.compile(r"[A-Z]{2,}")
_EMPTY_SEPARATORS = re.compile(r" ?[,;](?: ?[,;])+")
_SEPARATOR_BEFORE_END = re.compile(r" ?[,;] ?(?=[.!?])| (?=[.!?](?:\s|$))")
_ZERO_WIDTH_JOINERS = "\u200c\u200d"


@dataclass(frozen=True, slots=True)
class Keep:
    """A verbatim span of the original: code-point offsets, ``end`` exclusive."""

    kind: KeepKind
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Masked:
    """A prompt, the plain one-line words of it, and its untouchable spans in order.

    The spans do not overlap. ``text`` is empty where the prompt is nothing but syntax.
    """

    original: str
    text: str
    keeps: tuple[Keep, ...]


@dataclass(slots=True)
class _Open:
    bracket: str
    start: int
    separators: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Scan:
    """What one pass found; ``edits`` turn the original into plain words."""

    text: str
    keeps: list[tuple[KeepKind, int, int]] = field(default_factory=list)
    groups: list[Span] = field(default_factory=list)
    edits: list[tuple[int, int, str]] = field(default_factory=list)
    stack: list[_Open] = field(default_factory=list)
    open_count: dict[str, int] = field(default_factory=lambda: dict.fromkeys("([{", 0))


def protect(prompt: str) -> Masked:
    """Return the plain words of ``prompt`` and the spans that must survive verbatim.

    Linear in the length of the prompt, whatever its brackets and quotes do.
    """
    scan = _scan(prompt)
    return Masked(
        original=prompt,
        text=_plain(prompt, scan.edits),
        keeps=tuple(
            Keep(kind, prompt[start:end], start, end) for kind, start, end in _outermost(scan.keeps)
        ),
    )


def opaque_spans(text: str) -> tuple[Span, ...]:
    """Return the spans no separator may split: bracket groups, quotes, tags; in order."""
    scan = _scan(text)
    spans: list[tuple[KeepKind, int, int]] = [("syntax", *group) for group in scan.groups]
    spans += scan.keeps
    return tuple((start, end) for _, start, end in _outermost(spans))


def without_controls(text: str) -> str:
    """Return ``text`` without control, bidirectional and invisible format characters.

    White space stays. The zero-width joiners stay too: emoji and Persian need them.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c
        for c in text
        if c.isprintable() or c.isspace() or c in _ZERO_WIDTH_JOINERS or _is_visible(c)
    )


def _is_visible(character: str) -> bool:
    return unicodedata.category(character) not in {"Cc", "Cf", "Cs"}


def _scan(text: str) -> _Scan:
    scan = _Scan(text)
    position = 0
    while match := _TOKEN.search(text, position):
        position = _take(scan, match)
    return scan


def _take(scan: _Scan, match: re.Match[str]) -> int:
    """Record one token; return where the scan goes on."""
    start, end = match.span()
    match match.lastgroup:
        case "quote":
            closed = _quote_end(scan.text, start)
            if closed is not None:
                end = closed
                scan.keeps.append(("quote", start, end))
        case "separator":
            if scan.stack and _separates(scan.stack[-1].bracket, match.group()):
                scan.stack[-1].separators.append(start)
        case "bracket":
            _take_bracket(scan, match.group(), start)
        case "flag":
            end = _flag_end(scan.text, match)
            _remove(scan, start, end)
        case "tag" | "embedding" | "wildcard":
            _remove(scan, start, end)
        case _:
            _take_rare(scan, match)
    return end


def _take_rare(scan: _Scan, match: re.Match[str]) -> None:
    start, end = match.span()
    match match.lastgroup:
        case "escape":
            scan.edits.append((start, start + 1, ""))
        case "control":
            scan.edits.append((start, end, " "))
        case "concept":
            scan.keeps.append(("syntax", start, end))
            scan.edits += [(start, start + 1, ""), (end - 1, end, "")]
        case "keyword":
            if match.group() != "AND" or not _is_shouted(scan.text, start, end):
                _remove(scan, start, end)
        case _:  # an emoticon is text; it was matched so that its bracket is none
            pass


def _remove(scan: _Scan, start: int, end: int) -> None:
    scan.keeps.append(("syntax", start, end))
    scan.edits.append((start, end, " "))


def _separates(bracket: str, separator: str) -> bool:
    return bracket == "[" or (bracket == "{" and separator == "|")


def _is_shouted(text: str, start: int, end: int) -> bool:
    """Say whether a neighbour is in capitals too, so that AND is a word and no operator."""
    before = text[max(0, start - 40) : start].split()
    after = text[end : end + 40].split()
    return any(
        _SHOUTED.fullmatch(word.strip(".,;:!?\"'")) is not None for word in before[-1:] + after[:1]
    )


def _flag_end(text: str, flag: re.Match[str]) -> int:
    """Return the end of a flag with its value; ``--no`` takes all up to the next flag.

    The separator after a value is none of it: a prompt's flags are sent without that.
    """
    name, end = flag.group().lower(), flag.end()
    if name == "--no":
        stops = [text.find(" --", end), text.find("\n", end)]
        stop = min([stop for stop in stops if stop >= 0], default=len(text))
    else:
        value = (_FLAG_WORD if name in _FLAGS_WITH_WORD else _FLAG_NUMBER).match(text, end)
        stop = value.end() if value else end
    return end + len(text[end:stop].rstrip(_PAUSES))


def _quote_end(text: str, start: int) -> int | None:
    """Return the end of the quotation that begins at ``start``, or None if none does."""
    mark, first = text[start], text[start + 1 : start + 2]
    if not first or first.isspace() or first == mark:
        return None
    if mark in "\"'\u2018" and start and text[start - 1].isalnum():
        return None
    if mark in "'\u2018":
        if _ELISION.match(text, start):
            return None
        found = _SINGLE_QUOTE_END.search(text, start + 2, start + _SINGLE_QUOTE_MAX)
        end = found.end() if found else None
    else:
        ends = [
            position
            for closing in _QUOTE_ENDS[mark]
            if (position := text.find(closing, start + 1, start + _QUOTE_MAX)) >= 0
        ]
        end = min(ends) + 1 if ends else None
    return end if end is not None and _is_quotation(text, start, end) else None


def _is_quotation(text: str, start: int, end: int) -> bool:
    """Say whether the quoted text is one to be shown: no tag in it, and no whole prompt."""
    quoted = text[start:end]
    if "\n" in quoted or _TAG.search(quoted):
        return False
    wraps_all = not text[:start].strip() and not text[end:].strip()
    return not wraps_all or quoted.count(" ") < _WRAPPED_WORDS


def _take_bracket(scan: _Scan, bracket: str, position: int) -> None:
    opening = _CLOSES.get(bracket)
    if opening is None:
        scan.stack.append(_Open(bracket, position))
        scan.open_count[bracket] += 1
        return
    if not scan.open_count[opening]:
        return
    while True:
        opened = scan.stack.pop()
        scan.open_count[opened.bracket] -= 1
        if opened.bracket == opening:
            break
    _close_group(scan, opened, position)


def _close_group(scan: _Scan, opened: _Open, close: int) -> None:
    start = opened.start
    inner = close - start - 1
    doubled = bool(scan.groups) and scan.groups[-1] == (start + 1, close)
    scan.groups.append((start, close + 1))
    tail = max(start + 1, close - _WEIGHT_MAX)
    weight = _WEIGHT.search(scan.text[tail:close])
    if opened.bracket == "(" and not (weight or doubled or 0 < inner <= _EMPHASIS_MAX):
        return
    if not inner:
        return
    scan.keeps.append(("syntax", start, close + 1))
    scan.edits += [(start, start + 1, ""), (close, close + 1, "")]
    scan.edits += [(at, at + 1, " ") for at in opened.separators]
    if weight and opened.bracket != "{":
        scan.edits.append((tail + weight.start(), close, ""))
    if opened.bracket == "{" and (count := _PICK_COUNT.match(scan.text, start + 1, close)):
        scan.edits.append((start + 1, count.end(), ""))


def _outermost(spans: list[tuple[KeepKind, int, int]]) -> list[tuple[KeepKind, int, int]]:
    """Return the spans that lie in no other, in order."""
    result: list[tuple[KeepKind, int, int]] = []
    for span in sorted(spans, key=lambda span: (span[1], -span[2])):
        if not result or span[1] >= result[-1][2]:
            result.append(span)
    return result


def _plain(prompt: str, edits: list[tuple[int, int, str]]) -> str:
    pieces: list[str] = []
    position = 0
    for start, end, replacement in sorted(edits, key=lambda edit: (edit[0], -edit[1])):
        if start < position:
            continue
        pieces += (prompt[position:start], replacement)
        position = end
    pieces.append(prompt[position:])
    text = " ".join(without_controls("".join(pieces)).split())
    text = _EMPTY_SEPARATORS.sub(",", text)
    text = _SEPARATOR_BEFORE_END.sub("", text)
    text = text.strip(" ,;")
    return text if text.strip(" .,;:|-") else ""
