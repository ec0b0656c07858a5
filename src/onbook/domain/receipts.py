"""Checking a worker's receipt against what was sent. A mismatch throws the result away."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from onbook.domain.enhancement import IntegrityStatus
from onbook.domain.errors import PurityViolation


class ReceiptClaims(Protocol):
    """What a receipt says, as far as it is checked here."""

    @property
    def worker_id(self) -> str:
        """Who executed."""

    @property
    def request_sha256(self) -> str:
        """Digest of messages, effective sampling and nonce."""

    @property
    def nonce(self) -> str:
        """The nonce of the request."""

    @property
    def sampling(self) -> object:
        """The effective sampling."""

    @property
    def rendering(self) -> str:
        """How the messages became token ids."""

    @property
    def verification(self) -> str:
        """``token_ids``, or ``request_only`` where the worker cannot see what its engine saw."""

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the rendered prompt."""

    @property
    def model_sha256(self) -> str | None:
        """Digest of the model file."""

    @property
    def added_text(self) -> str:
        """What rendering added besides contents and control tokens."""

    @property
    def finish_reason(self) -> str:
        """Why the generation ended."""

    @property
    def output_sha256(self) -> str:
        """Digest of the generated text."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What the gateway sent and got back, in the terms of the receipt.

    ``raw`` tells a raw completion from a chat; ``worker_id`` and ``model_sha256`` are what the
    worker said of itself at first contact. None is not known, and not checked.
    """

    request_sha256: str
    nonce: str
    sampling: object
    finish_reason: str | None
    output_sha256: str
    raw: bool
    prompt_tokens: int | None
    worker_id: str | None
    model_sha256: str | None


def verify_receipt(
    sent: Sent,
    receipt: ReceiptClaims | None,
    *,
    signature_valid: Callable[[], bool] | None,
    required: bool,
) -> IntegrityStatus:
    """Return ``verified``, or ``unverified`` where there is nothing to verify with.

    Args:
        sent: What was sent and received.
        receipt: The worker's receipt, if it gave one.
        signature_valid: Checks the signature with the worker's registered key; None while no
            key is known.
        required: Treat a missing receipt as a violation.

    Raises:
        PurityViolation: naming every field that does not match.
    """
    if receipt is None:
        if required:
            raise PurityViolation(
                "The worker gave no receipt, and receipts are required.",
                details={"mismatches": ["receipt"]},
            )
        return "unverified"
    checks = {
        "request_sha256": receipt.request_sha256 == sent.request_sha256,
        "nonce": receipt.nonce == sent.nonce,
        "sampling": receipt.sampling == sent.sampling,
        "added_text": receipt.added_text == "",
        "finish_reason": receipt.finish_reason == sent.finish_reason,
        "output_sha256": receipt.output_sha256 == sent.output_sha256,
        "rendering": (receipt.rendering == "raw") == sent.raw,
        "prompt_tokens": sent.prompt_tokens in (None, receipt.prompt_tokens),
        "worker_id": sent.worker_id in (None, receipt.worker_id),
        "model_sha256": sent.model_sha256 in (None, receipt.model_sha256),
        "signature": not required if signature_valid is None else signature_valid(),
    }
    mismatches = [name for name, good in checks.items() if not good]
    if mismatches:
        raise PurityViolation(
            f"The worker's receipt does not match what was sent: {', '.join(mismatches)}.",
            details={"mismatches": mismatches, "worker_id": receipt.worker_id},
        )
    checked = signature_valid is not None and receipt.verification == "token_ids"
    return "verified" if checked else "unverified"
