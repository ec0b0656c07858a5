"""Putting the user's text and the model's additions together, as tags or as sentences."""

from onbook.domain.fitting.additions import Additions
from onbook.domain.fitting.clauses import Style, ends_abbreviated, ends_sentence
from onbook.domain.fitting.user_text import PAUSES, UserText

_CLOSERS = "\"'”\u2019»」』)]}"


def assemble(user: UserText, additions: Additions, style: Style) -> str:
    """Return the user's text, the additions and the user's trailing flags as one line."""
    if not additions.units and style == "tags":
        return user.whole
    body = _trimmed(user)
    if style == "tags":
        text = ", ".join([*([body] if body else []), *(unit.text for unit in additions.units)])
    else:
        text = _sentences(user, body, additions)
    return f"{text} {user.flags}".strip()


def _trimmed(user: UserText) -> str:
    """Return the user's text without trailing separators, as far as no kept span goes."""
    floor = user.keeps[-1][1] if user.keeps else 0
    body, rest = user.body[:floor], user.body[floor:].rstrip(PAUSES)
    if rest.endswith(".") and not rest.endswith("..") and not ends_abbreviated(body + rest):
        rest = rest[:-1].rstrip(PAUSES)
    return body + rest or user.body


def _sentences(user: UserText, body: str, additions: Additions) -> str:
    begins_with_keep = bool(user.keeps) and user.keeps[0][0] == 0
    text = body if begins_with_keep else _capitalised(body)
    group: int | None = None
    for unit in additions.units:
        joint, opens = unit.joint, False
        if unit.group != group:
            joint = additions.joint if group is None else ". "
            # After a quotation a continuing sentence continues, even if the quoted one ended.
            ended = _is_ended(text) if joint == ". " else ends_sentence(text[-1:])
            ended = ended and (joint == ". " or not ends_abbreviated(text))
            joint = "" if not text else " " if ended else joint
            opens = ended or joint in {"", ". "}
        text += joint + (_capitalised(unit.text) if opens else unit.text)
        group = unit.group
    text = text.rstrip(PAUSES + ":-") if additions.units else text
    ends_with_keep = not additions.units and bool(user.keeps) and user.keeps[-1][1] == len(body)
    return text if not text or ends_with_keep or _is_ended(text) else text + "."


def _capitalised(text: str) -> str:
    """Return ``text`` with a capital first; a name such as iPhone keeps its own spelling."""
    first = text.split(" ", 1)[0]
    if any(character.isupper() for character in first):
        return text
    return text[:1].upper() + text[1:]


def _is_ended(text: str) -> bool:
    return ends_sentence(text.rstrip(_CLOSERS)[-1:])
