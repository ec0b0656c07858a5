"""Checking a worker's receipt against what was sent. A mismatch throws the result away."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final, Protocol

from onbook.domain.enhancement import IntegrityStatus, TokenIdsCheck
from onbook.domain.errors import PurityViolation

ANOTHER_WORKER_ACTION: Final = (
    "Another worker answers at this address. If that is meant, put its public key ('onbook keys "
    "signing list --role worker' there) into ONBOOK_WORKER_PUBLIC_KEY where that is set, and start "
    "the gateway again; if not, find out who answers."
)


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
    def token_ids_sha256(self) -> str | None:
        """Digest of the token ids of the rendered prompt."""

    @property
    def model_sha256(self) -> str | None:
        """Digest of the model file."""

    @property
    def chat_template_sha256(self) -> str | None:
        """Digest of the model's chat template."""

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
class PromptTokens:
    """What the prompt must have become: the digest of its token ids, and their number."""

    sha256: str
    count: int


class Promise(Protocol):
    """What the worker said at first contact of how it renders chats."""

    @property
    def verification(self) -> str:
        """``token_ids`` or ``request_only``."""

    @property
    def rendering(self) -> str:
        """The name of the rendering."""

    @property
    def chat_template_sha256(self) -> str | None:
        """Digest of the model's chat template."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What the gateway sent and got back, in the terms of the receipt.

    ``raw`` tells a raw completion from a chat; ``worker_id`` and ``model_sha256`` are what the
    worker said of itself at first contact; ``tokens`` is what was recomputed here, without the
    worker; ``promise`` is how the worker said that it renders. ``expected_model_sha256`` is the
    model that the gateway itself was told of, and ``family`` the rendering of it that it could
    compute. None is not known, and not checked.
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
    tokens: PromptTokens | None = None
    promise: "Promise | None" = None
    expected_model_sha256: str | None = None
    family: str | None = None


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
        "rendering": (receipt.rendering == "raw") == sent.raw
        and (sent.promise is None or sent.raw or receipt.rendering == sent.promise.rendering),
        "verification": sent.promise is None or receipt.verification == sent.promise.verification,
        "chat_template_sha256": sent.promise is None
        or receipt.chat_template_sha256 == sent.promise.chat_template_sha256,
        "prompt_tokens": sent.prompt_tokens in (None, receipt.prompt_tokens)
        and _count_matches(sent.tokens, receipt),
        "token_ids_sha256": _ids_match(sent.tokens, receipt),
        "worker_id": sent.worker_id in (None, receipt.worker_id),
        "model_sha256": sent.model_sha256 in (None, receipt.model_sha256)
        and _is_expected(sent, receipt),
        "signature": not required if signature_valid is None else signature_valid(),
    }
    mismatches = [name for name, good in checks.items() if not good]
    if mismatches:
        another = is_another_worker(mismatches)
        raise PurityViolation(
            f"The worker's receipt does not match what was sent: {', '.join(mismatches)}."
            + (" It is another worker's." if another else ""),
            details={"mismatches": mismatches, "worker_id": receipt.worker_id},
            suggested_action=ANOTHER_WORKER_ACTION if another else None,
        )
    checked = signature_valid is not None and receipt.verification == "token_ids"
    return "verified" if checked and not doubts(sent, receipt) else "unverified"


def is_another_worker(mismatches: Collection[str]) -> bool:
    """Tell whether a receipt does not match since it was made, and signed, by another worker."""
    return "worker_id" in mismatches and "signature" in mismatches


def doubts(sent: Sent, receipt: ReceiptClaims | None) -> tuple[str, ...]:
    """Return what a receipt leaves open although the gateway was given the means to check it.

    A worker could have chosen to leave it open, so its answer is not called verified.
    """
    if receipt is None or receipt.verification != "token_ids":
        return ()
    expected = sent.expected_model_sha256
    if expected is not None and receipt.model_sha256 is None:
        return ("The worker does not state which model file it runs.",)
    if (
        sent.family is not None
        and not sent.raw
        and expected == receipt.model_sha256
        and receipt.rendering != sent.family
    ):
        how = f"'{sent.family}', which its model is made for"
        return (f"The worker renders in a way that cannot be checked, and not as {how}.",)
    return ()


def token_ids_check(sent: Sent, receipt: ReceiptClaims | None) -> TokenIdsCheck:
    """Tell whether the receipt's token ids were held against ids that were recomputed here."""
    known = receipt is not None and receipt.verification == "token_ids" and sent.tokens is not None
    return "recomputed" if known else "not_checked"


def _count_matches(tokens: PromptTokens | None, receipt: ReceiptClaims) -> bool:
    if tokens is None or (receipt.verification != "token_ids" and receipt.prompt_tokens == 0):
        # Some servers that render the messages themselves do not tell how many tokens they read.
        return True
    return receipt.prompt_tokens == tokens.count


def _is_expected(sent: Sent, receipt: ReceiptClaims) -> bool:
    expected = sent.expected_model_sha256
    return expected is None or receipt.model_sha256 in (None, expected)


def _ids_match(tokens: PromptTokens | None, receipt: ReceiptClaims) -> bool:
    if tokens is None or receipt.verification != "token_ids":
        return True
    return receipt.token_ids_sha256 == tokens.sha256
