"""Prompt templates: their fields, their rules, and their content hash."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from hashlib import sha256
from json import dumps
from typing import Final, Literal, cast, get_args

from onbook.domain.content_mode.decision import ContentMode
from onbook.domain.errors import OnbookError
from onbook.domain.template_rules import broken_rules

UseCase = Literal["enhancement", "chat", "generation", "playground"]
TokenUnit = Literal["clip", "umt5", "model", "chars"]
TemplateSource = Literal["database", "system_cache", "hardcoded"]
VariableType = Literal["string", "integer", "number", "boolean"]

USE_CASES: Final[tuple[UseCase, ...]] = get_args(UseCase)
TOKEN_UNITS: Final[tuple[TokenUnit, ...]] = get_args(TokenUnit)
CONTENT_MODES: Final[tuple[ContentMode, ...]] = get_args(ContentMode)


class TemplateInvalid(OnbookError):
    """A template breaks a rule; the message names the template and the field."""

    code = "INVALID_PAYLOAD"
    status = 422
    default_action = "Correct the field named in details.fields."


@dataclass(frozen=True, slots=True)
class TemplateSampling:
    """How the engine draws tokens for this template. None is *off* at the worker."""

    temperature: float = 0.7
    top_p: float = 0.9
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    dry_multiplier: float | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Example:
    """One few-shot pair. The pool is rotated, so that its words do not leak into outputs."""

    user: str
    assistant: str


@dataclass(frozen=True, slots=True)
class Variable:
    """A declared variable of the system prompt. A required one has no default."""

    name: str
    type: VariableType = "string"
    required: bool = False
    default: str | int | float | bool | None = None


@dataclass(frozen=True, slots=True)
class TemplateKey:
    """What a template is picked by. ``target`` None asks for a universal template."""

    model_type: str
    use_case: UseCase
    content_mode: ContentMode
    target: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """One version of a template, immutable.

    ``token_limit`` is the reader's limit in ``token_unit``; ``max_tokens`` the writer's, in the
    model's own tokens. ``user_format`` marks a base-model template: the request is then one raw
    completion, and ``{{prompt}}`` in it is the user's only slot. ``examples_sent`` of the
    ``examples`` go with each request. ``grammar`` is GBNF in which ``{{prompt}}`` stands for the
    escaped prompt.
    """

    template_name: str
    version: int
    model_type: str
    use_case: UseCase
    content_mode: ContentMode
    target: str | None
    system_prompt: str
    token_limit: int
    token_unit: TokenUnit
    max_tokens: int
    user_format: str | None = None
    sampling: TemplateSampling = field(default_factory=TemplateSampling)
    examples: tuple[Example, ...] = ()
    examples_sent: int = 0
    grammar: str | None = None
    variables: tuple[Variable, ...] = ()
    negative_prompt: str | None = None
    description: str = ""
    content_sha256: str = ""

    @property
    def key(self) -> TemplateKey:
        """The key that this template answers to."""
        return TemplateKey(self.model_type, self.use_case, self.content_mode, self.target)

    @property
    def is_completion(self) -> bool:
        """Whether the template is written for a base model, in completion form."""
        return self.user_format is not None


@dataclass(frozen=True, slots=True)
class ResolvedTemplate:
    """A template, where it came from, and what the caller should know about that.

    ``fallback_level`` is 0 (database), 1 (last good snapshot) or 2 (packaged);
    ``age_seconds`` is the time since the database last confirmed it.
    """

    template: Template
    source: TemplateSource
    fallback_level: Literal[0, 1, 2]
    cache_hit: bool
    age_seconds: float
    warnings: tuple[str, ...] = ()


# Name, version and state say where a text stands, not what it is.
_NOT_CONTENT: Final = frozenset({"template_name", "version", "description", "content_sha256"})


def content_sha256(template: Template) -> str:
    """Return the SHA-256 of everything in ``template`` that decides what a model sees."""
    content = {
        item.name: _plain(getattr(template, item.name))
        for item in fields(Template)
        if item.name not in _NOT_CONTENT
    }
    text = dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def sampling_mapping(sampling: TemplateSampling) -> dict[str, object]:
    """Return the fields of ``sampling`` that are set, for JSON and TOML."""
    values = {item.name: getattr(sampling, item.name) for item in fields(TemplateSampling)}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if value not in (None, ())
    }


def template_from_mapping(data: Mapping[str, object], *, version: int = 1) -> Template:
    """Build and check a template from plain data, as TOML and JSON give it.

    Raises:
        TemplateInvalid: a field is missing, unknown, of the wrong type, or breaks a rule.
    """
    name = str(data.get("template_name", "")) or "(unnamed)"
    known = {item.name for item in fields(Template)} - {"version", "content_sha256"}
    unknown = sorted(set(data) - known)
    if unknown:
        raise _invalid(name, unknown[0], "is not a field of a template")
    target = _text(data, "target", name, optional=True)
    template = Template(
        template_name=_required(data, "template_name", name),
        version=version,
        model_type=_required(data, "model_type", name),
        use_case=cast("UseCase", _choice(data, "use_case", name, USE_CASES)),
        content_mode=cast("ContentMode", _choice(data, "content_mode", name, CONTENT_MODES)),
        target=target or None,
        system_prompt=_text(data, "system_prompt", name, optional=True) or "",
        token_limit=_integer(data, "token_limit", name, None),
        token_unit=cast("TokenUnit", _choice(data, "token_unit", name, TOKEN_UNITS)),
        max_tokens=_integer(data, "max_tokens", name, None),
        user_format=_text(data, "user_format", name, optional=True),
        sampling=_sampling(data.get("sampling"), name),
        examples=_examples(data.get("examples"), name),
        examples_sent=_integer(data, "examples_sent", name, 0),
        grammar=_text(data, "grammar", name, optional=True),
        variables=_variables(data.get("variables"), name),
        negative_prompt=_text(data, "negative_prompt", name, optional=True),
        description=_text(data, "description", name, optional=True) or "",
    )
    return checked(template)


def checked(template: Template) -> Template:
    """Return ``template`` with its content hash, once it keeps every rule.

    Raises:
        TemplateInvalid: naming the first field that does not.
    """
    for field_name, reason in broken_rules(template):
        raise _invalid(template.template_name, field_name, reason)
    return _with_hash(template)


def _with_hash(template: Template) -> Template:
    values = {item.name: getattr(template, item.name) for item in fields(Template)}
    return Template(**{**values, "content_sha256": content_sha256(template)})


def _plain(value: object) -> object:
    if isinstance(value, TemplateSampling):
        return sampling_mapping(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Example):
        return [value.user, value.assistant]
    if isinstance(value, Variable):
        return [value.name, value.type, value.required, value.default]
    return value


def _invalid(name: str, key: str, reason: str) -> TemplateInvalid:
    return TemplateInvalid(
        f"Template {name}: {key} {reason}.", details={"template_name": name, "fields": [key]}
    )


def _text(data: Mapping[str, object], key: str, name: str, *, optional: bool) -> str | None:
    value = data.get(key)
    if value is None and optional:
        return None
    if not isinstance(value, str):
        raise _invalid(name, key, "must be a text")
    if "\x00" in value:
        raise _invalid(name, key, "holds a NUL character")
    return value


def _required(data: Mapping[str, object], key: str, name: str) -> str:
    value = _text(data, key, name, optional=False)
    if not value or not value.strip():
        raise _invalid(name, key, "must not be empty")
    return value


def _choice(data: Mapping[str, object], key: str, name: str, choices: Sequence[str]) -> str:
    value = data.get(key)
    if value not in choices:
        raise _invalid(name, key, f"must be one of {', '.join(choices)}")
    return str(value)


def _integer(data: Mapping[str, object], key: str, name: str, default: int | None) -> int:
    value = data.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _invalid(name, key, "must be a whole number")
    return value


def _sampling(value: object, name: str) -> TemplateSampling:
    if value is None:
        return TemplateSampling()
    if not isinstance(value, Mapping):
        raise _invalid(name, "sampling", "must be a table")
    known = {item.name for item in fields(TemplateSampling)}
    values: dict[str, object] = {}
    for key, item in value.items():
        if key not in known:
            raise _invalid(name, f"sampling.{key}", "is not a sampling field")
        if key == "stop":
            if not isinstance(item, list) or not all(isinstance(text, str) for text in item):
                raise _invalid(name, "sampling.stop", "must be a list of texts")
            values[key] = tuple(item)
        elif isinstance(item, bool) or not isinstance(item, int | float):
            raise _invalid(name, f"sampling.{key}", "must be a number")
        else:
            values[key] = _sampling_number(key, item, name)
    return TemplateSampling(**values)  # type: ignore[arg-type]  # each value was checked above


def _sampling_number(key: str, value: float, name: str) -> float:
    if key != "top_k":
        return float(value)
    if not isinstance(value, int):
        raise _invalid(name, "sampling.top_k", "must be a whole number")
    return value


def _examples(value: object, name: str) -> tuple[Example, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise _invalid(name, "examples", "must be a list of tables")
    examples = []
    for item in value:
        if not isinstance(item, Mapping) or set(item) != {"user", "assistant"}:
            raise _invalid(name, "examples", "must each have 'user' and 'assistant'")
        user, assistant = item["user"], item["assistant"]
        if not isinstance(user, str) or not isinstance(assistant, str):
            raise _invalid(name, "examples", "must each have texts")
        examples.append(Example(user, assistant))
    return tuple(examples)


def _variables(value: object, name: str) -> tuple[Variable, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise _invalid(name, "variables", "must be a list of tables")
    variables = []
    for item in value:
        if not isinstance(item, Mapping) or not isinstance(item.get("name"), str):
            raise _invalid(name, "variables", "must each have a name")
        variables.append(
            Variable(
                name=item["name"],
                type=cast("VariableType", item.get("type", "string")),
                required=bool(item.get("required", False)),
                default=item.get("default"),
            )
        )
    return tuple(variables)
