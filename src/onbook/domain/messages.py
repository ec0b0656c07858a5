"""Composing: a template and a masked prompt become the messages that the model will see.

Only :func:`compose` builds messages. Substitution is a single pass over the template's own text:
what the user wrote is never parsed, and what was substituted is never substituted again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Literal

from onbook.domain.errors import InvalidPayload
from onbook.domain.template_rules import LITERAL, PROMPT_SLOT, ROTATE, SLOT, has_type
from onbook.domain.templates import Example, Template

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn, exactly as the worker gets it."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Composed:
    """Everything of one request that comes from the template: messages and grammar."""

    messages: tuple[Message, ...]
    grammar: str | None


def compose(
    template: Template,
    prompt: str,
    *,
    seed: int,
    variables: Mapping[str, object] | None = None,
) -> Composed:
    """Build the messages for ``prompt``.

    A chat template gives system, example pairs and the user's message. A base-model template
    gives the same parts in completion form, to be joined as they are.

    Args:
        template: The resolved template.
        prompt: The masked prompt, one line of plain text.
        seed: Chooses which examples and which alternatives of the grammar are sent.
        variables: Values for the declared variables of the system prompt.

    Raises:
        InvalidPayload: a required variable is missing, or an undeclared one was given.
    """
    system = substitute(template, variables or {})
    messages = [Message("system", system)] if system else []
    for example in rotated_examples(template, seed):
        messages += example_turns(template, example)
    messages.append(Message("user", _user_text(template, prompt)))
    grammar = None if template.grammar is None else _grammar(template.grammar, prompt, seed)
    return Composed(tuple(messages), grammar)


def example_turns(template: Template, example: Example) -> tuple[Message, Message]:
    """Return the two messages that show the model ``example``."""
    return (
        Message("user", _user_text(template, example.user)),
        Message("assistant", _assistant_text(template, example.assistant)),
    )


def substitute(template: Template, values: Mapping[str, object]) -> str:
    """Return the system prompt with its declared variables filled in, in one pass.

    Raises:
        InvalidPayload: naming every missing, undeclared or mistyped variable.
    """
    declared = {variable.name: variable for variable in template.variables}
    used = SLOT.findall(template.system_prompt)
    wrong = {name: "is not declared" for name in (*values, *used) if name not in declared}
    filled: dict[str, str] = {}
    for name, variable in declared.items():
        value = values.get(name, variable.default)
        if value is None and variable.required:
            wrong[name] = f"is missing; it takes a value of type {variable.type}"
        elif value is not None and not has_type(variable, value):
            wrong[name] = f"must be of type {variable.type}"
        filled[name] = _shown(value)
    if wrong:
        reasons = {f"variables.{name}": wrong[name] for name in sorted(wrong)}
        raise InvalidPayload(
            f"Template {template.template_name} cannot be filled in: "
            + "; ".join(f"{field} {reason}" for field, reason in reasons.items())
            + ".",
            details={"fields": list(reasons), "reasons": reasons},
        )
    return SLOT.sub(lambda match: filled[match.group(1)], template.system_prompt)


def _shown(value: object) -> str:
    """Return ``value`` as a reader expects it in a text; nothing for None."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def rotated_examples(template: Template, seed: int) -> tuple[Example, ...]:
    """Return the set of examples that ``seed`` picks from the pool.

    The pool is cut into fixed sets rather than shuffled, so that each set's prefix can stay warm
    in the engine's cache: a cold prefix costs seconds on a small machine.
    """
    size = template.examples_sent
    if size == 0:
        return ()
    sets = max(1, len(template.examples) // size)
    start = (seed % sets) * size
    return template.examples[start : start + size]


def gbnf_literal(text: str) -> str:
    """Return ``text`` escaped for the inside of a GBNF string literal."""
    return (
        text.replace("\\", "\\\\")
        .replace('"', '\\"')
        .replace("\n", "\\n")
        .replace("\r", "\\r")
        .replace("\t", "\\t")
    )


def _user_text(template: Template, prompt: str) -> str:
    if template.user_format is None:
        return prompt
    before, _, after = template.user_format.partition(PROMPT_SLOT)
    return f"{before}{prompt}{after}"


def _assistant_text(template: Template, text: str) -> str:
    # In completion form the answer follows the cue after a space, and a blank line ends it.
    return f" {text}\n\n" if template.is_completion else text


@dataclass(frozen=True, slots=True)
class _RotatedLine:
    """A rule of the grammar whose alternatives are thinned out for each request."""

    head: str
    literals: tuple[str, ...]
    count: int


def _grammar(grammar: str, prompt: str, seed: int) -> str:
    """Thin out each rule marked ``# rotate <rule> <n>`` to ``n`` alternatives, then fill in.

    Fixed word lists make outputs alike; another part of the list for each seed keeps them apart.
    """
    literal = gbnf_literal(prompt)
    # Only random() is promised to give the same numbers in every Python version.
    draw = Random(seed).random  # noqa: S311 - variety, not secrecy
    return "\n".join(
        line.replace(PROMPT_SLOT, literal) if isinstance(line, str) else _drawn(line, draw)
        for line in _parsed(grammar)
    )


def _drawn(line: _RotatedLine, draw: Callable[[], float]) -> str:
    """Return the rule with ``count`` of its alternatives, by a partial Fisher-Yates shuffle."""
    literals = list(line.literals)
    for at in range(min(line.count, len(literals))):
        other = at + int(draw() * (len(literals) - at))
        literals[at], literals[other] = literals[other], literals[at]
    return line.head + " | ".join(literals[: line.count])


@lru_cache(maxsize=256)
def _parsed(grammar: str) -> tuple[str | _RotatedLine, ...]:
    """Split a template's grammar into lines, once: it is the same for every request."""
    counts = {rule: int(count) for rule, count in ROTATE.findall(grammar)}
    lines: list[str | _RotatedLine] = []
    for line in grammar.split("\n"):
        rule, found, body = line.partition(" ::= ")
        if found and rule in counts and PROMPT_SLOT not in body:
            literals = tuple(LITERAL.findall(body))
            lines.append(_RotatedLine(f"{rule} ::= ", literals, counts[rule]))
        elif not line.startswith("#"):
            # Comments are for the template's author; the engine would only read past them.
            lines.append(line)
    return tuple(lines)
