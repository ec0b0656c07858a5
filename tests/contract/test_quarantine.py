"""The watched worker: what it lets through, and what makes it change its mind."""

import asyncio
from dataclasses import replace

import pytest

from onbook.adapters.inference.quarantine import WatchedWorker
from onbook.adapters.memory.clock import FixedClock
from onbook.domain.errors import PurityViolation, WorkerTimeout, WorkerUnavailable
from onbook.ports.inference import Completion, WorkerPromise
from onbook.wire.worker_api import Endpoint, InferenceRequest, Message
from support import FakeWorker, completion

REQUEST = InferenceRequest(messages=[Message("user", "hi")])
SECONDS = 300.0


class Stage:
    """A worker on a clock that the test moves."""

    def __init__(self) -> None:
        self.answer: Completion | Exception = completion("x")
        self.inner = FakeWorker(lambda _endpoint, _request: self.answer)
        self.clock = FixedClock()
        self.violations = 0
        self.watched = WatchedWorker(
            self.inner, quarantine_s=SECONDS, clock=self.clock, on_violation=self._count
        )

    def _count(self) -> None:
        self.violations += 1

    async def infer(self) -> Completion:
        return await self.watched.infer("enhance", REQUEST, timeout_s=30)

    async def judged(self, *mismatches: str) -> None:
        answer = await self.infer()
        assert answer.judged is not None
        answer.judged(mismatches)

    def quarantined(self) -> bool:
        return self.watched.standing().quarantine.in_force


@pytest.fixture
def stage() -> Stage:
    return Stage()


async def test_it_passes_on_what_the_worker_says_of_itself(stage: Stage) -> None:
    stage.inner.model_sha256, stage.inner.public_keys = "m", frozenset({"k"})
    assert stage.watched.worker_id == "fake"
    assert stage.watched.model_sha256 == stage.watched.standing().model_sha256 == "m"
    assert stage.watched.public_keys == {"k"}
    stage.inner.promise = WorkerPromise("token_ids", "chatml", None)
    assert stage.watched.promise is stage.inner.promise
    answer = await stage.infer()
    assert replace(answer, judged=None) == stage.answer


async def test_a_match_changes_nothing(stage: Stage) -> None:
    await stage.judged()
    assert (stage.quarantined(), stage.violations) == (False, 0)
    assert stage.watched.standing().quarantine.violations == 0


async def test_after_a_mismatch_the_worker_is_not_asked(stage: Stage) -> None:
    await stage.judged("nonce", "sampling")
    asked = len(stage.inner.requests)
    stage.clock.advance(SECONDS - 1)
    with pytest.raises(WorkerUnavailable, match="in quarantine") as refused:
        await stage.infer()
    assert refused.value.details == {
        "worker_id": "fake",
        "mismatches": ["nonce", "sampling"],
        "quarantine_ends_in_s": 1.0,
    }
    assert len(stage.inner.requests) == asked
    assert stage.violations == 1


async def test_one_request_is_the_trial_and_the_others_wait_for_its_end(stage: Stage) -> None:
    await stage.judged("nonce")
    stage.clock.advance(SECONDS)
    trial = await stage.infer()
    with pytest.raises(WorkerUnavailable):
        await stage.infer()
    assert stage.quarantined()
    assert trial.judged is not None
    trial.judged(())
    assert not stage.quarantined()
    await stage.judged()


async def test_a_failed_trial_is_another_quarantine(stage: Stage) -> None:
    await stage.judged("nonce")
    stage.clock.advance(SECONDS)
    await stage.judged("output_sha256")
    stage.clock.advance(SECONDS - 1)
    with pytest.raises(WorkerUnavailable):
        await stage.infer()
    standing = stage.watched.standing()
    assert (standing.quarantine.mismatches, stage.violations) == (("output_sha256",), 2)


@pytest.mark.parametrize(
    "failure", [WorkerUnavailable("away"), WorkerTimeout("slow"), RuntimeError("bug")]
)
async def test_a_trial_without_a_result_leaves_room_for_the_next(
    stage: Stage, failure: Exception
) -> None:
    await stage.judged("nonce")
    stage.clock.advance(SECONDS)
    stage.answer = failure
    with pytest.raises(type(failure)):
        await stage.infer()
    assert stage.quarantined()
    stage.answer = completion("x")
    await stage.judged()
    assert not stage.quarantined()


async def test_a_trial_whose_caller_has_gone_leaves_room_for_the_next(stage: Stage) -> None:
    class Hanging(FakeWorker):
        async def infer(
            self, endpoint: Endpoint, request: InferenceRequest, *, timeout_s: float
        ) -> Completion:
            await asyncio.Event().wait()
            return completion("x")

    await stage.judged("nonce")
    stage.clock.advance(SECONDS)
    stage.watched._inner = Hanging(lambda _endpoint, _request: completion("x"))
    trial = asyncio.ensure_future(stage.infer())
    await asyncio.sleep(0)
    trial.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trial
    stage.watched._inner = stage.inner
    await stage.judged()
    assert not stage.quarantined()


async def test_a_trial_that_nobody_judges_does_not_last_for_ever(stage: Stage) -> None:
    await stage.judged("nonce")
    stage.clock.advance(SECONDS)
    await stage.infer()
    with pytest.raises(WorkerUnavailable):
        await stage.infer()
    stage.clock.advance(36)
    await stage.judged()
    assert not stage.quarantined()


async def test_what_was_under_way_before_does_not_end_a_quarantine(stage: Stage) -> None:
    before = await stage.infer()
    await stage.judged("nonce")
    stage.clock.advance(SECONDS)
    assert before.judged is not None
    before.judged(())
    assert stage.quarantined()


async def test_a_worker_that_catches_its_own_engine_is_quarantined_too(stage: Stage) -> None:
    stage.answer = PurityViolation("The worker found that its engine did not see what was sent.")
    with pytest.raises(PurityViolation):
        await stage.infer()
    assert stage.watched.standing().quarantine.mismatches == ("engine",)
    assert stage.violations == 1


async def test_readiness_is_the_workers_word_and_the_gateways_trust(stage: Stage) -> None:
    assert not stage.watched.standing().healthy
    assert await stage.watched.ready()
    standing = stage.watched.standing()
    assert (standing.healthy, standing.checked_at) == (True, stage.clock.now())
    await stage.judged("nonce")
    assert not await stage.watched.ready()
    assert stage.watched.standing().healthy


async def test_a_replaced_worker_is_told_from_one_that_went_wrong(stage: Stage) -> None:
    await stage.judged("worker_id", "signature")
    with pytest.raises(WorkerUnavailable) as refused:
        await stage.infer()
    assert "Another worker answers at this address" in refused.value.suggested_action


async def test_trouble_is_shown_and_keeps_no_request_back(stage: Stage) -> None:
    stage.inner.trouble = "refused"
    assert not await stage.watched.ready()
    assert (stage.watched.trouble, stage.watched.standing().state) == ("refused", "refused")
    # Only a request that is sent can show that it is over.
    await stage.infer()
