"""Prompt templates: their fields, their rules, and their content hash."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from hashlib import sha256
from json import dumps
from typing import Final, Literal, cast, get_args

from onbook.domain.content_mode.decision import ContentMode
from onbook.domain.errors import OnbookError
from onbook.domain.splits import SplitInfo
from onbook.domain.template_parsing import (
    FieldInvalid,
    choice,
    filled_text,
    integer,
    optional_text,
    required_text,
    tables,
    texts,
)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateTest:
    """One case of the gate: what must hold when the template writes for ``input``.

    ``must_keep`` and ``must_not`` are texts, compared without regard to case; ``max_tokens`` is in
    the template's ``token_unit`` (None: its ``token_limit``); ``mode`` is the highest content mode
    that the output may have (None: the template's).
    """

    name: str
    input: str
    must_keep: tuple[str, ...] = ()
    must_not: tuple[str, ...] = ()
    max_tokens: int | None = None
    mode: ContentMode | None = None
    seed: int = 0
    variables: Mapping[str, str | int | float | bool] = field(default_factory=dict)


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
    tests: tuple[TemplateTest, ...] = ()
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
    ``age_seconds`` is the time since the database last confirmed it; ``split`` is the traffic
    split that chose the version, if one runs.
    """

    template: Template
    source: TemplateSource
    fallback_level: Literal[0, 1, 2]
    cache_hit: bool
    age_seconds: float
    warnings: tuple[str, ...] = ()
    split: SplitInfo | None = None


# Name, version and state say where a text stands, not what it is; tests and the description never
# reach a model.
_NOT_CONTENT: Final = frozenset(
    {"template_name", "version", "description", "tests", "content_sha256"}
)


def content_sha256(template: Template) -> str:
    """Return the SHA-256 of everything in ``template`` that decides what a model sees."""
    return mapping_sha256(content_mapping(template))


def content_mapping(template: Template) -> dict[str, object]:
    """Return what ``content_sha256`` is taken of, as plain JSON data."""
    return {
        item.name: _plain(getattr(template, item.name))
        for item in fields(Template)
        if item.name not in _NOT_CONTENT
    }


def mapping_sha256(content: Mapping[str, object]) -> str:
    """Return the content hash of the template whose ``content_mapping`` this is."""
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
    try:
        template = _template(data, version)
    except FieldInvalid as error:
        raise _invalid(name, error.key, error.reason) from None
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


def _template(data: Mapping[str, object], version: int) -> Template:
    return Template(
        template_name=filled_text(data, "template_name"),
        version=version,
        model_type=filled_text(data, "model_type"),
        use_case=cast("UseCase", choice(data, "use_case", USE_CASES)),
        content_mode=cast("ContentMode", choice(data, "content_mode", CONTENT_MODES)),
        target=optional_text(data, "target") or None,
        system_prompt=optional_text(data, "system_prompt") or "",
        token_limit=integer(data, "token_limit"),
        token_unit=cast("TokenUnit", choice(data, "token_unit", TOKEN_UNITS)),
        max_tokens=integer(data, "max_tokens"),
        user_format=optional_text(data, "user_format"),
        sampling=_sampling(data.get("sampling")),
        examples=_examples(data),
        examples_sent=integer(data, "examples_sent", 0),
        grammar=optional_text(data, "grammar"),
        variables=_variables(data),
        negative_prompt=optional_text(data, "negative_prompt"),
        description=optional_text(data, "description") or "",
        tests=_tests(data),
    )


def _sampling(value: object) -> TemplateSampling:
    if value is None:
        return TemplateSampling()
    if not isinstance(value, Mapping):
        raise FieldInvalid("sampling", "must be a table")
    known = {item.name for item in fields(TemplateSampling)}
    values: dict[str, object] = {}
    for key, item in value.items():
        if key not in known:
            raise FieldInvalid(f"sampling.{key}", "is not a sampling field")
        if key == "stop":
            values[key] = texts(value, key, "sampling.")
        elif isinstance(item, bool) or not isinstance(item, int | float):
            raise FieldInvalid(f"sampling.{key}", "must be a number")
        elif key == "top_k":
            values[key] = integer(value, key, path="sampling.")
        else:
            values[key] = _float(item, f"sampling.{key}")
    return TemplateSampling(**values)  # type: ignore[arg-type]  # each value was checked above


def _float(value: float, key: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise FieldInvalid(key, "is out of range") from None


def _examples(data: Mapping[str, object]) -> tuple[Example, ...]:
    return tuple(
        Example(required_text(item, "user", path), required_text(item, "assistant", path))
        for path, item in tables(data, "examples", ("user", "assistant"))
    )


def _variables(data: Mapping[str, object]) -> tuple[Variable, ...]:
    known = [item.name for item in fields(Variable)]
    variables = []
    for path, item in tables(data, "variables", known):
        required = item.get("required", False)
        if not isinstance(required, bool):
            raise FieldInvalid(f"{path}required", "must be true or false")
        default = item.get("default")
        if not isinstance(default, str | int | float | None):
            raise FieldInvalid(f"{path}default", "must be a text, a number, true or false")
        kind = optional_text(item, "type", path) or "string"
        variables.append(
            Variable(
                required_text(item, "name", path), cast("VariableType", kind), required, default
            )
        )
    return tuple(variables)


def _tests(data: Mapping[str, object]) -> tuple[TemplateTest, ...]:
    known = [item.name for item in fields(TemplateTest)]
    tests = []
    for path, item in tables(data, "tests", known):
        mode = item.get("mode")
        tests.append(
            TemplateTest(
                name=filled_text(item, "name", path),
                input=filled_text(item, "input", path),
                must_keep=texts(item, "must_keep", path),
                must_not=texts(item, "must_not", path),
                max_tokens=(
                    None
                    if item.get("max_tokens") is None
                    else integer(item, "max_tokens", path=path)
                ),
                mode=(
                    None
                    if mode is None
                    else cast("ContentMode", choice(item, "mode", CONTENT_MODES, path))
                ),
                seed=integer(item, "seed", 0, path),
                variables=_values(item.get("variables"), f"{path}variables"),
            )
        )
    return tuple(tests)


def _values(value: object, path: str) -> dict[str, str | int | float | bool]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise FieldInvalid(path, "must be a table")
    for key, item in value.items():
        if not isinstance(item, str | int | float):
            raise FieldInvalid(f"{path}.{key}", "must be a text, a number, true or false")
    return dict(value)
