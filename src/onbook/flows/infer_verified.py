"""One call to a worker, and the check of its receipt before anything is done with the text."""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import cast

import msgspec

from onbook.domain.enhancement import ModelRun
from onbook.domain.errors import PurityViolation
from onbook.domain.messages import Composed, Message
from onbook.domain.receipts import PromptTokens, Sent, doubts, token_ids_check, verify_receipt
from onbook.domain.templates import Template
from onbook.flows.off_loop import off_loop
from onbook.ports.inference import Completion, InferenceWorker
from onbook.ports.prompt_ids import PromptIds
from onbook.wire import worker_api
from onbook.wire.canonical import sha256_of, sha256_of_text
from onbook.wire.receipt import Receipt, request_sha256, signature_valid, token_ids_sha256
from onbook.wire.signing import key_id_of
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
    prompt_ids: PromptIds | None = None,
) -> ModelRun:
    """Send the messages with the template's sampling and return the verified result.

    The worker's adapter is told what came of the check (``Completion.judged``). ``required``
    makes a missing receipt a violation; ``prompt_ids`` says which model the worker must run, and
    recomputes the token ids where it holds that model's tokenizer.

    Raises:
        WorkerUnavailable: the worker cannot be reached or gave no result.
        WorkerTimeout: it was slower than ``timeout_s`` seconds.
        PurityViolation: its receipt does not match what was sent.
    """
    endpoint: Endpoint = "generate" if template.is_completion else "enhance"
    request = _request(template, composed, seed=seed, request_id=request_id, nonce=nonce)
    completion = await worker.infer(endpoint, request, timeout_s=timeout_s)
    receipt, public_keys = completion.receipt, worker.public_keys
    raw = template.is_completion
    tokens = await _tokens(composed, receipt, prompt_ids, worker.model_sha256, raw=raw)
    sent = _sent(endpoint, request, completion, worker, tokens, prompt_ids)
    plain = cast("dict[str, object]", msgspec.to_builtins(receipt)) if receipt else None
    check: Callable[[], bool] | None = None
    if receipt is not None and public_keys:
        check = partial(_signed_by_any, receipt, public_keys)
    try:
        integrity = verify_receipt(sent, receipt, signature_valid=check, required=required)
    except PurityViolation as violation:
        violation.receipt = plain
        _judge(completion, _mismatches(violation))
        raise
    _judge(completion, ())
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
        token_ids=token_ids_check(sent, receipt),
        warnings=doubts(sent, receipt),
    )


def _sent(
    endpoint: Endpoint,
    request: InferenceRequest,
    completion: Completion,
    worker: InferenceWorker,
    tokens: PromptTokens | None,
    prompt_ids: PromptIds | None,
) -> Sent:
    sampling, nonce = effective_sampling(request, endpoint), request.nonce or ""
    return Sent(
        request_sha256=request_sha256(request.messages, sampling, nonce),
        nonce=nonce,
        sampling=sampling,
        finish_reason=completion.finish_reason,
        output_sha256=sha256_of_text(completion.text),
        raw=endpoint == "generate",
        prompt_tokens=completion.prompt_tokens,
        worker_id=worker.worker_id,
        model_sha256=worker.model_sha256,
        tokens=tokens,
        promise=worker.promise,
        expected_model_sha256=None if prompt_ids is None else prompt_ids.model_sha256,
        family=None if prompt_ids is None else prompt_ids.family,
    )


async def _tokens(
    composed: Composed,
    receipt: Receipt | None,
    prompt_ids: PromptIds | None,
    model_sha256: str | None,
    *,
    raw: bool,
) -> PromptTokens | None:
    if receipt is None or prompt_ids is None:
        return None
    # Either word is enough, then a worker that keeps one back is caught by its ids as well.
    if prompt_ids.model_sha256 not in (model_sha256, receipt.model_sha256):
        return None
    # A server that renders the messages itself must read as many as its model's family wants.
    rendering = receipt.rendering if receipt.verification == "token_ids" else None
    messages = composed.messages
    # A template's own texts are known from the request before; what users write is new.
    new = sum(len(item.content.encode("utf-8", "replace")) for item in messages[-1:])
    ids = await off_loop(new, lambda: prompt_ids.ids(messages, raw=raw, rendering=rendering))
    return None if ids is None else PromptTokens(token_ids_sha256(ids), len(ids))


def _signed_by_any(receipt: Receipt, public_keys: Collection[str]) -> bool:
    """Tell whether one of ``public_keys`` has signed: the one that the receipt names, if it does.

    A key costs 150 µs to try, so the named one is looked up.
    """
    key_id = receipt.key_id
    return any(
        signature_valid(receipt, key)
        for key in public_keys
        if not key_id or key_id_of(key) == key_id
    )


def _judge(completion: Completion, mismatches: Sequence[str]) -> None:
    if completion.judged is not None:
        completion.judged(mismatches)


def _mismatches(violation: PurityViolation) -> Sequence[str]:
    return cast("list[str]", (violation.details or {})["mismatches"])


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
