"""Receipts: what a worker says it executed, in a form that can be checked offline.

A receipt shows consistency. It does not prove that the worker tells the truth: a worker that
holds its key and lies can sign a lie.
"""

import base64
import binascii
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from onbook.wire.canonical import canonical_json, sha256_of


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

    Digests are SHA-256 in hexadecimal; ``issued_at`` is RFC 3339 in UTC; ``signature`` is
    Ed25519 over the canonical JSON of all other fields, base64.
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
    signature: str = ""


def request_sha256(
    messages: Sequence[msgspec.Struct], sampling: EffectiveSampling, nonce: str
) -> str:
    """Return the digest of ``{messages, sampling, nonce}`` that both sides compute."""
    return sha256_of(
        {
            "messages": msgspec.to_builtins(list(messages)),
            "sampling": msgspec.to_builtins(sampling),
            "nonce": nonce,
        }
    )


def token_ids_sha256(token_ids: Sequence[int]) -> str:
    """Return the digest of the prompt's token ids, as a canonical JSON array."""
    return sha256_of(list(token_ids))


def signed(receipt: Receipt, key: Ed25519PrivateKey) -> Receipt:
    """Return ``receipt`` with its signature."""
    signature = base64.b64encode(key.sign(_signed_bytes(receipt))).decode("ascii")
    return msgspec.structs.replace(receipt, signature=signature)


def signature_valid(receipt: Receipt, public_key: str) -> bool:
    """Tell whether ``receipt`` was signed by the holder of ``public_key`` (base64, 32 bytes)."""
    try:
        _public_key(public_key).verify(
            base64.b64decode(receipt.signature, validate=True), _signed_bytes(receipt)
        )
    except (InvalidSignature, ValueError, binascii.Error):
        return False
    return True


def public_key_of(key: Ed25519PrivateKey) -> str:
    """Return the public half of ``key``, base64 of its 32 raw bytes."""
    return base64.b64encode(key.public_key().public_bytes_raw()).decode("ascii")


@lru_cache(maxsize=256)
def _public_key(public_key: str) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key, validate=True))


def _signed_bytes(receipt: Receipt) -> bytes:
    body = msgspec.to_builtins(receipt)
    del body["signature"]
    return canonical_json(body)
