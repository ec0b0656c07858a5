"""The rules that a template keeps before it may be stored or served.

What a template gets wrong here would reach a model as text, or let a user's prompt become part
of what only the template may say.
"""

import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from onbook.domain.templates import Template, TemplateSampling, TemplateTest, Variable

# A field and why it is wrong.
Broken = tuple[str, str]

PROMPT_SLOT: Final = "{{prompt}}"
SLOT: Final = re.compile(r"\{\{([A-Za-z_][A-Za-z0-9_]{0,63})\}\}")
ROTATE: Final = re.compile(r"^# rotate (\w[\w-]{0,63}) (\d{1,3})$", re.MULTILINE)
# A string literal of GBNF. An unterminated one goes to the end of its line and is never given
# back, so that no text is read twice.
LITERAL: Final = re.compile(r'"(?:[^"\\\n]|\\.)*+(?:"|\\?$)', re.MULTILINE)
# A name is a file name, a part of a URL and a word on the command line.
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
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
_MAX_STOP_CHARS: Final = 256
_MAX_TOKENS: Final = 32_768
_MAX_LIMIT: Final = 1_000_000
# Beyond it a reader of JSON may round a whole number.
_MAX_WHOLE: Final = 2**53
_MAX_SEED: Final = 2**32 - 2
# What one person can still read and one request can still carry; a text is counted in characters.
MAX_TEXT: Final = 100_000
_MAX_ITEMS: Final = {"examples": 200, "variables": 50, "tests": 50}
_MAX_TEST_NAME: Final = 128
_MAX_TEST_TEXTS: Final = 50
# As long as a request's prompt may be.
MAX_INPUT: Final = 8_000
_TYPES: Final[dict[str, type | tuple[type, ...]]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
}


def broken_rules(template: "Template") -> Iterator[Broken]:
    """Yield every rule that ``template`` breaks, roughly in the order of its fields."""
    if NAME.fullmatch(template.template_name) is None:
        yield (
            "template_name",
            "must be 1 to 128 letters, digits, '_', '.' or '-', starting with a letter or digit",
        )
    # Sizes first: the rules after them read the texts.
    too_large = list(_too_large(template))
    if too_large:
        yield from too_large
        return
    if not 1 <= template.token_limit <= _MAX_LIMIT:
        yield "token_limit", f"must be from 1 to {_MAX_LIMIT}"
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
    yield from _repeated("variables", [variable.name for variable in template.variables])
    for index, test in enumerate(template.tests):
        yield from _broken_test(template, test, f"tests[{index}]")
    yield from _repeated("tests", [test.name for test in template.tests])
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
    for slot in _slots(template.system_prompt):
        name = SLOT.fullmatch(slot)
        if slot != PROMPT_SLOT and (name is None or name.group(1) not in declared):
            # The slot is the author's own text, and he has to find it.
            yield "system_prompt", f"holds {slot[:80]}, which is not a declared variable"
    if template.user_format is not None:
        if template.user_format.count(PROMPT_SLOT) != 1:
            yield "user_format", "must hold {{prompt}} exactly once"
        if any(slot != PROMPT_SLOT for slot in _slots(template.user_format)):
            yield "user_format", "must hold no slot but {{prompt}}"


def _slots(text: str) -> Iterator[str]:
    """Yield everything in double braces, however long, in one linear pass."""
    opened = text.find("{{")
    while opened >= 0 and (closed := text.find("}}", opened + 2)) >= 0:
        # The innermost pair, as the substitution sees it.
        yield text[text.rfind("{{", opened, closed) : closed + 2]
        opened = text.find("{{", closed + 2)


def _broken_grammar(grammar: str) -> Iterator[Broken]:
    if not grammar.strip():
        yield "grammar", "is empty; leave it out instead"
    outside = LITERAL.sub("", _COMMENT.sub("", grammar))
    if PROMPT_SLOT in outside:
        # Outside a literal, a prompt could bring rules of its own.
        yield "grammar", "must hold {{prompt}} inside a quoted literal only"
    if any(slot != PROMPT_SLOT for slot in _slots(grammar)):
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
    if not all(1 <= len(text) <= _MAX_STOP_CHARS for text in sampling.stop):
        yield "sampling.stop", f"must hold texts of 1 to {_MAX_STOP_CHARS} characters"


