"""One call to a worker, and the check of its receipt before anything is done with the text."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import msgspec

from onbook.domain.enhancement import ModelRun
from onbook.domain.errors import PurityViolation
from onbook.domain.messages import Composed, Message
from onbook.domain.receipts import Sent, verify_receipt
from onbook.domain.templates import Template
from onbook.ports.inference import Completion, InferenceWorker
from onbook.wire import worker_api
from onbook.wire.canonical import sha256_of, sha256_of_text
from onbook.wire.receipt import request_sha256, signature_valid
from onbook.wire.worker_api import Endpoint, InferenceRequest, effective_sampling


async def infer_verified(
    template: Template,
    composed: Composed,
    *,
    seed: int,
    request_id: str,
    nonce: str,
    timeout_s: float,
    worker: InferenceWorker,
    required: bool,
) -> ModelRun:
    """Send the messages with the template's sampling and return the verified result.

    Raises:
        WorkerUnavailable: the worker cannot be reached or gave no result.
        WorkerTimeout: it was slower than ``timeout_s`` seconds.
        PurityViolation: its receipt does not match what was sent.
    """
    endpoint: Endpoint = "generate" if template.is_completion else "enhance"
    request = _request(template, composed, seed=seed, request_id=request_id, nonce=nonce)
    completion = await worker.infer(endpoint, request, timeout_s=timeout_s)
    sampling = effective_sampling(request, endpoint)
    sent = Sent(
        request_sha256=request_sha256(request.messages, sampling, nonce),
        nonce=nonce,
        sampling=sampling,
        finish_reason=completion.finish_reason,
        output_sha256=sha256_of_text(completion.text),
        raw=template.is_completion,
        prompt_tokens=completion.prompt_tokens,
        worker_id=worker.worker_id,
        model_sha256=worker.model_sha256,
    )
    receipt, public_key = completion.receipt, worker.public_key
    plain = cast("dict[str, object]", msgspec.to_builtins(receipt)) if receipt else None
    check: Callable[[], bool] | None = None
    if receipt is not None and public_key is not None:
        check = partial(signature_valid, receipt, public_key)
    try:
        integrity = verify_receipt(sent, receipt, signature_valid=check, required=required)
    except PurityViolation as violation:
        violation.receipt = plain
        raise
    return ModelRun(
        text=completion.text,
        model_used=completion.model_used,
        worker_id=receipt.worker_id if receipt else worker.worker_id,
        finish_reason=completion.finish_reason,
        worker_response_time_ms=completion.response_time_ms,
        queue_time_ms=_queue_time_ms(completion),
        attempts=1,
        integrity=integrity,
        receipt_id=receipt.receipt_id if receipt else None,
        receipt=plain,
    )


def messages_sha256(messages: Sequence[Message]) -> str:
    """Return the SHA-256 of the canonical JSON of the messages."""
    return sha256_of([{"role": item.role, "content": item.content} for item in messages])


def _request(
    template: Template, composed: Composed, *, seed: int, request_id: str, nonce: str
) -> InferenceRequest:
    sampling = template.sampling
    return InferenceRequest(
        messages=[worker_api.Message(item.role, item.content) for item in composed.messages],
        max_tokens=template.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        frequency_penalty=sampling.frequency_penalty,
        presence_penalty=sampling.presence_penalty,
        dry_multiplier=sampling.dry_multiplier,
        seed=seed,
        stop=list(sampling.stop) or None,
        grammar=composed.grammar,
        request_id=request_id,
        nonce=nonce,
    )


def _queue_time_ms(completion: Completion) -> float | None:
    """Return what the worker's own time does not explain: its queue and the way there."""
    if completion.generation_time_ms is None:
        return None
    return max(0.0, completion.response_time_ms - completion.generation_time_ms)
