"""Quarantine: who gets requests, and what lets a worker back in."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onbook.domain.worker_health import Quarantine, Trouble, WorkerStanding

NOW = datetime(2026, 11, 24, tzinfo=UTC)
LATER = datetime(2026, 11, 25, tzinfo=UTC)


def violated(record: Quarantine, at: float, now: datetime = NOW) -> Quarantine:
    return record.violated(("nonce",), now=now, at=at, seconds=300)


def test_a_trusted_worker_gets_every_request() -> None:
    record = Quarantine()
    assert not record.in_force
    assert record.admission(0) == record.admission(1e9) == "open"
    assert record.ends_in(0) is None


def test_a_violation_keeps_requests_away_until_the_time_is_over() -> None:
    record = violated(Quarantine(), at=1000)
    assert record.in_force
    assert [record.admission(at) for at in (1000, 1299.9)] == ["refused", "refused"]
    assert record.admission(1300) == "trial"
    assert (record.ends_in(1100), record.ends_in(1400)) == (200, 0)
    assert (record.violations, record.mismatches, record.since) == (1, ("nonce",), NOW)


def test_while_one_request_is_on_trial_the_others_wait() -> None:
    record = violated(Quarantine(), at=0).on_trial(until=340)
    assert record.admission(310) == "refused"
    # A trial that never ended does not keep the worker out for ever.
    assert record.admission(340) == "trial"
    assert record.without_result().admission(310) == "trial"


def test_a_trial_that_passed_ends_the_quarantine_and_keeps_the_count() -> None:
    record = violated(Quarantine(), at=0).on_trial(until=340).passed()
    assert record.admission(0) == "open"
    assert (record.violations, record.mismatches, record.since) == (1, ("nonce",), None)


def test_a_trial_that_failed_begins_another_and_the_beginning_stays() -> None:
    record = violated(violated(Quarantine(), at=0).on_trial(until=340), at=310, now=LATER)
    assert record.admission(320) == "refused"
    assert record.admission(609) == "refused"
    assert record.admission(610) == "trial"
    assert (record.violations, record.since) == (2, NOW)


@given(st.lists(st.sampled_from(["violated", "trial", "nothing", "passed"]), max_size=30))
def test_only_a_passed_trial_lets_requests_in_again(steps: list[str]) -> None:
    record, at = violated(Quarantine(), at=0), 0.0
    for step in steps:
        at += 200
        match step:
            case "violated":
                record = violated(record, at)
            case "trial" if record.admission(at) == "trial":
                record = record.on_trial(at + 40)
            case "nothing":
                record = record.without_result()
            case "passed":
                record = record.passed()
                assert record.admission(at) == "open"
                record = violated(record, at)
        assert record.in_force
        assert record.admission(at) in ("refused", "trial")
    assert record.violations >= 1 + steps.count("violated")


def test_a_worker_is_usable_when_it_is_healthy_and_trusted() -> None:
    def standing(*, healthy: bool, quarantine: Quarantine) -> WorkerStanding:
        return WorkerStanding(
            worker_id="w",
            model_sha256=None,
            healthy=healthy,
            checked_at=None,
            quarantine=quarantine,
            ends_in_s=None,
        )

    assert standing(healthy=True, quarantine=Quarantine()).usable
    assert not standing(healthy=False, quarantine=Quarantine()).usable
    assert not standing(healthy=True, quarantine=violated(Quarantine(), at=0)).usable


@pytest.mark.parametrize(
    ("healthy", "trouble", "quarantined", "state"),
    [
        (True, None, False, "ok"),
        (False, None, False, "unavailable"),
        # One that is away now says nothing of whom it would let in.
        (False, "refused", False, "unavailable"),
        (True, "refused", False, "refused"),
        (True, "untrusted", False, "untrusted"),
        (False, None, True, "quarantined"),
        (True, "refused", True, "quarantined"),
        # The reason of the quarantine says more than the quarantine.
        (True, "untrusted", True, "untrusted"),
    ],
)
def test_the_state_is_what_stands_in_the_way(
    *, healthy: bool, trouble: Trouble | None, quarantined: bool, state: str
) -> None:
    record = Quarantine()
    standing = WorkerStanding(
        worker_id="w",
        model_sha256=None,
        healthy=healthy,
        checked_at=None,
        quarantine=violated(record, at=0) if quarantined else record,
        ends_in_s=None,
        trouble=trouble,
    )
    assert (standing.state, standing.usable) == (state, state == "ok")
