"""The worker, as the flows see it."""

from dataclasses import dataclass
from typing import Protocol

from onbook.wire.receipt import Receipt
from onbook.wire.worker_api import Endpoint, FinishReason, InferenceRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What a worker answered, checked for shape but not yet for purity.

    ``response_time_ms`` is measured at the gateway, ``generation_time_ms`` by the worker.
    """

    text: str
    finish_reason: FinishReason | None
    model_used: str
    receipt: Receipt | None
    tokens_generated: int | None
    prompt_tokens: int | None
    response_time_ms: float
    generation_time_ms: float | None


class InferenceWorker(Protocol):
    """Executes messages exactly as they are given."""

    @property
    def worker_id(self) -> str | None:
        """The worker's id, once known."""

    @property
    def public_key(self) -> str | None:
        """The key that the worker's receipts must be signed with; None while unknown."""

    @property
    def model_sha256(self) -> str | None:
        """The digest of the model file that the worker said it runs; None while unknown."""

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
