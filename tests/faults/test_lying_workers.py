"""Workers that lie inside and sign consistently where they can: each lie that shows is caught.

A receipt shows consistency. A worker that signs what it did not do, in every field, cannot be told
from an honest one; the tests of that limit say so in their names.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pytest

from gguf_models import CHATML, CONTROL, tiny_engine
from lying_workers import Liar, Lies, build_liar, stated
from onbook.adapters.tokenizers.gguf_vocabulary import VocabularyUnreadable
from onbook.bootstrap import build_service
from onbook.wire.canonical import sha256_of_text
from onbook.wire.receipt import Receipt, token_ids_sha256
from onbook.wire.worker_api import InferenceRequest, Message
from onbook.worker.engines.llama_cpp import LlamaCppEngine
from onbook.worker.execution import Executed
from server import query
from support import ADMIN_KEY, Running, metadata, running, settings_for

PROMPT = "a cat in a garden"
ADDED = "You are a helpful assistant."


@dataclass(frozen=True, slots=True)
class Model:
    path: Path
    engine: LlamaCppEngine


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """The model that is registered, and whose tokenizer the gateway holds."""
    path = tmp_path_factory.mktemp("registered") / "model.gguf"
    with tiny_engine(path, CHATML) as engine:
        yield Model(path, engine)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """Another model of the same family, with another vocabulary."""
    path = tmp_path_factory.mktemp("swapped") / "model.gguf"
    more = {"<|other|>": CONTROL, **CHATML.special}
    with tiny_engine(path, replace(CHATML, special=more)) as engine:
        yield Model(path, engine)


@pytest.fixture
def liar(model: Model) -> Liar:
    return build_liar(model.engine)


@dataclass(frozen=True, slots=True)
class Scene:
    """A gateway on a worker that may lie, and what can be seen of it from outside."""

    started: Running
    data_dir: Path

    async def enhance(self, **fields: object) -> tuple[str, dict[str, object]]:
        response = await self.started.enhance({"prompt": PROMPT, "seed": 1, **fields})
        meta = metadata(response)
        assert isinstance(meta["integrity"], dict)
        return str(response.json()["enhancement_strategy"]), meta["integrity"]

    async def worker(self) -> dict[str, object]:
        answer = await self.started.http.get(
            "/functions/v1/health-check-workers", headers={"apikey": ADMIN_KEY}
        )
        assert answer.status_code == 200
        (worker,) = answer.json()["workers"]
        assert isinstance(worker, dict)
        return worker

    def rows(self) -> list[tuple[object, ...]]:
        return query(
            self.data_dir,
            "SELECT integrity_status, strategy, fallback_level, error_code, worker_id "
            "FROM enhancement_logs ORDER BY created_at",
        )


@asynccontextmanager
async def scene(
    tmp_path: Path, liar: Liar, model: Model, **options: object
) -> AsyncIterator[Scene]:
    settings = settings_for(tmp_path, verify_model_path=model.path, **options)
    async with running(settings, liar.caller) as started:
        yield Scene(started, tmp_path)


async def caught(
    tmp_path: Path, liar: Liar, model: Model, *mismatches: str, state: str = "quarantined"
) -> None:
    """Expect: thrown away, by rules instead, quarantined with these names, and in the record."""
    async with scene(tmp_path, liar, model) as seen:
        strategy, integrity = await seen.enhance()
        assert (strategy, integrity["status"]) == ("rules", "not_applicable")
        shown = await seen.worker()
        assert shown["mismatches"] == list(mismatches)
        assert (shown["quarantined"], shown["violations"]) == (True, 1)
        assert (shown["state"], shown["usable"]) == (state, False)
        asked = len(liar.engine.saw)
        refused = await seen.started.enhance({"prompt": PROMPT, "allow_fallback": False})
        assert (refused.status_code, refused.json()["error_code"]) == (503, "WORKER_UNAVAILABLE")
        # In quarantine, the worker is not even asked.
        assert len(liar.engine.saw) == asked
        ready = (await seen.started.http.get("/readyz")).json()
        assert (ready["status"], ready["worker"]) == ("ready", state)
        metrics = (await seen.started.http.get("/metrics")).text
    assert "onbook_worker_quarantines_total 1.0" in metrics
    assert "onbook_worker_quarantined 1.0" in metrics
    assert "onbook_purity_violations_total 1.0" in metrics
    first, second = seen.rows()
    assert first == ("violation", "rules", 3, None, liar.worker_id)
    assert (second[0], second[3]) == ("not_applicable", "WORKER_UNAVAILABLE")


async def test_an_honest_worker_is_verified_by_ids_that_the_gateway_computed(
    tmp_path: Path, liar: Liar, model: Model
) -> None:
    async with scene(tmp_path, liar, model) as seen:
        strategy, integrity = await seen.enhance()
        state = await seen.worker()
    assert (strategy, integrity["status"], integrity["token_ids"]) == (
        "template",
        "verified",
        "recomputed",
    )
    assert (state["quarantined"], state["healthy"], state["token_ids"]) == (
        False,
        True,
        "recomputed",
    )


def prepended(messages: Sequence[Message]) -> Sequence[Message]:
    return [Message("system", ADDED), *messages]


def default_instead(messages: Sequence[Message]) -> Sequence[Message]:
    return [Message("system", ADDED), *(turn for turn in messages if turn.role != "system")]


def without_the_oldest(messages: Sequence[Message]) -> Sequence[Message]:
    return messages[1:]


def hotter(asked: InferenceRequest) -> InferenceRequest:
    return msgspec.structs.replace(asked, temperature=1.9, repetition_penalty=1.3)


def improved(executed: Executed) -> Executed:
    return replace(executed, text=executed.text + ", masterpiece")


async def test_a_a_prepended_system_prompt_is_caught_by_its_token_ids(
    tmp_path: Path, liar: Liar, model: Model
) -> None:
    liar.lie(Lies(messages=prepended))
    await caught(tmp_path, liar, model, "prompt_tokens", "token_ids_sha256")


async def test_b_the_models_default_system_text_is_caught_by_its_token_ids(
    tmp_path: Path, liar: Liar, model: Model
) -> None:
    liar.lie(Lies(messages=default_instead))
    await caught(tmp_path, liar, model, "prompt_tokens", "token_ids_sha256")


async def test_c_a_truncated_prompt_is_caught_by_its_token_ids(
    tmp_path: Path, liar: Liar, model: Model
) -> None:
    liar.lie(Lies(ids=lambda ids: ids[:-1]))
    await caught(tmp_path, liar, model, "prompt_tokens", "token_ids_sha256")


async def test_d_changed_sampling_is_caught(tmp_path: Path, liar: Liar, model: Model) -> None:
    liar.lie(Lies(request=hotter))
    await caught(tmp_path, liar, model, "request_sha256", "sampling")


async def test_e_an_output_that_is_edited_after_it_was_signed_is_caught(
    tmp_path: Path, liar: Liar, model: Model
) -> None:
    liar.lie(Lies(answer=improved))
    await caught(tmp_path, liar, model, "output_sha256")


async def test_f_a_replayed_receipt_is_caught(tmp_path: Path, liar: Liar, model: Model) -> None:
    kept: list[Receipt] = []

    def replay(receipt: Receipt) -> Receipt:
        kept.append(receipt)
        return kept[0]

    liar.lie(Lies(statement=replay))
    async with scene(tmp_path, liar, model) as seen:
        first, _ = await seen.enhance()
        second, _ = await seen.enhance()
        state = await seen.worker()
    assert (first, second) == ("template", "rules")
    # Everything that was asked is the same: only the nonce tells, and the digest that covers it.
    assert state["mismatches"] == ["request_sha256", "nonce"]
    assert [row[0] for row in seen.rows()] == ["verified", "violation"]


async def test_g_another_key_is_caught(tmp_path: Path, liar: Liar, model: Model) -> None:
    liar.take_another_key()
    await caught(tmp_path, liar, model, "signature", state="untrusted")


async def test_g_a_rotated_key_that_the_old_one_endorses_is_no_lie(
    tmp_path: Path, liar: Liar, model: Model
) -> None:
    async with scene(tmp_path, liar, model) as seen:
        await seen.enhance()
        liar.keys.rotate()
        strategy, integrity = await seen.enhance()
    assert (strategy, integrity["status"]) == ("template", "verified")


async def test_h_a_swapped_model_file_is_caught(tmp_path: Path, model: Model, other: Model) -> None:
    liar = build_liar(other.engine, shown=model.engine.model)
    await caught(tmp_path, liar, model, "token_ids_sha256", "model_sha256")


async def test_h_a_swapped_model_under_the_old_digest_is_caught_by_its_vocabulary(
    tmp_path: Path, model: Model, other: Model
) -> None:
    liar = build_liar(other.engine, shown=model.engine.model)
    liar.lie(stated(model_sha256=model.engine.model.file_sha256))
    await caught(tmp_path, liar, model, "token_ids_sha256")


def with_messages(change: Callable[[Sequence[Message]], Sequence[Message]]) -> Lies:
    return Lies(
        request=lambda asked: msgspec.structs.replace(asked, messages=list(change(asked.messages)))
    )


def hot_statement(receipt: Receipt) -> Receipt:
    sampling = msgspec.structs.replace(receipt.sampling, temperature=1.9)
    return msgspec.structs.replace(receipt, sampling=sampling)


VARIANTS: list[tuple[Lies, list[str]]] = [
    (with_messages(prepended), ["request_sha256", "prompt_tokens", "token_ids_sha256"]),
    (with_messages(without_the_oldest), ["request_sha256", "prompt_tokens", "token_ids_sha256"]),
    (Lies(messages=without_the_oldest), ["prompt_tokens", "token_ids_sha256"]),
    (Lies(ids=lambda ids: ids[-64:]), ["prompt_tokens", "token_ids_sha256"]),
    (Lies(ids=lambda ids: [*ids[:9], ids[9] ^ 1, *ids[10:]]), ["token_ids_sha256"]),
    (Lies(request=lambda asked: msgspec.structs.replace(asked, max_tokens=7)),
     ["request_sha256", "sampling"]),
    (Lies(request=lambda asked: msgspec.structs.replace(asked, grammar=None)),
     ["request_sha256", "sampling"]),
    (Lies(statement=hot_statement), ["sampling"]),
    (Lies(answer=lambda executed: replace(executed, finish_reason="length")), ["finish_reason"]),
    (Lies(answer=lambda executed: replace(executed, prompt_tokens=1)), ["prompt_tokens"]),
    (stated(prompt_tokens=3), ["prompt_tokens"]),
    (stated(token_ids_sha256=None), ["token_ids_sha256"]),
    (stated(output_sha256=sha256_of_text("something else")), ["output_sha256"]),
    (stated(added_text=ADDED), ["added_text"]),
    (stated(worker_id="worker-of-somebody-else"), ["worker_id"]),
    (stated(rendering="raw"), ["rendering"]),
    (stated(nonce="0" * 32), ["nonce"]),
    (stated(key_id="0" * 16), ["signature"]),
]  # fmt: skip


async def test_each_statement_that_does_not_fit_is_caught_by_its_own_name(
    tmp_path: Path, liar: Liar, model: Model
) -> None:
    # The quarantine is over at once, so that each request is a trial.
    async with scene(tmp_path, liar, model, quarantine_s=1e-9) as seen:
        for lies, mismatches in VARIANTS:
            liar.lie(lies)
            strategy, _ = await seen.enhance()
            state = await seen.worker()
            assert (strategy, state["mismatches"]) == ("rules", mismatches)
        assert state["violations"] == len(VARIANTS)
    assert [row[0] for row in seen.rows()] == ["violation"] * len(VARIANTS)


async def test_a_worker_of_another_model_from_the_start_is_caught(
    tmp_path: Path, model: Model, other: Model
) -> None:
    # It is honest in all it says: only the gateway knows that another model was meant.
    await caught(tmp_path, build_liar(other.engine), model, "model_sha256")


async def test_the_model_may_be_named_by_its_digest_alone(
    tmp_path: Path, liar: Liar, model: Model, other: Model
) -> None:
    for named, strategy in ((model, "template"), (other, "rules")):
        settings = settings_for(
            tmp_path / strategy,
            worker_url="http://127.0.0.1:9",
            model_sha256=(named.engine.model.file_sha256 or "").upper(),
        )
        async with running(settings, liar.caller) as started:
            response = await started.enhance({"prompt": PROMPT})
        assert response.json()["enhancement_strategy"] == strategy


def test_a_file_and_a_digest_of_two_models_are_refused(
    tmp_path: Path, liar: Liar, model: Model
) -> None:
    settings = settings_for(
        tmp_path,
        worker_url="http://127.0.0.1:9",
        verify_model_path=model.path,
        model_sha256="0" * 64,
    )
    with pytest.raises(VocabularyUnreadable, match="name the same model in both"):
        build_service(settings, liar.caller)


async def test_a_rendering_that_nobody_can_check_is_not_called_verified(
    tmp_path: Path, model: Model
) -> None:
    # Honest or not cannot be told: a worker that calls its way to render another name evades.
    liar = build_liar(model.engine, rendering="template")
    async with scene(tmp_path, liar, model) as seen:
        response = await seen.started.enhance({"prompt": PROMPT, "seed": 1})
        state = await seen.worker()
    meta = metadata(response)
    integrity, warnings = meta["integrity"], meta["warnings"]
    assert isinstance(integrity, dict)
    assert isinstance(warnings, list)
    assert (integrity["status"], integrity["token_ids"]) == ("unverified", "not_checked")
    assert any("cannot be checked, and not as 'chatml'" in text for text in warnings)
    assert not state["quarantined"]


async def test_a_worker_that_states_no_model_is_not_called_verified(
    tmp_path: Path, model: Model
) -> None:
    unnamed = msgspec.structs.replace(model.engine.model, file_sha256=None)
    liar = build_liar(model.engine, shown=unnamed)
    liar.lie(stated(model_sha256=None))
    async with scene(tmp_path, liar, model) as seen:
        strategy, integrity = await seen.enhance()
    assert (strategy, integrity["status"]) == ("template", "unverified")


async def test_stated_limit_a_worker_that_signs_the_honest_ids_for_another_prompt_passes(
    tmp_path: Path, liar: Liar, model: Model
) -> None:
    honest: list[list[int]] = []

    def keep(messages: Sequence[Message]) -> Sequence[Message]:
        honest.append(liar.honest.render(messages))
        return prepended(messages)

    def sign_the_honest_ids(receipt: Receipt) -> Receipt:
        ids = honest[-1]
        return msgspec.structs.replace(
            receipt, token_ids_sha256=token_ids_sha256(ids), prompt_tokens=len(ids)
        )

    def tell_the_honest_count(executed: Executed) -> Executed:
        return replace(executed, prompt_tokens=len(honest[-1]))

    liar.lie(Lies(messages=keep, statement=sign_the_honest_ids, answer=tell_the_honest_count))
    async with scene(tmp_path, liar, model) as seen:
        strategy, integrity = await seen.enhance()
    assert liar.engine.saw != honest
    assert (strategy, integrity["status"]) == ("template", "verified")


async def test_stated_limit_an_output_that_is_edited_before_it_is_signed_passes(
    tmp_path: Path, liar: Liar, model: Model
) -> None:
    liar.lie(Lies(said=lambda text: f"{text}, stained glass"))
    async with scene(tmp_path, liar, model) as seen:
        response = await seen.started.enhance({"prompt": PROMPT})
    assert "stained glass" in response.json()["enhanced_prompt"]
    assert metadata(response)["integrity"]["status"] == "verified"  # type: ignore[index]  # JSON


async def test_a_worker_that_is_honest_again_passes_its_trial(
    tmp_path: Path, liar: Liar, model: Model
) -> None:
    liar.lie(Lies(messages=prepended))
    async with scene(tmp_path, liar, model, quarantine_s=1e-9) as seen:
        assert (await seen.enhance())[0] == "rules"
        assert (await seen.worker())["quarantined"] is True
        assert (await seen.enhance())[0] == "rules"
        assert (await seen.worker())["violations"] == 2
        liar.lie(Lies())
        assert (await seen.enhance())[0] == "template"
        state = await seen.worker()
    assert (state["quarantined"], state["violations"]) == (False, 2)
    assert [row[0] for row in seen.rows()] == ["violation", "violation", "verified"]
