"""Receipts: what a worker says it executed, in a form that can be checked offline.

A receipt shows consistency. It does not prove that the worker tells the truth: a worker that
holds its key and lies can sign a lie.
"""

import base64
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Final, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from onbook.wire.canonical import CanonicalizationError, object_writer, sha256_hex, sha256_of
from onbook.wire.signing import verified


class EffectiveSampling(msgspec.Struct, frozen=True, kw_only=True):
    """The sampling that the engine really used, every field stated; ``seed`` -1 is random."""

    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    frequency_penalty: float
    presence_penalty: float
    dry_multiplier: float
    seed: int
    stop: list[str]
    grammar_sha256: str | None


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's signed statement over one execution.

    Digests are SHA-256 in hexadecimal; ``issued_at`` is RFC 3339 in UTC; ``key_id`` names the key
    of the worker's ring (``wire.signing.key_id_of``); ``signature`` is Ed25519 over the canonical
    JSON of all other fields, base64.
    """

    receipt_id: str
    worker_id: str
    issued_at: str
    request_sha256: str
    nonce: str
    rendering: str
    verification: Literal["token_ids", "request_only"]
    prompt_tokens: int
    token_ids_sha256: str | None
    chat_template_sha256: str | None
    model_sha256: str | None
    sampling: EffectiveSampling
    added_text: str
    finish_reason: str
    output_sha256: str
    key_id: str = ""
    signature: str = ""


def request_sha256(
    messages: Sequence[msgspec.Struct], sampling: EffectiveSampling, nonce: str
) -> str:
    """Return the digest of ``{messages, sampling, nonce}`` that both sides compute."""
    return sha256_of({"messages": list(messages), "sampling": sampling, "nonce": nonce})


def token_ids_sha256(token_ids: Sequence[int]) -> str:
    """Return the digest of the prompt's token ids, as a canonical JSON array."""
    # For whole numbers of this size any JSON without white space is canonical.
    return sha256_hex(msgspec.json.encode(list(token_ids)))


def signed(receipt: Receipt, key: Ed25519PrivateKey) -> Receipt:
    """Return ``receipt`` with its signature."""
    signature = base64.b64encode(key.sign(_signed_bytes(receipt))).decode("ascii")
    return msgspec.structs.replace(receipt, signature=signature)


def signature_valid(receipt: Receipt, public_key: str) -> bool:
    """Tell whether ``receipt`` was signed by the holder of ``public_key`` (base64, 32 bytes)."""
    try:
        data = _signed_bytes(receipt)
    except CanonicalizationError:
        return False
    return verified(public_key, receipt.signature, data)


def _signed_bytes(receipt: Receipt) -> bytes:
    return _write_signed(_signed_values(receipt))


_SIGNED: Final = tuple(name for name in Receipt.__struct_fields__ if name != "signature")
_signed_values: Final[Callable[[Receipt], tuple[object, ...]]] = attrgetter(*_SIGNED)
_write_signed: Final = object_writer(_SIGNED)