def _broken_variable(variable: "Variable") -> Iterator[Broken]:
    field = f"variables.{variable.name}"
    if SLOT.fullmatch(f"{{{{{variable.name}}}}}") is None or variable.name == "prompt":
        yield field, "must be named with letters, digits and underscores, and not 'prompt'"
    if variable.type not in _TYPES:
        yield field, f"must be of one of the types {', '.join(_TYPES)}"
    elif variable.default is not None and not has_type(variable, variable.default):
        yield field, f"has a default that is not of its type {variable.type}"
    elif not _is_exact(variable.default):
        yield field, "has a default that is too large or not a finite number"


def _broken_test(template: "Template", test: "TemplateTest", path: str) -> Iterator[Broken]:
    if not test.name.strip() or len(test.name) > _MAX_TEST_NAME or not test.name.isprintable():
        yield f"{path}.name", f"must be one line of 1 to {_MAX_TEST_NAME} printable characters"
    if not test.input.strip():
        yield f"{path}.input", "must not be empty"
    if len(test.input) > MAX_INPUT:
        yield f"{path}.input", f"must be at most {MAX_INPUT:,} characters long, as a prompt is"
    if test.mode == "nsfw" and template.content_mode == "sfw":
        yield f"{path}.mode", "must not be above the template's content_mode"
    for field, texts in (("must_keep", test.must_keep), ("must_not", test.must_not)):
        if len(texts) > _MAX_TEST_TEXTS:
            yield f"{path}.{field}", f"must hold at most {_MAX_TEST_TEXTS} texts"
        if not all(text.strip() for text in texts):
            yield f"{path}.{field}", "must hold no empty text"
    if test.max_tokens is not None and not 1 <= test.max_tokens <= _MAX_TOKENS:
        yield f"{path}.max_tokens", f"must be from 1 to {_MAX_TOKENS}"
    if not 0 <= test.seed <= _MAX_SEED:
        yield f"{path}.seed", f"must be from 0 to {_MAX_SEED}"
    yield from _broken_values(template, test, path)


def _broken_values(template: "Template", test: "TemplateTest", path: str) -> Iterator[Broken]:
    declared = {variable.name: variable for variable in template.variables}
    for name, value in test.variables.items():
        if name not in declared:
            yield f"{path}.variables.{name}", "is not a declared variable"
        elif declared[name].type in _TYPES and not has_type(declared[name], value):
            yield f"{path}.variables.{name}", f"is not of the type {declared[name].type}"
        elif not _is_exact(value):
            yield f"{path}.variables.{name}", "is too large or not a finite number"
    for name, variable in declared.items():
        if variable.required and variable.default is None and name not in test.variables:
            yield f"{path}.variables", f"must give {name}, which is required"


def _repeated(field: str, names: list[str]) -> Iterator[Broken]:
    for index, name in enumerate(names):
        if name in names[:index]:
            yield f"{field}[{index}].name", "is that of another one"


def _too_large(template: "Template") -> Iterator[Broken]:
    for field, most in _MAX_ITEMS.items():
        if len(getattr(template, field)) > most:
            yield field, f"must be at most {most}"
    for field, text in _texts(template):
        if len(text) > MAX_TEXT:
            yield field, f"must be at most {MAX_TEXT:,} characters long"


def _broken_text(template: "Template") -> Iterator[Broken]:
    for field, text in _texts(template):
        if "\x00" in text or not _is_unicode(text):
            yield field, "holds a NUL character or a lone surrogate"


def _texts(template: "Template") -> Iterator[tuple[str, str]]:
    yield "model_type", template.model_type
    yield "target", template.target or ""
    yield "system_prompt", template.system_prompt
    yield "user_format", template.user_format or ""
    yield "grammar", template.grammar or ""
    yield "negative_prompt", template.negative_prompt or ""
    yield "description", template.description
    for text in template.sampling.stop:
        yield "sampling.stop", text
    for index, example in enumerate(template.examples):
        yield f"examples[{index}].user", example.user
        yield f"examples[{index}].assistant", example.assistant
    for variable in template.variables:
        if isinstance(variable.default, str):
            yield f"variables.{variable.name}", variable.default
    for index, test in enumerate(template.tests):
        yield f"tests[{index}].input", test.input
        for field, texts in (("must_keep", test.must_keep), ("must_not", test.must_not)):
            for text in texts:
                yield f"tests[{index}].{field}", text
        for name, value in test.variables.items():
            if isinstance(value, str):
                yield f"tests[{index}].variables.{name}", value


def _is_exact(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return not isinstance(value, int) or abs(value) <= _MAX_WHOLE


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
