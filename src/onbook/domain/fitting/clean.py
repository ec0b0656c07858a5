"""From a model's raw text to nothing but the prompt: what is not part of it is removed.

Each removal is a named step; a step that changed nothing is not recorded. Generator syntax is
never removed. A chat reply (style ``text``) keeps its own form: only what the model said to
itself and control tokens are taken out.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from operator import eq

from onbook.domain.fitting.clauses import (
    Style,
    ends_sentence,
    join_exactly,
    repeats,
    split_clauses,
    without,
)
from onbook.domain.fitting.refusals import is_refusal
from onbook.domain.must_keep import without_controls

_THINK_OPEN = re.compile(r"<(think|thinking|thought|reasoning|reflection)>", re.IGNORECASE)
_THINK_CLOSE = re.compile(r"</(?:think|thinking|thought|reasoning|reflection)>", re.IGNORECASE)
_TURN_END = re.compile(
    r"<\|(?:im_end|endoftext|eot_id|end_of_text|end|eom_id|im_start)\|>"
    r"|<end_of_turn>|</s>|<eos>|\[/INST\]"
)
_TURN_START = re.compile(
    r"(?:<\|(?:im_start|start_header_id)\|>|<start_of_turn>)[ ]?(?:assistant|model|user|system)?"
    r"(?:<\|end_header_id\|>)?[ \n]{0,4}"
)
_CONTROL = re.compile(
    r"<\|[^<>|\n]{1,40}\|>|</?s>|<(?:pad|eos|bos|unk|end_of_turn|start_of_turn)>"
    r"|\[/?INST\]|<</?SYS>>"
)
_FENCE = re.compile(r"```[ \t]*[\w+-]{0,20}[ \t]*\n?")
_OPENING = r"(?:sure(?: thing)?|certainly|of course|absolutely|okay|ok|got it|no problem)"
_PREAMBLE = re.compile(
    rf"(?:{_OPENING}[!,.:]|great!)[ \n]{{0,3}}"
    r"|(?:here(?:['\u2019]s| is| are)|below is|this is)\b[^:\n]{0,120}"
    r"\b(?:prompt|description|version|caption|tags|rewrite|result|output)s?\b[^:\n]{0,80}[:\n]"
    r"|i(?:['\u2019]ve| have) (?:enhanced|expanded|rewritten|improved|created|written)\b"
    r"[^:\n]{0,120}[:\n]",
    re.IGNORECASE,
)
_LABEL_WORDS = (
    r"(?:(?:enhanced|improved|final|expanded|rewritten|revised|optimi[sz]ed|detailed|positive|"
    r"new|image|video|output|sdxl|wan|the|your|my|full|generated|enriched|upgraded)[ ]){0,4}"
)
_LABEL_NOUN = r"(?:prompt|description|caption|output|version|answer|response|result|assistant)"
_LABEL = re.compile(
    rf"[*_#\"' ]{{0,4}}{_LABEL_WORDS}{_LABEL_NOUN}[*_\"']{{0,3}}[ ]?:[*_]{{0,3}}[ \n]{{0,3}}"
    r"|(?:提示词|增强提示|描述)[:\uff1a]\s{0,3}",
    re.IGNORECASE,
)
_LATER_LABEL = re.compile(
    r"\n[ ]?[*_#]{0,4}[ ]?(?:(?:the|your|final)[ ])?"
    r"(?:enhanced|improved|final|expanded|rewritten|revised|optimi[sz]ed)[ ]"
    r"(?:image |video )?(?:prompt|description|version)[*_]{0,3}[ ]?:[*_]{0,3}[ \n]{0,3}",
    re.IGNORECASE,
)
_ITEM = re.compile(
    r"^[ ]{0,4}(?:\*\*)?(?:(?:option|prompt|version)[ ])?(\d{1,2})[.):](?=\D)", re.IGNORECASE
)
_BULLET = re.compile(r"^[ ]{0,4}(?:[-•‣·][ ]|\*[ ])")
_NOTE_PLACE = r"(?:^|\n|(?<=[.!?)\"”:;,])[ ])[\n ]{0,3}[(*_\[]{0,3}"
_NOTE = re.compile(
    rf"{_NOTE_PLACE}"
    r"(?:(?:please )?note\b[^:\n]{0,30}:|note that\b|explanation\b[^:\n]{0,20}:|disclaimer:"
    r"|this (?:enhanced |expanded |revised )?(?:prompt|version)\b(?! of\b)"
    r"|i hope (?:this|that|you)\b|let me know\b|feel free\b(?! as\b)|would you like\b|enjoy!"
    r"|is there anything else\b)",
    re.IGNORECASE,
)
# These begin the other fields of a picture's parameters: no part of the prompt follows them.
_OTHER_FIELD = re.compile(
    rf"{_NOTE_PLACE}(?:negative prompt\b[*_]{{0,3}}[ ]?:|steps: ?\d)", re.IGNORECASE
)
_SENTENCE_END = re.compile(r"[.!?…](?=\s)")
_LINK = re.compile(r"\[([^\[\]\n]{1,200})\]\(https?://[^()\s]{1,300}\)")
_LINE_MARKS = re.compile(
    r"^[ ]{0,3}(?:#{1,6}[ ]+|>[ ]+)|^[ ]{0,3}(?:-{3,}|\*{3,}|_{3,}|={3,})$", re.MULTILINE
)
# A wildcard may hold a star (__colors/*__); it is matched first, and left alone. So is a star
# between two words (2*3). Possessive, so that a long run of stars is read once.
_EMPHASIS = re.compile(
    r"(__(?=[^\W_])[\w/*.-]{1,100}?__)|(?<![\w*])\*++(?=\S)|(?<=[^\s*])\*++(?!\w)|`+"
)
_BREAKS = re.compile(r"<br ?/?>|</?(?:p|b|i|em|strong|ul|li|ol|div|span)>", re.IGNORECASE)
_WRAPPERS = (('"', '"'), ("“", "”"), ("'", "'"), ("\u2018", "\u2019"), ("「", "」"), ("«", "»"))
_LOOP_PERIODS = range(1, 9)
_SYNTAX_CHARACTERS = frozenset('<>()[]{}|_:"')
_TRAILING = " \n,;:-"


@dataclass(frozen=True, slots=True)
class Cleaned:
    """The prompt in a raw text, the steps that found it, and whether the model refused."""

    text: str
    steps: tuple[str, ...]
    refusal: bool


def clean(raw: str, *, style: Style, truncated: bool = False) -> Cleaned:
    """Return the prompt that ``raw`` holds.

    ``truncated``: the generation ended by length, so the last clause is incomplete and is
    dropped. A refusal has an empty text.
    """
    steps: list[str] = []
    text = raw.replace("\r\n", "\n").replace("\r", "\n")
    rules: list[tuple[str, Callable[[str], str]]] = [
        ("think_block", _without_thinking),
        ("control_tokens", _without_control_tokens),
    ]
    if style != "text":
        rules += [("control_characters", without_controls), ("whitespace", _single_spaces)]
    text = _apply(rules, text, steps)
    if is_refusal(text):
        return Cleaned("" if style != "text" else text, (*steps, "refusal"), refusal=True)
    if style == "text":
        return Cleaned(text, tuple(steps), refusal=False)
    text = _apply(
        [
            ("code_fence", _from_fence),
            ("json", _from_json),
            ("preamble", _without_preamble),
            ("label", _after_label),
            ("trailing_note", _without_note),
            ("first_candidate", _first_candidate),
            ("markdown", _without_markdown),
            ("label", _after_label),
            ("wrapping_quotes", _unwrapped),
        ],
        text,
        steps,
    )
    if is_refusal(text):
        return Cleaned("", (*steps, "refusal"), refusal=True)
    joined: list[tuple[str, Callable[[str], str]]] = [("newlines", lambda t: _one_line(t, style))]
    if truncated:
        joined.append(("cut_off_end", lambda t: _without_cut_end(t, style)))
    joined.append(("repetition", _without_loops))
    return Cleaned(_apply(joined, text, steps), tuple(steps), refusal=False)


def _apply(rules: list[tuple[str, Callable[[str], str]]], text: str, steps: list[str]) -> str:
    for name, rule in rules:
        changed = rule(text)
        if changed.strip() != text.strip() and name not in steps:
            steps.append(name)
        text = changed.strip()
    return text


def _without_thinking(text: str) -> str:
    """Remove closed think blocks, an unclosed one with all after it, and a lone end's head."""
    pieces: list[str] = []
    position = 0
    while opened := _THINK_OPEN.search(text, position):
        pieces.append(text[position : opened.start()])
        closed = _THINK_CLOSE.search(text, opened.end())
        if closed is None:
            return "".join(pieces)
        position = closed.end()
    pieces.append(text[position:])
    # Templates that open the block themselves leave only its end in the output.
    return _THINK_CLOSE.split("".join(pieces))[-1]


