"""What the steps of an enhancement share: what they work with, and what has been prepared."""

from dataclasses import dataclass

from onbook.domain.content_mode.decision import (
    ContentDecision,
    ContentMode,
    ContentModeDetector,
)
from onbook.domain.messages import Composed
from onbook.domain.must_keep import Masked
from onbook.domain.templates import ResolvedTemplate
from onbook.flows.resolve_template import TemplateBook
from onbook.ports.clock import Clock, IdSource
from onbook.ports.inference import InferenceWorker
from onbook.ports.prompt_ids import PromptIds
from onbook.ports.stores import EnhancementLog
from onbook.ports.telemetry import EnhanceObserver
from onbook.ports.tokenizing import TokenCounters


@dataclass(frozen=True, slots=True, kw_only=True)
class EnhanceServices:
    """What the flow works with. ``worker_timeout_s`` spans all attempts of one request."""

    book: TemplateBook
    detector: ContentModeDetector
    worker: InferenceWorker
    log: EnhancementLog
    counters: TokenCounters
    observer: EnhanceObserver
    clock: Clock
    ids: IdSource
    ceiling: ContentMode
    worker_timeout_s: float
    require_receipts: bool
    prompt_ids: PromptIds | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A request up to the point where the worker is asked."""

    request_id: str
    decision: ContentDecision
    resolved: ResolvedTemplate
    masked: Masked
    composed: Composed
    seed: int
