"""What every format is read into first: messages, variables and parameters as they were there."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from onbook.adapters.template_text import file_invalid
from onbook.domain.content_mode.decision import ContentMode
from onbook.domain.templates import Template, TemplateInvalid, TokenUnit, UseCase, Variable

SourceRole = Literal["system", "user", "assistant"]

ROLES: Final[dict[str, SourceRole]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "model": "assistant",
}
# The names that tools give to what a template has.
_PARAMETERS: Final = {
    "temperature": "temperature",
    "top_p": "top_p",
    "topp": "top_p",
    "top_k": "top_k",
    "topk": "top_k",
    "min_p": "min_p",
    "minp": "min_p",
    "repetition_penalty": "repetition_penalty",
    "repetitionpenalty": "repetition_penalty",
    "frequency_penalty": "frequency_penalty",
    "frequencypenalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "presencepenalty": "presence_penalty",
    "stop": "stop",
    "stop_sequences": "stop",
    "stopsequences": "stop",
    "max_tokens": "max_tokens",
    "maxtokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "maxoutputtokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportDefaults:
    """What other tools' prompts do not say about a template.

    ``template_name`` None takes the prompt's own name. ``user_variable`` names the variable that
    carries the user's text; None finds it: a last user message that is just one variable, with or
    without a label such as ``Idea:``, or a variable called ``prompt``. ``completion`` makes a
    base-model template, whose ``user_format`` keeps the text around the user's. ``max_tokens`` is
    used where the prompt sets none, and with ``max_tokens_wins`` whatever the prompt sets.
    """

    model_type: str
    use_case: UseCase
    token_limit: int
    token_unit: TokenUnit
    max_tokens: int
    max_tokens_wins: bool = False
    content_mode: ContentMode = "sfw"
    target: str | None = None
    template_name: str | None = None
    user_variable: str | None = None
    completion: bool = False


@dataclass(frozen=True, slots=True)
class ImportedTemplate:
    """A template from a file, and one sentence for each thing that is not as it was there.

    ``base_version`` is the version that a TOML file was exported from, if it says so.
    """

    template: Template
    warnings: tuple[str, ...] = ()
    base_version: int | None = None


@dataclass(frozen=True, slots=True)
class SourceText:
    """A text and where it stands: ``where`` is its path in JSON, "" in a file that is the text.

    ``line`` is the line of its first character, in the file or, with ``where``, in the text.
    """

    text: str
    where: str = ""
    line: int = 1

    def trimmed(self) -> "SourceText":
        """Return it without the white space around it; the line stays right."""
        start = len(self.text) - len(self.text.lstrip())
        return SourceText(
            self.text.strip(), self.where, self.line + self.text.count("\n", 0, start)
        )

    def refused(self, file: str, reason: str, line: int = 0) -> TemplateInvalid:
        """Return the error for ``reason`` at ``line`` of the text, from 0."""
        if not self.where:
            return file_invalid(file, reason, line=self.line + line)
        return file_invalid(file, f"{self.where}, line {self.line + line} of the text, {reason}")


@dataclass(frozen=True, slots=True)
class SourceMessage:
    """One message of a prompt."""

    role: SourceRole
    content: SourceText


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcePrompt:
    """A prompt of another tool. ``left_out`` names what it has and a template does not."""

    name: str
    messages: tuple[SourceMessage, ...]
    description: str = ""
    variables: tuple[Variable, ...] = ()
    parameters: Mapping[str, object] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def read_parameters(
    config: Mapping[str, object], path: str = ""
) -> tuple[dict[str, object], list[str]]:
    """Return the parameters of ``config`` by our names, and the paths of all else that is set."""
    found: dict[str, object] = {}
    others = []
    for key, value in config.items():
        if value is None:
            continue
        name = _PARAMETERS.get(key.lower())
        if name is None or name in found:
            others.append(f"{path}{key}")
        else:
            found[name] = [value] if name == "stop" and isinstance(value, str) else value
    return found, others


def set_keys(values: Mapping[str, object], known: Iterable[str], path: str = "") -> tuple[str, ...]:
    """Return the paths of the keys that hold something and are not in ``known``."""
    return tuple(
        f"{path}{key}"
        for key, value in values.items()
        if key not in known and value not in (None, "", [], {})
    )
