"""Checking a receipt: each mismatch throws the result away, and says which it was."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from onbook.domain.errors import PurityViolation
from onbook.domain.receipts import Sent, verify_receipt

SAMPLING = {"temperature": 0.7, "stop": ["\n"]}
SENT = Sent(
    request_sha256="a" * 64,
    nonce="n1",
    sampling=SAMPLING,
    finish_reason="stop",
    output_sha256="b" * 64,
    raw=False,
    prompt_tokens=30,
    worker_id="w1",
    model_sha256="d" * 64,
)


@dataclass(frozen=True, slots=True)
class Claims:
    worker_id: str = "w1"
    request_sha256: str = "a" * 64
    nonce: str = "n1"
    sampling: object = None
    added_text: str = ""
    finish_reason: str = "stop"
    output_sha256: str = "b" * 64
    rendering: str = "chatml"
    verification: str = "token_ids"
    prompt_tokens: int = 30
    model_sha256: str | None = "d" * 64


GOOD = Claims(sampling=dict(SAMPLING))
MISMATCHES: list[tuple[str, object]] = [
    ("request_sha256", "c" * 64),
    ("request_sha256", "A" * 64),
    ("request_sha256", ""),
    ("nonce", "n2"),
    ("nonce", ""),
    ("sampling", {"temperature": 0.8, "stop": ["\n"]}),
    ("sampling", {"temperature": 0.7, "stop": []}),
    ("sampling", None),
    ("added_text", "You are helpful."),
    ("added_text", " "),
    ("finish_reason", "length"),
    ("output_sha256", "c" * 64),
    ("rendering", "raw"),
    ("prompt_tokens", 29),
    ("worker_id", "w2"),
    ("model_sha256", "e" * 64),
    ("model_sha256", None),
]
VALID: list[Callable[[], bool] | None] = [None, lambda: True]


def _violation(
    receipt: Claims | None,
    *,
    signature_valid: Callable[[], bool] | None = lambda: True,
    required: bool = False,
) -> PurityViolation:
    with pytest.raises(PurityViolation) as caught:
        verify_receipt(SENT, receipt, signature_valid=signature_valid, required=required)
    assert (caught.value.status, caught.value.code) == (502, "PURITY_VIOLATION")
    return caught.value


@pytest.mark.parametrize("required", [True, False])
def test_a_matching_signed_receipt_is_verified(*, required: bool) -> None:
    status = verify_receipt(SENT, GOOD, signature_valid=lambda: True, required=required)
    assert status == "verified"


def test_a_matching_receipt_without_a_known_key_is_not_called_verified() -> None:
    assert verify_receipt(SENT, GOOD, signature_valid=None, required=False) == "unverified"
    error = _violation(GOOD, signature_valid=None, required=True)
    assert error.details == {"mismatches": ["signature"], "worker_id": "w1"}


def test_a_worker_that_cannot_see_the_tokens_is_not_called_verified() -> None:
    receipt = replace(GOOD, verification="request_only")
    assert verify_receipt(SENT, receipt, signature_valid=lambda: True, required=False) == (
        "unverified"
    )


def test_what_is_not_known_of_a_worker_is_not_checked() -> None:
    sent = replace(SENT, prompt_tokens=None, worker_id=None, model_sha256=None)
    receipt = replace(GOOD, prompt_tokens=1, worker_id="w9", model_sha256=None)
    assert verify_receipt(sent, receipt, signature_valid=lambda: True, required=False) == "verified"


@pytest.mark.parametrize(("field", "value"), MISMATCHES)
@pytest.mark.parametrize("signature_valid", VALID)
@pytest.mark.parametrize("required", [True, False])
def test_each_mismatch_is_a_violation_that_names_its_field(
    field: str,
    value: object,
    signature_valid: Callable[[], bool] | None,
    *,
    required: bool,
) -> None:
    changed: dict[str, Any] = {field: value}
    receipt = replace(GOOD, **changed)
    error = _violation(receipt, signature_valid=signature_valid, required=required)
    unsigned = ["signature"] if required and signature_valid is None else []
    assert error.details == {"mismatches": [field, *unsigned], "worker_id": receipt.worker_id}
    assert field in error.message


def test_a_bad_signature_is_a_violation() -> None:
    error = _violation(GOOD, signature_valid=lambda: False)
    assert error.details == {"mismatches": ["signature"], "worker_id": "w1"}


def test_all_mismatches_are_named_together_and_no_text_is_repeated() -> None:
    receipt = Claims(
        request_sha256="", nonce="", added_text="SECRET", finish_reason="", output_sha256=""
    )
    error = _violation(receipt, signature_valid=lambda: False)
    assert error.details is not None
    assert error.details["mismatches"] == [
        "request_sha256",
        "nonce",
        "sampling",
        "added_text",
        "finish_reason",
        "output_sha256",
        "signature",
    ]
    assert "SECRET" not in f"{error.message}{error.details}"


def test_a_missing_receipt_is_unverified_unless_receipts_are_required() -> None:
    assert verify_receipt(SENT, None, signature_valid=None, required=False) == "unverified"
    assert verify_receipt(SENT, None, signature_valid=lambda: True, required=False) == "unverified"
    assert _violation(None, required=True).details == {"mismatches": ["receipt"]}
