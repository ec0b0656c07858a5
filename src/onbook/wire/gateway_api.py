"""The gateway's HTTP contract: the edge functions' requests and answers.

The front end's camelCase and snake_case are both accepted; the first is what the contract names.
"""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from onbook.wire.variables import Variables, wrong_variables
from onbook.wire.worker_api import Message

_Short = Annotated[str, Meta(max_length=200)]
_Name = Annotated[str, Meta(min_length=1, max_length=200)]

MAX_PROMPT_CHARS: Final = 8000


class EnhanceRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """The body of ``POST /functions/v1/enhance-prompt``. Only ``prompt`` is required."""

    prompt: Annotated[str, Meta(min_length=1, max_length=MAX_PROMPT_CHARS)]
    job_type: _Short | None = None
    format: Literal["image", "video"] | None = None
    quality: Literal["fast", "high"] | None = None
    selected_model: _Name | None = None
    content_type: Literal["sfw", "nsfw"] | None = None
    user_id: _Short | None = msgspec.field(default=None, name="user_id")
    target: _Name | None = None
    template_name: _Name | None = msgspec.field(default=None, name="template_name")
    template_version: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = msgspec.field(
        default=None, name="template_version"
    )
    variables: Variables = msgspec.field(default_factory=dict)
    seed: Annotated[int, Meta(ge=0, le=2**32 - 2)] | None = None
    regeneration: bool = False
    selected_presets: Annotated[list[_Short], Meta(max_length=50)] = msgspec.field(
        default_factory=list
    )
    negative_prompt: Annotated[str, Meta(max_length=MAX_PROMPT_CHARS)] | None = msgspec.field(
        default=None, name="negative_prompt"
    )
    allow_fallback: bool = msgspec.field(default=True, name="allow_fallback")
    stream: bool = False
    dry_run: bool = msgspec.field(default=False, name="dry_run")


class Detector(msgspec.Struct, frozen=True, kw_only=True):
    """Which detector decided."""

    name: str
    version: str
    ruleset_sha256: str


class ContentDecisionBody(msgspec.Struct, frozen=True, kw_only=True):
    """The content-mode decision. Matched spans are offsets; the words are not repeated."""

    mode: Literal["sfw", "nsfw", "refused"]
    effective_mode: Literal["sfw", "nsfw"]
    score: float
    categories: dict[str, float]
    matched: list[tuple[int, int, str]]
    source: Literal["caller", "detected", "ceiling"]
    reason: str
    detector: Detector


class Integrity(msgspec.Struct, frozen=True, kw_only=True):
    """Whether what the model saw was checked against what was sent.

    ``token_ids`` is ``recomputed`` where the gateway holds the model's tokenizer and has held the
    receipt's token ids against its own.
    """

    status: Literal["verified", "unverified", "not_applicable", "violation"]
    messages_sha256: str | None
    receipt_id: str | None
    token_ids: Literal["recomputed", "not_checked"] = "not_checked"


class TemplateSplit(msgspec.Struct, frozen=True, kw_only=True):
    """The traffic split that chose the template's version, and the side of it that served."""

    candidate_version: int
    percent: int
    arm: Literal["candidate", "current"]


class EnhancementMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """What happened, field by field. Times in milliseconds, lengths in characters."""

    template_name: str | None
    template_version: int | None
    template_sha256: str | None
    template_source: Literal["database", "system_cache", "hardcoded"] | None
    template_split: TemplateSplit | None
    fallback_level: Literal[0, 1, 2, 3]
    cache_hit: bool
    model_used: str | None
    model_type: str | None
    target: str
    content_mode: Literal["sfw", "nsfw"]
    content_decision: ContentDecisionBody
    worker_id: str | None
    job_type: str
    format: Literal["image", "video"]
    quality: Literal["fast", "high"]
    token_count: int
    token_limit: int
    tokenizer: str
    tokens_before_compression: int
    compression_applied: bool
    compression_cuts: list[str]
    original_length: int
    enhanced_length: int
    expansion_percentage: float
    execution_time_ms: float
    worker_response_time_ms: float | None
    queue_time_ms: float | None
    attempts: int
    finish_reason: Literal["stop", "length"] | None
    seed: int
    kept: list[str]
    added: list[str]
    dropped: list[str]
    fitting_steps: list[str]
    warnings: list[str]
    integrity: Integrity


class EnhanceResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to ``enhance-prompt``."""

    success: bool
    request_id: str
    original_prompt: str
    enhanced_prompt: str
    negative_prompt: str | None
    enhancement_strategy: Literal["template", "template_retry", "rules", "passthrough"]
    enhancement_metadata: EnhancementMetadata


class DryRunResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a dry run: what would be sent to the worker, and nothing was."""

    success: bool
    request_id: str
    dry_run: bool
    original_prompt: str
    template_name: str
    template_version: int
    template_sha256: str
    template_source: Literal["database", "system_cache", "hardcoded"]
    template_split: TemplateSplit | None
    fallback_level: Literal[0, 1, 2]
    content_decision: ContentDecisionBody
    seed: int
    messages: list[Message]
    messages_sha256: str
    grammar: str | None
    warnings: list[str]


class FieldErrors(Exception):
    """The body is not a valid request: names each wrong field and why, never its value."""

    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__(", ".join(sorted(fields)))
        self.fields = fields


class NotJsonError(Exception):
    """The body is not a UTF-8 JSON object."""


def _spellings() -> dict[str, str]:
    """Map every accepted spelling of a field to the one that is decoded."""
    table: dict[str, str] = {}
    for field in msgspec.structs.fields(EnhanceRequest):
        head, *tail = field.name.split("_")
        camel = head + "".join(part.capitalize() for part in tail)
        for spelling in (field.name, camel, field.encode_name):
            table[spelling] = field.encode_name
    return table


_ENHANCE_SPELLINGS: Final = _spellings()
_ENHANCE_TYPES: Final = {
    field.encode_name: field.type for field in msgspec.structs.fields(EnhanceRequest)
}
_decoder: Final = msgspec.json.Decoder(dict[str, object])


def read_enhance_request(body: bytes) -> EnhanceRequest:
    """Decode and check the body of an enhance request.

    Raises:
        NotJsonError: it is not UTF-8, not JSON, or not an object.
        FieldErrors: each field that is wrong, with the reason.
    """
    try:
        body.decode("utf-8")
        raw = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise NotJsonError from None
    data: dict[str, object] = {}
    errors: dict[str, str] = {}
    for key, value in raw.items():
        name = _ENHANCE_SPELLINGS.get(key)
        if name is None:
            errors[key[:100]] = "is not a known field"
        elif name in data:
            errors[name] = "is given twice, in two spellings"
        else:
            data[name] = value
    if "variables" in data:
        errors |= wrong_variables(data["variables"])
    if not errors:
        try:
            request = msgspec.convert(data, EnhanceRequest)
            if b"\\u0000" not in body and not _is_blank(request.prompt):
                return request
            # The escape may be harmless text: a backslash before it takes its meaning away.
            errors = _bad_texts(data)
            if not errors:
                return request
        except msgspec.ValidationError:
            pass
    data.pop("variables", None)
    raise FieldErrors(_bad_texts(data) | errors | _wrong_fields(data))


def _bad_texts(data: dict[str, object]) -> dict[str, str]:
    errors: dict[str, str] = {}
    for name, value in data.items():
        texts = value if isinstance(value, list) else [value]
        if any(isinstance(text, str) and "\x00" in text for text in texts):
            errors[name] = "holds a NUL character"
    prompt = data.get("prompt")
    if isinstance(prompt, str) and _is_blank(prompt):
        errors["prompt"] = "must not be empty"
    return errors


def _is_blank(text: str) -> bool:
    """Tell whether nothing in ``text`` can be seen: spaces, controls, zero-width characters."""
    return not any(char.isprintable() and not char.isspace() for char in text)


def _wrong_fields(data: dict[str, object]) -> dict[str, str]:
    """Check field by field, to name all that are wrong: the decoder stops at the first."""
    errors: dict[str, str] = {}
    if "prompt" not in data:
        errors["prompt"] = "is required"
    for name, value in data.items():
        try:
            msgspec.convert(value, _ENHANCE_TYPES[name])
        except msgspec.ValidationError as error:
            reason = str(error).partition(" - at ")[0]
            if "Invalid enum value" in reason:
                reason = "is not one of the choices"
            errors[name] = reason[:1].lower() + reason[1:]
    return errors
