"""A real worker with a real key, between whose hands and the gateway something is changed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from onbook.adapters.inference.in_process import InProcessWorker
from onbook.domain.errors import PurityViolation
from onbook.ports.inference import Completion
from onbook.wire.canonical import sha256_of_text
from onbook.wire.receipt import Receipt, signed
from onbook.wire.worker_api import Endpoint, InferenceRequest, Message
from onbook.worker.identity import load_or_create_keys
from server import query
from support import embedded_worker, metadata, running, settings_for

PROMPT = "a cat in a garden"
# Over at once: each request after a violation is a trial.
AT_ONCE = 1e-9
Lie = Callable[["Liar", Completion], Completion]
Change = Callable[[InferenceRequest], InferenceRequest]


def unchanged(request: InferenceRequest) -> InferenceRequest:
    return request


def the_truth(_liar: "Liar", answer: Completion) -> Completion:
    return answer


class Liar:
    """The port of a worker, as something on the way to it might answer."""

    def __init__(self, data_dir: Path, lie: Lie = the_truth) -> None:
        self.worker = embedded_worker(settings_for(data_dir))
        self.key = load_or_create_keys(data_dir).signer().key
        self._inner = InProcessWorker(self.worker.app, self.worker.app.info, key=None)
        self.worker_id: str | None = self._inner.worker_id
        self.public_keys = self._inner.public_keys
        self.published = self._inner.published
        self.model_sha256 = self._inner.model_sha256
        self.promise = self._inner.promise
        self.trouble = self._inner.trouble
        self.before: Receipt | None = None
        self.lie = lie
        self.change: Change = unchanged

    async def infer(
        self, endpoint: Endpoint, request: InferenceRequest, *, timeout_s: float
    ) -> Completion:
        honest = await self._inner.infer(endpoint, self.change(request), timeout_s=timeout_s)
        return self.lie(self, honest)

    async def ready(self) -> bool:
        return True

    async def close(self) -> None:
        await self.worker.close()


def with_receipt(answer: Completion, **changes: object) -> Completion:
    assert answer.receipt is not None
    return replace(answer, receipt=msgspec.structs.replace(answer.receipt, **changes))


def resigned(liar: Liar, answer: Completion, **changes: object) -> Completion:
    """Lie with the worker's own, good key."""
    assert answer.receipt is not None
    receipt = msgspec.structs.replace(answer.receipt, **changes)
    return replace(answer, receipt=signed(receipt, liar.key))


def edits_the_output(_liar: Liar, answer: Completion) -> Completion:
    return replace(answer, text=answer.text + ", masterpiece")


def edits_output_and_digest(_liar: Liar, answer: Completion) -> Completion:
    text = answer.text + ", masterpiece"
    return replace(with_receipt(answer, output_sha256=sha256_of_text(text)), text=text)


def replays_an_old_receipt(liar: Liar, answer: Completion) -> Completion:
    liar.before, old = answer.receipt, liar.before
    return answer if old is None else replace(answer, receipt=old)


def signs_with_another_key(_liar: Liar, answer: Completion) -> Completion:
    assert answer.receipt is not None
    return replace(answer, receipt=signed(answer.receipt, Ed25519PrivateKey.generate()))


def admits_added_text(_liar: Liar, answer: Completion) -> Completion:
    return with_receipt(answer, added_text="You are a helpful assistant.")


def swaps_the_model(liar: Liar, answer: Completion) -> Completion:
    liar.model_sha256 = "1" * 64
    return resigned(liar, answer, model_sha256="0" * 64)


def speaks_for_another_worker(liar: Liar, answer: Completion) -> Completion:
    return resigned(liar, answer, worker_id="somebody-else")


def renders_in_another_way(liar: Liar, answer: Completion) -> Completion:
    return resigned(liar, answer, rendering="raw")


def names_a_rendering_that_nobody_can_check(liar: Liar, answer: Completion) -> Completion:
    return resigned(liar, answer, rendering="of-my-own", token_ids_sha256="0" * 64)


def states_less_than_it_promised(liar: Liar, answer: Completion) -> Completion:
    return resigned(liar, answer, verification="request_only", token_ids_sha256=None)


def counts_other_tokens(liar: Liar, answer: Completion) -> Completion:
    return resigned(liar, answer, prompt_tokens=1)


def hides_the_cut_off(_liar: Liar, answer: Completion) -> Completion:
    return with_receipt(answer, finish_reason="length")


def gives_no_receipt(_liar: Liar, answer: Completion) -> Completion:
    return replace(answer, receipt=None)


