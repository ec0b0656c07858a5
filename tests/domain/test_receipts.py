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
    assert verify_receipt(SENT, GOOD, signature_valid=None, required=True) == "unverified"


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
    assert error.details == {"mismatches": [field], "worker_id": "w1"}
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
