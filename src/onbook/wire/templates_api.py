"""The admin API of the book: requests and answers of ``/v1/templates``.

Names are snake_case, as in the database and in template files.
"""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

MAX_VERSION: Final = 2**31 - 1
MAX_PAGE: Final = 200
MAX_REASON_CHARS: Final = 500
MAX_WAIT_S: Final = 60
MAX_TEXT_CHARS: Final = 100_000

# A row that came by SQL may have a longer name than a draft gets.
_Name = Annotated[str, Meta(min_length=1, max_length=200)]
_NewName = Annotated[str, Meta(min_length=1, max_length=128)]
_Version = Annotated[int, Meta(ge=1, le=MAX_VERSION)]
_Text = Annotated[str, Meta(max_length=MAX_TEXT_CHARS)]
_Reason = Annotated[str, Meta(min_length=1, max_length=MAX_REASON_CHARS)]
_Limit = Annotated[int, Meta(ge=1, le=MAX_PAGE)]
_Penalty = Annotated[float, Meta(ge=-2.0, le=2.0)]
_Scalar = str | int | float | bool
_MaxTokens = Annotated[int, Meta(ge=1, le=32_768)]
_Unit = Literal["clip", "umt5", "model", "chars"]
_UseCase = Literal["enhancement", "chat", "generation", "playground"]
_Mode = Literal["sfw", "nsfw"]


class TemplateSamplingBody(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """How the engine draws tokens for a template. What is not set is off."""

    temperature: Annotated[float, Meta(ge=0.0, le=5.0)] = 0.7
    top_p: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.9
    top_k: Annotated[int, Meta(ge=0, le=100_000)] | None = None
    min_p: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    repetition_penalty: Annotated[float, Meta(ge=0.1, le=5.0)] | None = None
    frequency_penalty: _Penalty | None = None
    presence_penalty: _Penalty | None = None
    dry_multiplier: Annotated[float, Meta(ge=0.0, le=10.0)] | None = None
    stop: Annotated[list[_Text], Meta(max_length=16)] = []


class TemplateExampleBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One few-shot pair."""

    user: _Text
    assistant: _Text


class TemplateVariableBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A declared variable of the system prompt."""

    name: _Name
    type: Literal["string", "integer", "number", "boolean"] = "string"
    required: bool = False
    default: _Scalar | None = None


class TemplateTestBody(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """One case of the gate: what must hold when the template writes for ``input``."""

    name: _NewName
    input: Annotated[str, Meta(min_length=1, max_length=8000)]
    must_keep: Annotated[list[_Text], Meta(max_length=50)] = []
    must_not: Annotated[list[_Text], Meta(max_length=50)] = []
    max_tokens: _MaxTokens | None = None
    mode: _Mode | None = None
    seed: Annotated[int, Meta(ge=0, le=2**32 - 2)] = 0
    variables: dict[str, _Scalar] = {}


class TemplateBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a version of a template holds; the fields of a template file."""

    template_name: _NewName
    model_type: _Name
    use_case: _UseCase
    content_mode: _Mode
    token_limit: Annotated[int, Meta(ge=1, le=1_000_000)]
    token_unit: _Unit
    max_tokens: _MaxTokens
    target: _Name | None = None
    system_prompt: _Text = ""
    user_format: _Text | None = None
    sampling: TemplateSamplingBody = TemplateSamplingBody()
    examples: Annotated[list[TemplateExampleBody], Meta(max_length=200)] = []
    examples_sent: Annotated[int, Meta(ge=0, le=200)] = 0
    grammar: _Text | None = None
    variables: Annotated[list[TemplateVariableBody], Meta(max_length=50)] = []
    negative_prompt: _Text | None = None
    description: _Text = ""
    tests: Annotated[list[TemplateTestBody], Meta(max_length=50)] = []


class TemplateListQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``GET /v1/templates``. An empty ``target`` asks for universal templates."""

    model_type: _Name | None = None
    use_case: _UseCase | None = None
    content_mode: _Mode | None = None
    target: Annotated[str, Meta(max_length=200)] | None = None
    active: bool | None = None
    q: _Name | None = None
    limit: _Limit = MAX_PAGE
    after: _Name | None = None


class NoQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A route that takes no parameters."""


class HistoryQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``GET …/versions``: ``before`` pages the versions, ``before_event`` the events."""

    limit: _Limit = 100
    before: _Version | None = None
    before_event: _Name | None = None


class EventsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``GET /v1/template-events``."""

    limit: _Limit = 100
    before: _Name | None = None


class VersionQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``GET …/versions/{version}``: ``toml`` is the template file."""

    format: Literal["json", "toml"] = "json"


class DiffQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``GET …/diff``: the newest version against what it was made from, unless said otherwise."""

    from_version: _Version | None = msgspec.field(default=None, name="from")
    to_version: _Version | None = msgspec.field(default=None, name="to")


class DiscardQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``DELETE …/versions/{version}``: the reason is given here or in the body."""

    reason: _Reason | None = None


class TemplateDraftRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST …/drafts``. ``base_version`` is the live version that the author started from."""

    template: TemplateBody
    reason: _Reason
    base_version: Annotated[int, Meta(ge=0, le=MAX_VERSION)] | None = None


class TemplateReasonRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of ``DELETE …/versions/{version}``, where the reason is not in the query."""

    reason: _Reason


class TemplateChangeRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every change of what is served takes.

    ``wait_s`` waits that many seconds at most for the gateways to serve the change.
    """

    reason: _Reason
    wait_s: Annotated[float, Meta(ge=0, le=MAX_WAIT_S)] = 0.0


class TemplateTestRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST …/test``: the version whose own test cases are run."""

    version: _Version


class TemplateActivateRequest(
    TemplateChangeRequest, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """``POST …/activate``. ``override_reason`` activates without running the tests.

    ``expected_version`` is what must be live for that, 0 for a template without a live version.
    """

    version: _Version
    override_reason: _Reason | None = None
    expected_version: Annotated[int, Meta(ge=0, le=MAX_VERSION)] | None = None


class TemplateRollBackRequest(
    TemplateChangeRequest, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """``POST …/rollback``: to the version that was live before, unless one is named."""

    to_version: _Version | None = None
    expected_version: _Version | None = None


class TemplateSplitRequest(
    TemplateChangeRequest, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """``POST …/split``: serve a draft to a share of the callers, in per cent."""

    version: _Version
    percent: Annotated[int, Meta(ge=1, le=99)]
    override_reason: _Reason | None = None
    expected_version: _Version | None = None


class TemplateImportDefaults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What prompts of other tools do not say about a template.

    ``user_variable`` names the variable that carries the user's text; ``completion`` makes a
    base-model template.
    """

    model_type: _Name
    token_limit: _Version
    token_unit: _Unit
    max_tokens: _MaxTokens
    use_case: _UseCase = "enhancement"
    content_mode: _Mode = "sfw"
    target: _Name | None = None
    template_name: _Name | None = None
    user_variable: _Name | None = None
    completion: bool = False


class TemplateImportRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /v1/templates/import``: the text of a file, its format told or found.

    ``defaults`` is for the formats of other tools; a TOML file says everything itself. ``reason``
    may be left out of a dry run.
    """

    text: Annotated[str, Meta(min_length=1)]
    reason: _Reason | None = None
    file_name: _Name = "text"
    format: Literal["toml", "langfuse", "dotprompt", "openai"] | None = None
    defaults: TemplateImportDefaults | None = None
    dry_run: bool = False
