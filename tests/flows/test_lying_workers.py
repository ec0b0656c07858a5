from collections.abc import Callable
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
from onbook.worker.identity import load_or_create_key
from server import query
from support import embedded_worker, metadata, running, settings_for

PROMPT = "a cat in a garden"
Lie = Callable[["Liar", Completion], Completion]


class Liar:
    """A real worker with a real key between whose hands and the gateway something is changed."""

    def __init__(self, data_dir: Path, lie: Lie) -> None:
        self.worker = embedded_worker(settings_for(data_dir))
        self.key = load_or_create_key(data_dir)
        self._inner = InProcessWorker(self.worker.app, self.worker.app.info, key=None)
        self._lie = lie
        self.worker_id: str | None = self.worker.app.info.worker_id
        self.public_key: str | None = self.worker.app.info.public_key
        self.model_sha256: str | None = self.worker.app.info.model.file_sha256
        self.before: Receipt | None = None
        self.change: Callable[[InferenceRequest], InferenceRequest] = lambda request: request

    async def infer(
        self,
        endpoint: Endpoint,
        request: InferenceRequest,
        *,
        timeout_s: float,
    ) -> Completion:
        honest = await self._inner.infer(endpoint, self.change(request), timeout_s=timeout_s)
        return self._lie(self, honest)

    async def ready(self) -> bool:
        return True

    async def close(self) -> None:
        await self.worker.close()


def with_receipt(answer: Completion, **changes: object) -> Completion:
    assert answer.receipt is not None
    receipt = msgspec.structs.replace(answer.receipt, **changes)
    return replaced(answer, receipt=receipt)


def replaced(answer: Completion, **changes: object) -> Completion:
    values = {name: getattr(answer, name) for name in Completion.__dataclass_fields__}
    return Completion(**{**values, **changes})


def edits_the_output(_liar: Liar, answer: Completion) -> Completion:
    return replaced(answer, text=answer.text + ", masterpiece")


def edits_output_and_digest(_liar: Liar, answer: Completion) -> Completion:
    text = answer.text + ", masterpiece"
    return replaced(with_receipt(answer, output_sha256=sha256_of_text(text)), text=text)


def replays_an_old_receipt(liar: Liar, answer: Completion) -> Completion:
    liar.before, old = answer.receipt, liar.before
    return answer if old is None else replaced(answer, receipt=old)


def signs_with_another_key(_liar: Liar, answer: Completion) -> Completion:
    assert answer.receipt is not None
    return replaced(answer, receipt=signed(answer.receipt, Ed25519PrivateKey.generate()))


def admits_added_text(_liar: Liar, answer: Completion) -> Completion:
    return with_receipt(answer, added_text="You are a helpful assistant.")


def resigned(liar: "Liar", answer: Completion, **changes: object) -> Completion:
    """Lie with the worker's own, good key."""
    assert answer.receipt is not None
    receipt = msgspec.structs.replace(answer.receipt, **changes)
    return replaced(answer, receipt=signed(receipt, liar.key))


def swaps_the_model(liar: "Liar", answer: Completion) -> Completion:
    liar.model_sha256 = "1" * 64
    return resigned(liar, answer, model_sha256="0" * 64)


def speaks_for_another_worker(liar: "Liar", answer: Completion) -> Completion:
    return resigned(liar, answer, worker_id="somebody-else")


def renders_in_another_way(liar: "Liar", answer: Completion) -> Completion:
    return resigned(liar, answer, rendering="raw")


def counts_other_tokens(liar: "Liar", answer: Completion) -> Completion:
    return resigned(liar, answer, prompt_tokens=1)


def hides_the_cut_off(_liar: Liar, answer: Completion) -> Completion:
    return with_receipt(answer, finish_reason="length")


def gives_no_receipt(_liar: Liar, answer: Completion) -> Completion:
    return replaced(answer, receipt=None)


def tells_the_truth(_liar: Liar, answer: Completion) -> Completion:
    return answer


@pytest.mark.parametrize(
    "lie",
    [
        edits_the_output,
        edits_output_and_digest,
        signs_with_another_key,
        admits_added_text,
        hides_the_cut_off,
        swaps_the_model,
        speaks_for_another_worker,
        renders_in_another_way,
        counts_other_tokens,
    ],
)
async def test_a_lie_is_caught_and_its_text_thrown_away(tmp_path: Path, lie: Lie) -> None:
    await _caught(Liar(tmp_path / "liar", lie), tmp_path)


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


@pytest.mark.parametrize(
    "change",
    [
        prepends_a_system_prompt,
        drops_the_first_message,
        changes_the_temperature,
        drops_the_grammar,
    ],
)
async def test_an_edit_on_the_way_to_the_worker_is_caught(
    tmp_path: Path, change: Callable[[InferenceRequest], InferenceRequest]
) -> None:
    liar = Liar(tmp_path / "liar", tells_the_truth)
    liar.change = change
    await _caught(liar, tmp_path)


async def _caught(liar: Liar, tmp_path: Path) -> None:
    async with running(settings_for(tmp_path), liar) as started:
        response = await started.enhance({"prompt": PROMPT})
        refused = await started.enhance({"prompt": PROMPT, "allow_fallback": False})
        metrics = (await started.http.get("/metrics")).text
        statuses = _statuses(tmp_path)
    assert response.json()["enhancement_strategy"] == "rules"
    assert "masterpiece" not in response.json()["enhanced_prompt"]
    assert metadata(response)["fallback_level"] == 3
    assert (refused.status_code, refused.json()["error_code"]) == (502, PurityViolation.code)
    assert "onbook_purity_violations_total 2.0" in metrics
    assert statuses == ["violation", "violation"]


async def test_an_honest_worker_is_verified(tmp_path: Path) -> None:
    liar = Liar(tmp_path / "liar", tells_the_truth)
    async with running(settings_for(tmp_path), liar) as started:
        response = await started.enhance({"prompt": PROMPT})
    assert metadata(response)["integrity"]["status"] == "verified"  # type: ignore[index]  # JSON


@pytest.mark.parametrize(("required", "strategy"), [(False, "template"), (True, "rules")])
async def test_a_missing_receipt_is_unverified_or_a_violation(
    tmp_path: Path, *, required: bool, strategy: str
) -> None:
    liar = Liar(tmp_path / "liar", gives_no_receipt)
    settings = settings_for(tmp_path, require_receipts=required)
    async with running(settings, liar) as started:
        response = await started.enhance({"prompt": PROMPT})
    assert response.json()["enhancement_strategy"] == strategy
    status = metadata(response)["integrity"]["status"]  # type: ignore[index]  # JSON
    assert status == ("not_applicable" if required else "unverified")


def _statuses(data_dir: Path) -> list[str]:
    sql = "SELECT integrity_status FROM enhancement_logs ORDER BY created_at"
    return [str(status) for (status,) in query(data_dir, sql)]
