"""Structured fields (RFC 8941), as far as digests and signatures of requests use them.

Strict where the RFC lets a parser be: a key that comes twice, a number with a fraction, base64 that
another encoder would write differently, and anything over 8 KiB is not read at all.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

MAX_CHARS: Final = 8192

# Each is one run of a class, or of two alternatives that begin differently: linear on any input.
_KEY: Final = re.compile(r"[a-z*][a-z0-9_.*-]*")
_INTEGER: Final = re.compile(r"-?[0-9]{1,15}(?![0-9.])")
_STRING: Final = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
_TOKEN: Final = re.compile(r"[A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]*")
_BYTES: Final = re.compile(r":([A-Za-z0-9+/=]*):")
_ESCAPED: Final = re.compile(r'\\(["\\])')


class FieldInvalid(ValueError):
    """The text is not such a field; the message holds nothing of it."""


class Token(str):
    """A word without quotes."""

    __slots__ = ()


BareItem = int | str | Token | bytes | bool
Parameters = Mapping[str, BareItem]


@dataclass(frozen=True, slots=True)
class Item:
    """A value with its parameters."""

    value: BareItem
    parameters: Parameters = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InnerList:
    """Values in parentheses, with the parameters of the list."""

    items: tuple[Item, ...]
    parameters: Parameters = field(default_factory=dict)


Member = Item | InnerList


def parse_dictionary(text: str) -> dict[str, Member]:
    """Return the members of a dictionary field, in their order.

    Raises:
        FieldInvalid: it is none, it is too long, or a key comes twice.
    """
    if len(text) > MAX_CHARS:
        raise FieldInvalid("the field is too long")
    parser = _Parser(text.strip(" "))
    members: dict[str, Member] = {}
    while True:
        key = parser.key()
        if key in members:
            raise FieldInvalid("a key comes twice")
        members[key] = parser.member() if parser.take("=") else Item(True, parser.parameters())  # noqa: FBT003 - the value that a bare key stands for
        parser.skip(" \t")
        if parser.ended:
            return members
        parser.expect(",")
        parser.skip(" \t")


def serialised(member: Member) -> str:
    """Return the one way to write ``member``."""
    if isinstance(member, Item):
        return _bare(member.value) + _parameters(member.parameters)
    inner = " ".join(serialised(item) for item in member.items)
    return f"({inner}){_parameters(member.parameters)}"


def _parameters(parameters: Parameters) -> str:
    return "".join(
        f";{name}" if value is True else f";{name}={_bare(value)}"
        for name, value in parameters.items()
    )


def _bare(value: BareItem) -> str:
    if isinstance(value, bool):
        return "?1" if value else "?0"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, bytes):
        return f":{base64.b64encode(value).decode('ascii')}:"
    if isinstance(value, Token):
        return str(value)
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


class _Parser:
    """Reads one text from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    @property
    def ended(self) -> bool:
        return self._at >= len(self._text)

    def take(self, char: str) -> bool:
        if self._text.startswith(char, self._at):
            self._at += 1
            return True
        return False

    def expect(self, char: str) -> None:
        if not self.take(char):
            raise FieldInvalid("the field is malformed")

    def skip(self, chars: str) -> None:
        while not self.ended and self._text[self._at] in chars:
            self._at += 1

    def key(self) -> str:
        return self._match(_KEY)[0]

    def member(self) -> Member:
        if not self.take("("):
            return self._item()
        items: list[Item] = []
        self.skip(" ")
        while not self.take(")"):
            if items and self._text[self._at - 1] != " ":
                raise FieldInvalid("the field is malformed")
            items.append(self._item())
            self.skip(" ")
        return InnerList(tuple(items), self.parameters())

    def parameters(self) -> dict[str, BareItem]:
        found: dict[str, BareItem] = {}
        while self.take(";"):
            self.skip(" ")
            name = self.key()
            if name in found:
                raise FieldInvalid("a parameter comes twice")
            found[name] = self._value() if self.take("=") else True
        return found

    def _item(self) -> Item:
        return Item(self._value(), self.parameters())

    def _value(self) -> BareItem:
        first = self._text[self._at : self._at + 1]
        if first == '"':
            return _ESCAPED.sub(r"\1", self._match(_STRING)[1])
        if first == ":":
            return _decoded(self._match(_BYTES)[1])
        if first == "?":
            self._at += 1
            truth = self.take("1")
            if not truth:
                self.expect("0")
            return truth
        if first == "-" or first.isdigit():
            return int(self._match(_INTEGER)[0])
        return Token(self._match(_TOKEN)[0])

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str]:
        found = pattern.match(self._text, self._at)
        if found is None:
            raise FieldInvalid("the field is malformed")
        self._at = found.end()
        return found


def _decoded(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise FieldInvalid("a value is not base64") from None
    if base64.b64encode(data).decode("ascii") != text:
        raise FieldInvalid("a value is not base64 as it is written")
    return data
