"""The rules that a template keeps before it may be stored or served.

What a template gets wrong here would reach a model as text, or let a user's prompt become part
of what only the template may say.
"""

import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from onbook.domain.templates import Template, TemplateSampling, Variable

# A field and why it is wrong.
Broken = tuple[str, str]

PROMPT_SLOT: Final = "{{prompt}}"
SLOT: Final = re.compile(r"\{\{([A-Za-z_][A-Za-z0-9_]{0,63})\}\}")
ROTATE: Final = re.compile(r"^# rotate (\w[\w-]{0,63}) (\d{1,3})$", re.MULTILINE)
# A string literal of GBNF. An unterminated one goes to the end of its line and is never given
# back, so that no text is read twice.
LITERAL: Final = re.compile(r'"(?:[^"\\\n]|\\.)*+(?:"|\\?$)', re.MULTILINE)
_ANY_SLOT: Final = re.compile(r"\{\{.{0,80}?\}\}", re.DOTALL)
_COMMENT: Final = re.compile(r"^[ \t]*#.*$", re.MULTILINE)

# The worker's own limits (wire contract): lowest and highest value of each.
_RANGES: Final = {
    "temperature": (0.0, 5.0),
    "top_p": (1e-9, 1.0),
    "top_k": (0, 100_000),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.1, 5.0),
    "frequency_penalty": (-2.0, 2.0),
    "presence_penalty": (-2.0, 2.0),
    "dry_multiplier": (0.0, 10.0),
}
_MAX_STOPS: Final = 16
_MAX_TOKENS: Final = 32_768
_TYPES: Final[dict[str, type | tuple[type, ...]]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
}


def broken_rules(template: "Template") -> Iterator[Broken]:
    """Yield every rule that ``template`` breaks, in the order of its fields."""
    if template.token_limit < 1:
        yield "token_limit", "must be at least 1"
    if not 1 <= template.max_tokens <= _MAX_TOKENS:
        yield "max_tokens", f"must be from 1 to {_MAX_TOKENS}"
    if not 0 <= template.examples_sent <= len(template.examples):
        yield "examples_sent", "is larger than the pool of examples"
    if not template.system_prompt.strip() and not template.examples_sent:
        yield "system_prompt", "is empty and there are no examples"
    yield from _broken_slots(template)
    if template.grammar is not None:
        yield from _broken_grammar(template.grammar)
    yield from _broken_sampling(template.sampling)
    for variable in template.variables:
        yield from _broken_variable(variable)
    yield from _broken_text(template)


def has_type(variable: "Variable", value: object) -> bool:
    """Tell whether ``value`` is of the variable's type; a boolean is no number."""
    if isinstance(value, bool) and variable.type != "boolean":
        return False
    return isinstance(value, _TYPES[variable.type])


def _broken_slots(template: "Template") -> Iterator[Broken]:
    declared = {variable.name for variable in template.variables}
    if PROMPT_SLOT in template.system_prompt:
        # User text never becomes part of the system text.
        yield "system_prompt", "must not hold {{prompt}}; it is its own message"
    for slot in _ANY_SLOT.findall(template.system_prompt):
        name = SLOT.fullmatch(slot)
        if slot != PROMPT_SLOT and (name is None or name.group(1) not in declared):
            # The slot is the author's own text, and he has to find it.
            yield "system_prompt", f"holds {slot[:80]}, which is not a declared variable"
    if template.user_format is not None:
        if template.user_format.count(PROMPT_SLOT) != 1:
            yield "user_format", "must hold {{prompt}} exactly once"
        if any(slot != PROMPT_SLOT for slot in _ANY_SLOT.findall(template.user_format)):
            yield "user_format", "must hold no slot but {{prompt}}"


def _broken_grammar(grammar: str) -> Iterator[Broken]:
    if not grammar.strip():
        yield "grammar", "is empty; leave it out instead"
    outside = LITERAL.sub("", _COMMENT.sub("", grammar))
    if PROMPT_SLOT in outside:
        # Outside a literal, a prompt could bring rules of its own.
        yield "grammar", "must hold {{prompt}} inside a quoted literal only"
    if any(slot != PROMPT_SLOT for slot in _ANY_SLOT.findall(grammar)):
        yield "grammar", "must hold no slot but {{prompt}}"
    rules = dict(line.split(" ::= ", 1) for line in grammar.split("\n") if " ::= " in line)
    for rule, count in ROTATE.findall(grammar):
        body = rules.get(rule)
        if int(count) < 1:
            yield "grammar", f"rotates {rule} to no alternative at all"
        elif body is None:
            yield "grammar", f"rotates {rule}, which is no rule of it"
        elif LITERAL.sub("", body).replace("|", "").strip() or PROMPT_SLOT in body:
            yield "grammar", f"rotates {rule}, which holds more than quoted alternatives"


def _broken_sampling(sampling: "TemplateSampling") -> Iterator[Broken]:
    for name, (low, high) in _RANGES.items():
        value = getattr(sampling, name)
        if value is not None and not (math.isfinite(value) and low <= value <= high):
            yield f"sampling.{name}", f"must be from {low} to {high}"
    if len(sampling.stop) > _MAX_STOPS:
        yield "sampling.stop", f"must hold at most {_MAX_STOPS} texts"


def _broken_variable(variable: "Variable") -> Iterator[Broken]:
    field = f"variables.{variable.name}"
    if SLOT.fullmatch(f"{{{{{variable.name}}}}}") is None or variable.name == "prompt":
        yield field, "must be named with letters, digits and underscores, and not 'prompt'"
    if variable.type not in _TYPES:
        yield field, f"must be of one of the types {', '.join(_TYPES)}"
    elif variable.default is not None and not has_type(variable, variable.default):
        yield field, f"has a default that is not of its type {variable.type}"


def _broken_text(template: "Template") -> Iterator[Broken]:
    texts = {
        "system_prompt": template.system_prompt,
        "user_format": template.user_format or "",
        "grammar": template.grammar or "",
        "negative_prompt": template.negative_prompt or "",
        "examples": "".join(example.user + example.assistant for example in template.examples),
    }
    for field, text in texts.items():
        if "\x00" in text or not _is_unicode(text):
            yield field, "holds a NUL character or a lone surrogate"


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
