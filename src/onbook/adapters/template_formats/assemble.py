"""A prompt of another tool becomes a template: nothing is lost without a word."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Final

from onbook.adapters.template_formats.slots import SlottedText, read_slots
from onbook.adapters.template_formats.source import (
    ImportDefaults,
    ImportedTemplate,
    SourceMessage,
    SourcePrompt,
    SourceText,
)
from onbook.adapters.template_text import file_invalid
from onbook.domain.template_rules import PROMPT_SLOT
from onbook.domain.templates import TemplateInvalid, Variable, template_from_mapping

_NOT_A_NAME: Final = re.compile(r"[^A-Za-z0-9_.-]+")
# A word or a few before the user's text, such as "Idea:", and quotes around it.
_LABEL: Final = re.compile(r"(?:[\w '*#>-]{1,40}:\**[ \t]*)?[\"'`]{0,3}")
_QUOTES: Final = re.compile(r"[\"'`]{0,3}[.]?")


@dataclass(frozen=True, slots=True)
class _Part:
    role: str
    source: SourceText
    slots: SlottedText


@dataclass(frozen=True, slots=True)
class _Texts:
    system: str
    user_format: str | None
    user_variable: str | None
    warnings: tuple[str, ...] = ()


def assemble(prompt: SourcePrompt, defaults: ImportDefaults, file: str) -> ImportedTemplate:
    """Return ``prompt`` as a template.

    White space around a message is trimmed. System messages are joined; fixed pairs of a user's
    and an assistant's message become examples, all of which are sent, as they were.

    Raises:
        TemplateInvalid: it needs what a template has not, or breaks a rule of templates.
    """
    read = [_part(message, file) for message in prompt.messages]
    parts = [part for part in read if part.slots.text]
    name, warnings = _name(prompt, defaults, file)
    if any(not part.slots.text and not part.slots.comments for part in read):
        warnings.append("An empty message is not carried over.")
    systems = [part for part in parts if part.role == "system"]
    turns = [part for part in parts if part.role != "system"]
    if any(part.role != "system" for part in parts[: len(systems)]):
        warnings.append("A system message after the first other message was moved to the front.")
    carrier, pairs = _carrier(turns, systems)
    examples = _examples(pairs, file)
    texts = _texts(systems, carrier, defaults, file)
    comments = sum(part.slots.comments for part in read)
    if comments:
        warnings.append(f"{comments} comment(s) in the text are not carried over.")
    variables, more = _variables(prompt.variables, texts, file)
    max_tokens = prompt.parameters.get("max_tokens", defaults.max_tokens)
    if defaults.max_tokens_wins and max_tokens != defaults.max_tokens:
        max_tokens = defaults.max_tokens
        warnings.append("The prompt's own limit of tokens is not carried over.")
    if prompt.left_out:
        listed = ", ".join(_printable(item) for item in prompt.left_out)
        warnings.append(f"Not carried over: {listed}.")
    data = {
        "template_name": name,
        "description": prompt.description,
        "model_type": defaults.model_type,
        "use_case": defaults.use_case,
        "content_mode": defaults.content_mode,
        "target": defaults.target,
        "system_prompt": texts.system,
        "token_limit": defaults.token_limit,
        "token_unit": defaults.token_unit,
        "max_tokens": max_tokens,
        "user_format": texts.user_format,
        "sampling": {key: value for key, value in prompt.parameters.items() if key != "max_tokens"},
        "examples": examples,
        "examples_sent": len(examples),
        "variables": variables,
    }
    try:
        template = template_from_mapping(data)
    except TemplateInvalid as error:
        fields = (error.details or {}).get("fields")
        raise TemplateInvalid(
            f"{file}: {error.message}", details={"file": file, "fields": fields}
        ) from None
    return ImportedTemplate(template, (*warnings, *prompt.warnings, *texts.warnings, *more))


def _part(message: SourceMessage, file: str) -> _Part:
    source = message.content.trimmed()
    slots = read_slots(source.text, lambda reason, line: source.refused(file, reason, line))
    if slots.comments:
        slots = replace(slots, text=slots.text.strip())
    return _Part(message.role, source, slots)


def _name(prompt: SourcePrompt, defaults: ImportDefaults, file: str) -> tuple[str, list[str]]:
    if defaults.template_name is not None:
        return defaults.template_name, []
    given = prompt.name or PurePath(file).stem
    name = _NOT_A_NAME.sub("_", given).lstrip("_.-")[:128] or "imported"
    if name == given:
        return name, []
    return name, [f"The prompt's name is not one for a template; it is called {name} here."]


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text[:80])


def _carrier(
    turns: Sequence[_Part], systems: Sequence[_Part]
) -> tuple[_Part | None, Sequence[_Part]]:
    """Return the message that the user's text goes into, if there is one, and the others."""
    if turns and turns[-1].role == "user":
        return turns[-1], turns[:-1]
    if not turns and len(systems) == 1:
        return systems[0], ()
    return None, turns