def _without_control_tokens(text: str) -> str:
    """Cut at the end of the model's turn, then remove what control tokens are left."""
    text = text.lstrip()
    while (start := _TURN_START.match(text)) and start.end():
        text = text[start.end() :]
    for end in _TURN_END.finditer(text):
        if text[: end.start()].strip():
            text = text[: end.start()]
            break
    return _CONTROL.sub(" ", text)


def _single_spaces(text: str) -> str:
    return "\n".join(" ".join(line.split()) for line in text.split("\n"))


def _from_json(text: str) -> str:
    """Take the prompt out of a JSON object, if the whole text is one."""
    if not (text.startswith("{") and text.endswith("}")):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if isinstance(value, dict):
        for key in ("enhanced_prompt", "prompt", "description", "text", "output"):
            if isinstance(value.get(key), str):
                return str(value[key])
    return text


def _from_fence(text: str) -> str:
    parts = _FENCE.split(text)
    if len(parts) == 1:
        return text
    inside = parts[1].strip()
    return inside or "\n".join(parts)


def _without_preamble(text: str) -> str:
    for _ in range(4):
        found = _PREAMBLE.match(text)
        if found is None:
            break
        text = text[found.end() :].lstrip(" \n")
    return text


def _after_label(text: str) -> str:
    later = _LATER_LABEL.search(text)
    if later and text[later.end() :].strip():
        text = text[later.end() :]
    for _ in range(3):
        found = _LABEL.match(text)
        if found is None:
            break
        text = text[found.end() :].lstrip()
    return text


