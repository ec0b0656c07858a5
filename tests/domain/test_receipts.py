"""Checking a receipt: each mismatch throws the result away, and says which it was."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest

from onbook.domain.errors import PurityViolation
from onbook.domain.receipts import PromptTokens, Sent, doubts, token_ids_check, verify_receipt
from onbook.ports.inference import WorkerPromise

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
    tokens=PromptTokens("f" * 64, 30),
    promise=WorkerPromise("token_ids", "chatml", "9" * 64),
)
# A worker in front of a server that renders the messages itself says so from the start.
LESSER = WorkerPromise("request_only", "chatml", "9" * 64)


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
    token_ids_sha256: str | None = "f" * 64
    model_sha256: str | None = "d" * 64
    chat_template_sha256: str | None = "9" * 64


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
    ("rendering", "one-that-nobody-can-check"),
    ("verification", "request_only"),
    ("chat_template_sha256", "8" * 64),
    ("prompt_tokens", 29),
    ("token_ids_sha256", "e" * 64),
    ("token_ids_sha256", None),
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
    sent = replace(SENT, promise=LESSER)
    assert verify_receipt(sent, receipt, signature_valid=lambda: True, required=False) == (
        "unverified"
    )


def test_what_is_not_known_of_a_worker_is_not_checked() -> None:
    sent = replace(SENT, prompt_tokens=None, worker_id=None, model_sha256=None, tokens=None)
    receipt = replace(
        GOOD, prompt_tokens=1, worker_id="w9", model_sha256=None, token_ids_sha256="9" * 64
    )
    assert verify_receipt(sent, receipt, signature_valid=lambda: True, required=False) == "verified"
    assert token_ids_check(sent, receipt) == "not_checked"


def test_a_recomputed_count_is_checked_where_the_answer_tells_none() -> None:
    sent = replace(SENT, prompt_tokens=None)
    with pytest.raises(PurityViolation) as caught:
        verify_receipt(
            sent, replace(GOOD, prompt_tokens=31), signature_valid=lambda: True, required=False
        )
    assert caught.value.details == {"mismatches": ["prompt_tokens"], "worker_id": "w1"}


def test_only_token_ids_that_were_recomputed_are_called_so() -> None:
    assert token_ids_check(SENT, GOOD) == "recomputed"
    assert token_ids_check(SENT, None) == "not_checked"
    assert token_ids_check(SENT, replace(GOOD, verification="request_only")) == "not_checked"


@pytest.mark.parametrize(("told", "mismatches"), [(30, []), (0, []), (29, ["prompt_tokens"])])
def test_a_server_that_renders_itself_must_have_read_as_many_tokens_as_it_should(
    told: int, mismatches: list[str]
) -> None:
    sent = replace(SENT, prompt_tokens=None, promise=LESSER)
    receipt = replace(GOOD, verification="request_only", token_ids_sha256=None, prompt_tokens=told)
    if mismatches:
        with pytest.raises(PurityViolation) as caught:
            verify_receipt(sent, receipt, signature_valid=lambda: True, required=False)
        assert caught.value.details == {"mismatches": mismatches, "worker_id": "w1"}
    else:
        status = verify_receipt(sent, receipt, signature_valid=lambda: True, required=False)
        assert status == "unverified"


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


def test_another_worker_at_the_address_is_said_to_be_one() -> None:
    error = _violation(replace(GOOD, worker_id="w2"), signature_valid=lambda: False)
    assert error.message.endswith("It is another worker's.")
    assert "ONBOOK_WORKER_PUBLIC_KEY" in error.suggested_action
    # One of the two alone is something else: an edited receipt, or a key that nobody endorses.
    for receipt, valid in ((replace(GOOD, worker_id="w2"), True), (GOOD, False)):
        alone = _violation(receipt, signature_valid=partial(bool, valid))
        assert "another worker" not in alone.message + alone.suggested_action


EXPECTED = replace(SENT, model_sha256=None, expected_model_sha256="d" * 64, family="chatml")


def test_the_model_that_the_gateway_was_told_is_the_one_that_counts() -> None:
    assert verify_receipt(EXPECTED, GOOD, signature_valid=lambda: True, required=False) == (
        "verified"
    )
    with pytest.raises(PurityViolation) as caught:
        verify_receipt(
            EXPECTED,
            replace(GOOD, model_sha256="e" * 64),
            signature_valid=lambda: True,
            required=False,
        )
    assert caught.value.details == {"mismatches": ["model_sha256"], "worker_id": "w1"}


@pytest.mark.parametrize(
    ("sent", "receipt", "doubtful"),
    [
        (EXPECTED, GOOD, False),
        (EXPECTED, replace(GOOD, model_sha256=None), True),
        (EXPECTED, replace(GOOD, rendering="template"), True),
        # The rendering of another model, or of one of no known family, is nothing to compare with.
        (replace(EXPECTED, family=None), replace(GOOD, rendering="template"), False),
        (replace(EXPECTED, expected_model_sha256=None), replace(GOOD, rendering="odd"), False),
        (replace(EXPECTED, raw=True), replace(GOOD, rendering="raw"), False),
    ],
)
def test_what_a_worker_chose_to_leave_open_is_not_called_verified(
    sent: Sent,
    receipt: Claims,
    doubtful: bool,  # noqa: FBT001 - a column of the table
) -> None:
    sent = replace(sent, promise=None)
    status = verify_receipt(sent, receipt, signature_valid=lambda: True, required=False)
    assert status == ("unverified" if doubtful else "verified")
    assert bool(doubts(sent, receipt)) == doubtful