def _examples(turns: Sequence[_Part], file: str) -> list[dict[str, str]]:
    for part in turns:
        if part.slots.names:
            reason = (
                f"holds {{{{{part.slots.names[0]}}}}} before the last user message; an example "
                "cannot hold a variable"
            )
            raise part.source.refused(file, reason)
    users, assistants = turns[::2], turns[1::2]
    for index, part in enumerate(turns):
        if part.role != ("assistant" if index % 2 else "user"):
            raise part.source.refused(
                file, "breaks the order: examples are a user's message, then an assistant's"
            )
    if len(users) != len(assistants):
        raise users[-1].source.refused(file, "is an example without an assistant's message")
    return [
        {"user": user.slots.text, "assistant": assistant.slots.text}
        for user, assistant in zip(users, assistants, strict=True)
    ]


def _texts(
    systems: Sequence[_Part], carrier: _Part | None, defaults: ImportDefaults, file: str
) -> _Texts:
    wanted = defaults.user_variable
    alone = carrier is not None and systems in ([], [carrier])
    others = [part for part in systems if part is not carrier]
    system = "\n\n".join(part.slots.text for part in others)
    if carrier is None:
        return _fixed(system, others, wanted, file)
    names = carrier.slots.names
    variable = wanted or _found(carrier)
    if variable is None or variable not in names:
        if wanted is None and alone:
            fixed = _fixed(carrier.slots.text, [carrier], None, file)
            if carrier.role == "system":
                return fixed
            moved = "The user message, which is fixed text, is the system text here."
            return replace(fixed, warnings=(moved, *fixed.warnings))
        if carrier.role == "system":
            return _fixed(carrier.slots.text, [carrier], wanted, file)
        reason = "holds no variable that is known to carry the user's text; name it (user_variable)"
        raise carrier.source.refused(file, reason)
    for part in others:
        if variable in part.slots.names:
            raise part.source.refused(file, f"holds {{{{{variable}}}}}, the user's text, as system")
    if names.count(variable) > 1:
        raise carrier.source.refused(file, f"holds {{{{{variable}}}}}, the user's text, twice")
    return _split(system, carrier, variable, defaults, file)


def _fixed(system: str, parts: Sequence[_Part], wanted: str | None, file: str) -> _Texts:
    if wanted is not None:
        raise file_invalid(file, f"holds no user message with {{{{{_printable(wanted)}}}}}")
    for part in parts:
        if "prompt" in part.slots.names:
            raise part.source.refused(file, "holds {{prompt}} where the user's text cannot go")
    return _Texts(
        system, None, None, ("No variable carries the user's text; it is a message of its own.",)
    )


def _found(carrier: _Part) -> str | None:
    names = carrier.slots.names
    if carrier.role == "user" and len(names) == 1:
        label, _, rest = carrier.slots.text.partition(f"{{{{{names[0]}}}}}")
        if _LABEL.fullmatch(label) and _QUOTES.fullmatch(rest):
            return names[0]
    return "prompt" if "prompt" in names else None


def _split(
    system: str, carrier: _Part, variable: str, defaults: ImportDefaults, file: str
) -> _Texts:
    """Keep the user's text apart from the text around it, which is the author's."""
    slot = f"{{{{{variable}}}}}"
    before, _, after = carrier.slots.text.partition(slot)
    head, newline, label = before.rpartition("\n")
    warnings = []
    if defaults.completion:
        user_format = f"{label}{PROMPT_SLOT}{after}"
        if "{{" in label or "{{" in after:
            reason = f"holds another variable on the line of {slot} or after it"
            raise carrier.source.refused(file, reason, before.count("\n"))
        joined = f"{system}\n\n" if system else ""
        if system and head:
            warnings.append(f"The lines before {slot} were moved to the end of the system text.")
        return _Texts(f"{joined}{head}{newline}", user_format, variable, tuple(warnings))
    rest, _, tail = after.partition("\n")
    if _LABEL.fullmatch(label) is None or _QUOTES.fullmatch(rest.strip()) is None:
        reason = (
            f"puts text on the line of {slot}, which only a base-model template can (completion); "
            "move it to the system message"
        )
        raise carrier.source.refused(file, reason, before.count("\n"))
    if label.strip() or rest.strip():
        count = len(label.strip()) + len(rest.strip())
        warnings.append(f"The {count} characters around {slot} on its line are not carried over.")
    moved = [text for text in (head.strip(), tail.strip()) if text]
    if moved and (system or carrier.role == "user"):
        warnings.append(f"The lines around {slot} were moved to the end of the system text.")
    return _Texts("\n\n".join([*filter(None, [system]), *moved]), None, variable, tuple(warnings))


def _variables(
    declared: Sequence[Variable], texts: _Texts, file: str
) -> tuple[list[dict[str, object]], list[str]]:
    used = read_slots(texts.system, lambda reason, _: file_invalid(file, reason)).names
    by_name = {variable.name: variable for variable in declared}
    warnings = []
    carrier = by_name.pop(texts.user_variable or "", None)
    if carrier is not None and carrier.default is not None:
        warnings.append(f"The default of {{{{{carrier.name}}}}} is not carried over.")
    for name in used:
        if name not in by_name:
            # Its tool would have left the slot empty or as it is; a template asks for the value.
            by_name[name] = Variable(name, required=True)
    return [
        {
            "name": variable.name,
            "type": variable.type,
            "required": variable.required,
            "default": variable.default,
        }
        for variable in by_name.values()
    ], warnings