def _without_note(text: str) -> str:
    """Cut at a line that begins with a note, and take notes from the end of the last line."""
    end = len(text)
    if other := _OTHER_FIELD.search(text):
        end = other.start()
    notes = list(_NOTE.finditer(text, 0, end))
    own_line = (note.start() for note in notes if not note.start() or "\n" in note.group())
    end = min(own_line, default=end)
    for note in reversed(notes):
        if note.start() < end:
            if _SENTENCE_END.search(text, note.end(), end):
                break
            end = note.start()
    return text[:end].rstrip(" \n(*_[") if end < len(text) else text


def _first_candidate(text: str) -> str:
    """Return the first item of a numbered list; bullets are parts of one prompt."""
    lines = text.split("\n")
    items = [index for index, line in enumerate(lines) if _ITEM.match(line)]
    if len(items) >= 2:
        first = "\n".join(lines[items[0] : items[1]])
        return _ITEM.sub("", first, count=1).lstrip(" *")
    return "\n".join(_BULLET.sub("", line) for line in lines)


def _without_markdown(text: str) -> str:
    text = _BREAKS.sub("\n", text)
    text = _LINK.sub(r"\1", text)
    text = _LINE_MARKS.sub("", text)
    if "*" not in text and "`" not in text:
        return text
    return _EMPHASIS.sub(lambda found: found.group(1) or "", text)


def _unwrapped(text: str) -> str:
    for _ in range(3):
        for opening, closing in _WRAPPERS:
            if len(text) > 2 and text[0] == opening and text[-1] == closing:
                inside = text[1:-1]
                if opening not in inside and closing not in inside:
                    text = inside.strip()
                    break
                if opening == "'" and not _quotes_within(inside):
                    text = inside.strip()
                    break
        else:
            break
    if text[:1] in {'"', "“"} and not any(mark in text[1:] for mark in '"”'):
        return text[1:]
    return text


def _quotes_within(text: str) -> bool:
    """Say whether a single quote in ``text`` is more than an apostrophe."""
    return re.search(r"(?<!\w)'|'(?!\w)", text) is not None


def _one_line(text: str, style: Style) -> str:
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    result = ""
    for line in lines:
        if not result:
            result = line
        elif result[-1] in ",;:.!?…" or line[0] in ",;.":
            result += ("" if line[0] in ",;." else " ") + line
        elif style == "sentences" and line[:1].isupper():
            result += ". " + line
        else:
            result += ", " + line
    return result


def _without_cut_end(text: str, style: Style) -> str:
    clauses = split_clauses(text)
    if clauses[-1].separator and (style == "sentences" or len(clauses) > 1):
        return text
    return join_exactly(clauses[:-1]).rstrip(_TRAILING)


def _without_loops(text: str) -> str:
    """Remove clauses that repeat an earlier one, and word sequences said three times or more."""
    text = _without_word_loops(text)
    clauses = split_clauses(text)
    dropped = repeats(clause.text for clause in clauses)
    if not dropped:
        return text
    ended = ends_sentence(clauses[-1].separator)
    result = join_exactly(without(clauses, set(dropped))).rstrip(_TRAILING)
    return result + "." if ended and result and result[-1] not in ".!?…" else result


def _without_word_loops(text: str) -> str:
    """Collapse ``a b a b a b`` to ``a b``, for sequences of up to eight words."""
    tokens = text.split(" ")
    folded = [token.casefold() for token in tokens]
    for period in _LOOP_PERIODS:
        # A loop needs two whole repetitions: most texts have too few equal pairs for any.
        if sum(map(eq, folded, folded[period:])) < 2 * period:
            continue
        kept: list[str] = []
        run, looping = 0, False
        for token in tokens:
            same = len(kept) >= period and kept[-period].casefold() == token.casefold()
            same = same and _SYNTAX_CHARACTERS.isdisjoint(token)
            run, looping = (run + 1, looping) if same else (0, False)
            kept.append(token)
            # The third saying shows the loop; from then on each further one goes at once.
            surplus = period if looping else 2 * period
            if run == surplus:
                del kept[-surplus:]
                run, looping = 0, True
        tokens = kept
        folded = [token.casefold() for token in tokens]
    return " ".join(tokens)