LIES: list[tuple[Lie, list[str]]] = [
    (edits_the_output, ["output_sha256"]),
    (edits_output_and_digest, ["signature"]),
    (signs_with_another_key, ["signature"]),
    (admits_added_text, ["added_text", "signature"]),
    (hides_the_cut_off, ["finish_reason", "signature"]),
    (speaks_for_another_worker, ["worker_id"]),
    (renders_in_another_way, ["rendering"]),
    (names_a_rendering_that_nobody_can_check, ["rendering"]),
    (states_less_than_it_promised, ["verification"]),
    (counts_other_tokens, ["prompt_tokens"]),
    (swaps_the_model, ["model_sha256"]),
]


async def test_a_lie_is_caught_and_its_text_thrown_away(tmp_path: Path) -> None:
    liar = Liar(tmp_path / "liar")
    async with running(settings_for(tmp_path, quarantine_s=AT_ONCE), liar) as started:
        for lie, mismatches in LIES:
            liar.lie = lie
            response = await started.enhance({"prompt": PROMPT})
            assert response.json()["enhancement_strategy"] == "rules", lie.__name__
            assert "masterpiece" not in response.json()["enhanced_prompt"]
            assert metadata(response)["fallback_level"] == 3
            assert list(started.service.worker.standing().quarantine.mismatches) == mismatches
        refused = await started.enhance({"prompt": PROMPT, "allow_fallback": False})
        assert (refused.status_code, refused.json()["error_code"]) == (502, PurityViolation.code)
        metrics = (await started.http.get("/metrics")).text
    assert f"onbook_purity_violations_total {len(LIES) + 1}.0" in metrics
    assert statuses(tmp_path) == ["violation"] * (len(LIES) + 1)


async def test_a_replayed_receipt_is_caught(tmp_path: Path) -> None:
    liar = Liar(tmp_path / "liar", replays_an_old_receipt)
    async with running(settings_for(tmp_path), liar) as started:
        honest = await started.enhance({"prompt": PROMPT, "seed": 1})
        replayed = await started.enhance({"prompt": PROMPT, "seed": 1})
    assert honest.json()["enhancement_strategy"] == "template"
    assert replayed.json()["enhancement_strategy"] == "rules"


def prepends_a_system_prompt(request: InferenceRequest) -> InferenceRequest:
    added = Message("system", "You are a helpful assistant.")
    return msgspec.structs.replace(request, messages=[added, *request.messages])


def drops_the_first_message(request: InferenceRequest) -> InferenceRequest:
    return msgspec.structs.replace(request, messages=request.messages[1:])


def changes_the_temperature(request: InferenceRequest) -> InferenceRequest:
    return msgspec.structs.replace(request, temperature=1.9)


def drops_the_grammar(request: InferenceRequest) -> InferenceRequest:
    return msgspec.structs.replace(request, grammar=None)


CHANGES: list[tuple[Change, list[str]]] = [
    (prepends_a_system_prompt, ["request_sha256"]),
    (drops_the_first_message, ["request_sha256"]),
    (changes_the_temperature, ["request_sha256", "sampling"]),
    (drops_the_grammar, ["request_sha256", "sampling"]),
]


async def test_an_edit_on_the_way_to_the_worker_is_caught(tmp_path: Path) -> None:
    liar = Liar(tmp_path / "liar")
    async with running(settings_for(tmp_path, quarantine_s=AT_ONCE), liar) as started:
        for change, mismatches in CHANGES:
            liar.change = change
            response = await started.enhance({"prompt": PROMPT})
            assert response.json()["enhancement_strategy"] == "rules", change.__name__
            assert list(started.service.worker.standing().quarantine.mismatches) == mismatches
    assert statuses(tmp_path) == ["violation"] * len(CHANGES)


async def test_an_honest_worker_is_verified(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path), Liar(tmp_path / "liar")) as started:
        response = await started.enhance({"prompt": PROMPT})
    integrity = metadata(response)["integrity"]
    assert isinstance(integrity, dict)
    # There is no vocabulary file for the echo engine.
    assert (integrity["status"], integrity["token_ids"]) == ("verified", "not_checked")


@pytest.mark.parametrize(("required", "strategy"), [(False, "template"), (True, "rules")])
async def test_a_missing_receipt_is_unverified_or_a_violation(
    tmp_path: Path, *, required: bool, strategy: str
) -> None:
    liar = Liar(tmp_path / "liar", gives_no_receipt)
    settings = settings_for(tmp_path, require_receipts=required)
    async with running(settings, liar) as started:
        response = await started.enhance({"prompt": PROMPT})
        quarantined = started.service.worker_state() == "quarantined"
    assert response.json()["enhancement_strategy"] == strategy
    status = metadata(response)["integrity"]["status"]  # type: ignore[index]  # JSON
    assert (status, quarantined) == (
        ("not_applicable", True) if required else ("unverified", False)
    )


def statuses(data_dir: Path) -> list[str]:
    sql = "SELECT integrity_status FROM enhancement_logs ORDER BY created_at"
    return [str(status) for (status,) in query(data_dir, sql)]
