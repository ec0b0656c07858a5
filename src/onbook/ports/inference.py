"""The worker, as the flows see it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from onbook.domain.worker_health import Trouble
from onbook.wire.receipt import Receipt
from onbook.wire.signing import PublishedKey
from onbook.wire.worker_api import Endpoint, FinishReason, InferenceRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What a worker answered, checked for shape but not yet for purity.

    ``response_time_ms`` is measured at the gateway, ``generation_time_ms`` by the worker.
    ``judged`` is told what the check found: the names of what does not match, or nothing.
    """

    text: str
    finish_reason: FinishReason | None
    model_used: str
    receipt: Receipt | None
    tokens_generated: int | None
    prompt_tokens: int | None
    response_time_ms: float
    generation_time_ms: float | None
    judged: Callable[[Sequence[str]], None] | None = None


@dataclass(frozen=True, slots=True)
class WorkerPromise:
    """How a worker said, at first contact, that it makes token ids of messages.

    Its receipts must say the same: to name another rendering, or to state less, is a violation.
    """

    verification: str
    rendering: str
    chat_template_sha256: str | None


class InferenceWorker(Protocol):
    """Executes messages exactly as they are given."""

    @property
    def worker_id(self) -> str | None:
        """The worker's id, once known."""

    @property
    def public_keys(self) -> frozenset[str]:
        """The keys, base64, one of which must have signed a receipt; empty while unknown."""

    @property
    def published(self) -> Sequence[PublishedKey]:
        """Those of ``public_keys`` that the worker has shown, as its ring publishes them."""

    @property
    def model_sha256(self) -> str | None:
        """The digest of the model file that the worker said it runs; None while unknown."""

    @property
    def promise(self) -> WorkerPromise | None:
        """What the worker said of its rendering; None while unknown."""

    @property
    def trouble(self) -> Trouble | None:
        """Why its answers cannot be used, as far as the last contact showed."""

    async def infer(
        self, endpoint: Endpoint, request: InferenceRequest, *, timeout_s: float
    ) -> Completion:
        """Run ``request``.

        Raises:
            WorkerUnavailable: it cannot be reached, or refused the request.
            WorkerAnswerInvalid: it answered, but not with a result.
            WorkerTimeout: no complete answer within ``timeout_s`` seconds.
        """

    async def ready(self) -> bool:
        """Tell whether the worker has loaded its model and passed its self-test."""

    async def close(self) -> None:
        """Let go of connections; requests in flight are finished first."""
