"""The worker's HTTP contract: messages and sampling in, text and a receipt out."""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from onbook.wire.canonical import sha256_of_text
from onbook.wire.receipt import EffectiveSampling, Receipt
from onbook.wire.signing import PublishedKey

Role = Literal["system", "user", "assistant"]
FinishReason = Literal["stop", "length"]
Endpoint = Literal["chat", "enhance", "generate"]

DEFAULT_MAX_TOKENS: Final[dict[Endpoint, int]] = {"chat": 512, "enhance": 200, "generate": 512}

_Penalty = Annotated[float, Meta(ge=-2.0, le=2.0)]
# An empty text would end every answer before it begins.
_Stop = Annotated[str, Meta(min_length=1, max_length=256)]


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One turn. The worker sees it as it is: nothing is added, trimmed or replaced."""

    role: Role
    content: str


class Sampling(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """How the engine draws tokens. What is not set is *off*; the receipt states all of it."""

    max_tokens: Annotated[int, Meta(ge=1, le=32_768)] | None = None
    temperature: Annotated[float, Meta(ge=0.0, le=5.0)] = 0.7
    top_p: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.9
    top_k: Annotated[int, Meta(ge=0, le=100_000)] | None = None
    min_p: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    repetition_penalty: Annotated[float, Meta(ge=0.1, le=5.0)] | None = None
    frequency_penalty: _Penalty | None = None
    presence_penalty: _Penalty | None = None
    dry_multiplier: Annotated[float, Meta(ge=0.0, le=10.0)] | None = None
    seed: Annotated[int, Meta(ge=0, le=4_294_967_294)] | None = None
    stop: Annotated[list[_Stop], Meta(max_length=16)] | None = None
    grammar: Annotated[str, Meta(min_length=1, max_length=65_536)] | None = None


class InferenceRequest(Sampling, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of ``POST /chat``, ``/enhance`` and ``/generate``. Only ``messages`` is required.

    ``/generate`` is raw completion: the contents are joined as they are, without control tokens.
    """

    messages: Annotated[list[Message], Meta(min_length=1, max_length=4096)]
    stream: bool = False
    request_id: Annotated[str, Meta(max_length=128)] | None = None
    nonce: Annotated[str, Meta(max_length=128)] | None = None


class LegacyParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sampling of the legacy WAN format."""

    max_new_tokens: Annotated[int, Meta(ge=1, le=32_768)] = 200
    temperature: Annotated[float, Meta(ge=0.0, le=5.0)] = 0.7
    top_p: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.9
    do_sample: bool = True
    return_full_text: bool = False


class LegacyRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The legacy WAN body of ``POST /generate``: a raw completion of ``inputs``."""

    inputs: Annotated[str, Meta(min_length=1)]
    parameters: LegacyParameters = LegacyParameters()


class LegacyResponse(msgspec.Struct, frozen=True):
    """The legacy WAN answer."""

    generated_text: str


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The model behind a worker. Digests are SHA-256 in hexadecimal, sizes in tokens."""

    name: str
    engine: str
    file_sha256: str | None = None
    chat_template_sha256: str | None = None
    family: str | None = None
    context_size: int | None = None
    slots: int | None = None


class InferenceResponse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The worker's answer: ``enhanced_prompt`` on ``/enhance``, ``response`` elsewhere.

    ``generation_time`` is in seconds.
    """

    success: bool
    generation_time: float
    tokens_generated: int
    prompt_tokens: int
    finish_reason: FinishReason
    model_info: ModelInfo
    receipt: Receipt
    response: str | None = None
    enhanced_prompt: str | None = None


class UpstreamAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What the gateway accepts as an answer: a worker of ours, or one that gives no receipt."""

    success: bool = True
    response: str | None = None
    enhanced_prompt: str | None = None
    generation_time: float | None = None
    tokens_generated: int | None = None
    prompt_tokens: int | None = None
    finish_reason: str | None = None
    model_info: ModelInfo | None = None
    receipt: Receipt | None = None
    error: str | None = None
    error_code: str | None = None


class PurityReport(msgspec.Struct, frozen=True, kw_only=True):
    """The result of the self-test that runs before a worker calls itself healthy.

    ``verification`` is ``token_ids`` where the worker gives its engine token ids, and
    ``request_only`` where an upstream renders the messages itself. ``notes`` are what the test
    found and what is no failure, as that the model's own template would add a default text.
    """

    passed: bool
    added_text: str
    checked: list[str]
    failures: list[str]
    verification: Literal["token_ids", "request_only"] = "token_ids"
    rendering: str = ""
    notes: list[str] = []


class WorkerMemory(msgspec.Struct, frozen=True, kw_only=True):
    """Memory in bytes: of the process now and at most, and of the model's file."""

    rss_bytes: int | None = None
    peak_rss_bytes: int | None = None
    model_file_bytes: int | None = None
    prompt_cache_limit_bytes: int | None = None


class WorkerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The body of ``GET /worker/info``."""

    worker_id: str
    worker_type: str
    version: str
    model: ModelInfo
    endpoints: list[str]
    purity: PurityReport
    public_key: str
    keys: list[PublishedKey] = []
    trusts_signed_requests_only: bool = False
    running: int = 0
    waiting: int = 0
    max_queue: int | None = None
    memory: WorkerMemory = WorkerMemory()
    pure_inference: bool = True
    success: bool = True


class WorkerHealth(msgspec.Struct, frozen=True, kw_only=True):
    """The body of ``GET /health``: 200 when ``status`` is ``ok``, else 503."""

    status: Literal["ok", "loading", "failed", "draining", "upstream_away"]
    model_loaded: bool
    self_probe: bool
    detail: str | None = None


def effective_sampling(request: Sampling, endpoint: Endpoint) -> EffectiveSampling:
    """Return the sampling that ``request`` means: what it left out is off, never a default.

    Gateway and worker both compute it, so that the gateway can check what the worker used.
    """
    return EffectiveSampling(
        max_tokens=request.max_tokens or DEFAULT_MAX_TOKENS[endpoint],
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k or 0,
        min_p=request.min_p or 0.0,
        repetition_penalty=(
            1.0 if request.repetition_penalty is None else request.repetition_penalty
        ),
        frequency_penalty=request.frequency_penalty or 0.0,
        presence_penalty=request.presence_penalty or 0.0,
        dry_multiplier=request.dry_multiplier or 0.0,
        seed=-1 if request.seed is None else request.seed,
        stop=request.stop or [],
        grammar_sha256=None if request.grammar is None else sha256_of_text(request.grammar),
    )
