"""The wide record of one enhancement: what was asked, what happened, what came out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from onbook.domain.content_mode.decision import ContentDecision, ContentMode
from onbook.domain.fitting.fit import Stage
from onbook.domain.jobs import JobType
from onbook.domain.messages import Message
from onbook.domain.templates import ResolvedTemplate

Strategy = Literal["template", "template_retry", "rules", "passthrough"]
FallbackLevel = Literal[0, 1, 2, 3]
IntegrityStatus = Literal["verified", "unverified", "not_applicable", "violation"]
TokenIdsCheck = Literal["recomputed", "not_checked"]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the access key's id, its scopes, the end user it speaks for, and its name."""

    key_id: str
    scopes: frozenset[str]
    user_id: str | None = None
    name: str = ""

    def may(self, scope: str) -> bool:
        """Tell whether the caller carries ``scope``; ``admin`` carries every scope."""
        return scope in self.scopes or "admin" in self.scopes


@dataclass(frozen=True, slots=True, kw_only=True)
class EnhanceCommand:
    """A checked request to enhance one prompt.

    ``model_chosen`` tells a caller's choice of ``selected_model`` from the default;
    ``variables`` are values for what the template declares.
    """

    prompt: str
    job: JobType
    target: str
    selected_model: str
    model_chosen: bool = True
    content_type: ContentMode | None = None
    template_name: str | None = None
    template_version: int | None = None
    variables: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    seed: int | None = None
    regeneration: bool = False
    negative_prompt: str | None = None
    allow_fallback: bool = True
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRun:
    """What the worker did for the attempt that was used. Times in milliseconds.

    ``finish_reason`` and ``queue_time_ms`` are None where the worker does not tell; ``token_ids``
    says whether the gateway has recomputed what the model read, and ``warnings`` what of it the
    worker's receipt leaves open.
    """

    text: str
    model_used: str
    worker_id: str | None
    finish_reason: Literal["stop", "length"] | None
    worker_response_time_ms: float
    queue_time_ms: float | None
    attempts: int
    integrity: IntegrityStatus
    receipt_id: str | None
    receipt: Mapping[str, object] | None
    token_ids: TokenIdsCheck = "not_checked"
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Enhancement:
    """The finished enhancement, as it is answered and as it is recorded.

    ``execution_time_ms`` is the time from the checked request to the finished text.
    """

    request_id: str
    created_at: datetime
    caller: Caller
    command: EnhanceCommand
    decision: ContentDecision
    resolved: ResolvedTemplate | None
    messages: tuple[Message, ...]
    messages_sha256: str | None
    seed: int
    enhanced_prompt: str
    negative_prompt: str | None
    strategy: Strategy
    fallback_level: FallbackLevel
    run: ModelRun | None
    attempts: int
    token_count: int
    token_limit: int
    tokenizer: str
    tokens_before_compression: int
    compression_applied: bool
    compression_cuts: tuple[str, ...]
    kept: tuple[str, ...]
    added: tuple[str, ...]
    dropped: tuple[str, ...]
    execution_time_ms: float
    integrity: IntegrityStatus
    rejected_receipt: Mapping[str, object] | None = None
    warnings: tuple[str, ...] = ()
    fitting_steps: tuple[str, ...] = field(default=())
    stages: tuple[Stage, ...] = ()
