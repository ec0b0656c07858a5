"""Signing and checking receipts."""

import base64

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from onbook.wire.canonical import sha256_hex, sha256_of
from onbook.wire.receipt import (
    EffectiveSampling,
    Receipt,
    request_sha256,
    signature_valid,
    signed,
    token_ids_sha256,
)
from onbook.wire.signing import signer_of
from onbook.wire.worker_api import Message

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SAMPLING = EffectiveSampling(
    max_tokens=200,
    temperature=0.7,
    top_p=0.9,
    top_k=0,
    min_p=0.0,
    repetition_penalty=1.0,
    frequency_penalty=0.0,
    presence_penalty=0.0,
    dry_multiplier=0.0,
    seed=-1,
    stop=["\n"],
    grammar_sha256=None,
)
RECEIPT = Receipt(
    receipt_id="r",
    worker_id="w",
    issued_at="2026-11-22T10:00:00.000+00:00",
    request_sha256="1" * 64,
    nonce="n",
    rendering="chatml",
    verification="token_ids",
    prompt_tokens=12,
    token_ids_sha256="2" * 64,
    chat_template_sha256="3" * 64,
    model_sha256="4" * 64,
    sampling=SAMPLING,
    added_text="",
    finish_reason="stop",
    output_sha256="5" * 64,
)
SIGNED = signed(RECEIPT, KEY)
PUBLIC = signer_of(KEY).public_key


def _other(value: object) -> object:
    """Return another value of a kind that the wire carries as easily."""
    match value:
        case None:
            return "x"
        case str():
            return value + "x"
        case int() | float():
            return value + 1
        case list():
            return [*value, "x"]
        case _:
            raise AssertionError(value)


def test_a_signed_receipt_is_valid_and_changes_in_nothing_but_its_signature() -> None:
    assert signature_valid(SIGNED, PUBLIC)
    assert msgspec.structs.replace(SIGNED, signature="") == RECEIPT
    assert len(base64.b64decode(PUBLIC)) == 32


def test_a_receipt_stays_valid_over_the_wire() -> None:
    again = msgspec.json.decode(msgspec.json.encode(SIGNED), type=Receipt)
    assert signature_valid(again, PUBLIC)


@pytest.mark.parametrize(
    "name", [name for name in Receipt.__struct_fields__ if name not in ("sampling", "signature")]
)
def test_any_changed_field_breaks_the_signature(name: str) -> None:
    changed = msgspec.structs.replace(SIGNED, **{name: _other(getattr(SIGNED, name))})
    assert not signature_valid(changed, PUBLIC)


@pytest.mark.parametrize("name", EffectiveSampling.__struct_fields__)
def test_any_changed_sampling_field_breaks_the_signature(name: str) -> None:
    sampling = msgspec.structs.replace(SAMPLING, **{name: _other(getattr(SAMPLING, name))})
    assert not signature_valid(msgspec.structs.replace(SIGNED, sampling=sampling), PUBLIC)


@pytest.mark.parametrize("name", ["token_ids_sha256", "chat_template_sha256", "model_sha256"])
def test_a_digest_taken_away_breaks_the_signature(name: str) -> None:
    assert not signature_valid(msgspec.structs.replace(SIGNED, **{name: None}), PUBLIC)


def test_another_key_does_not_verify() -> None:
    assert not signature_valid(SIGNED, signer_of(Ed25519PrivateKey.generate()).public_key)


@pytest.mark.parametrize(
    "signature",
    ["", "!", "é", "AAAA", SIGNED.signature[:-4], SIGNED.signature + "AAAA", "=" * 88, "\ud800"],
)
def test_a_garbage_signature_is_not_valid_and_not_a_crash(signature: str) -> None:
    assert not signature_valid(msgspec.structs.replace(SIGNED, signature=signature), PUBLIC)


@pytest.mark.parametrize("key", ["", "!", "é", "AAAA", PUBLIC[:-4], PUBLIC + "AAAA", "\ud800"])
def test_a_garbage_public_key_is_not_valid_and_not_a_crash(key: str) -> None:
    assert not signature_valid(SIGNED, key)


def test_a_receipt_that_cannot_be_canonical_is_not_valid() -> None:
    sampling = msgspec.structs.replace(SAMPLING, temperature=float("nan"))
    assert not signature_valid(msgspec.structs.replace(SIGNED, sampling=sampling), PUBLIC)


def test_every_bit_of_the_signature_counts() -> None:
    raw = base64.b64decode(SIGNED.signature)
    for bit in range(0, len(raw) * 8, 7):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        signature = base64.b64encode(flipped).decode()
        assert not signature_valid(msgspec.structs.replace(SIGNED, signature=signature), PUBLIC)


def test_the_request_digest_covers_messages_sampling_and_nonce() -> None:
    messages = [Message("system", "be brief"), Message("user", "hello")]
    base = request_sha256(messages, SAMPLING, "n")
    hotter = msgspec.structs.replace(SAMPLING, temperature=0.8)
    others = {
        request_sha256(messages[::-1], SAMPLING, "n"),
        request_sha256(messages[1:], SAMPLING, "n"),
        request_sha256([Message("user", "be brief"), messages[1]], SAMPLING, "n"),
        request_sha256([Message("system", "be brief "), messages[1]], SAMPLING, "n"),
        request_sha256(messages, hotter, "n"),
        request_sha256(messages, SAMPLING, "m"),
    }
    assert len(others) == 6
    assert base not in others
    assert base == request_sha256(list(messages), msgspec.structs.replace(SAMPLING), "n")


def test_the_request_digest_can_be_recomputed_from_its_definition() -> None:
    digest = request_sha256([Message("user", "hé")], SAMPLING, "n")
    definition = (
        '{"messages":[{"content":"hé","role":"user"}],"nonce":"n","sampling":'
        '{"dry_multiplier":0,"frequency_penalty":0,"grammar_sha256":null,"max_tokens":200,'
        '"min_p":0,"presence_penalty":0,"repetition_penalty":1,"seed":-1,"stop":["\\n"],'
        '"temperature":0.7,"top_k":0,"top_p":0.9}}'
    )
    assert digest == sha256_hex(definition.encode())


def test_the_token_digest_is_that_of_a_json_array() -> None:
    assert token_ids_sha256([1, 22, 333]) == sha256_hex(b"[1,22,333]")
    assert token_ids_sha256(range(3)) == sha256_hex(b"[0,1,2]")
    assert token_ids_sha256([]) == sha256_hex(b"[]")


@given(st.lists(st.integers(0, 2**32 - 1), max_size=40))
def test_token_ids_are_hashed_as_a_canonical_array_whatever_their_number(ids: list[int]) -> None:
    assert token_ids_sha256(ids) == token_ids_sha256(tuple(ids)) == sha256_of(ids)


def test_a_signature_in_another_spelling_does_not_count() -> None:
    # The last character but the padding has bits that decoders ignore.
    spelt = SIGNED.signature[:-3] + chr(ord(SIGNED.signature[-3]) + 1) + "=="
    assert base64.b64decode(spelt) == base64.b64decode(SIGNED.signature)
    assert not signature_valid(msgspec.structs.replace(SIGNED, signature=spelt), PUBLIC)
