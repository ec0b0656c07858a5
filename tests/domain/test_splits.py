"""Traffic splits: who is on which side depends on who asks and for what, and on nothing else."""

from dataclasses import replace
from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st

from onbook.domain.splits import arm_of
from onbook.domain.templates import TemplateKey

KEY = TemplateKey("qwen_instruct", "enhancement", "sfw", "sdxl")
TEXT = st.text(max_size=20)
PERCENT = st.integers(1, 99)
CALLERS = [(f"key {n % 50}", f"user {n}") for n in range(4000)]


def share(key: TemplateKey, percent: int) -> float:
    arms = [arm_of(key, percent, key_id=key_id, user_id=user) for key_id, user in CALLERS]
    return arms.count("candidate") / len(arms)


@given(TEXT, st.none() | TEXT, PERCENT, st.lists(TEXT, max_size=5))
def test_a_caller_stays_on_a_side_whoever_asks_before(
    key_id: str, user_id: str | None, percent: int, others: list[str]
) -> None:
    first = arm_of(KEY, percent, key_id=key_id, user_id=user_id)
    for other in others:
        arm_of(KEY, percent, key_id=other, user_id=user_id)
    assert arm_of(replace(KEY), percent, key_id=key_id, user_id=user_id) == first


@given(TEXT, PERCENT, PERCENT)
def test_who_has_the_candidate_keeps_it_when_the_share_grows(
    key_id: str, one: int, other: int
) -> None:
    few, many = sorted((one, other))
    if arm_of(KEY, few, key_id=key_id, user_id=None) == "candidate":
        assert arm_of(KEY, many, key_id=key_id, user_id=None) == "candidate"


@given(st.sampled_from([1, 5, 20, 50, 80, 99]), st.text("abc", min_size=1, max_size=3))
def test_the_share_of_callers_is_the_percentage(percent: int, model_type: str) -> None:
    # Of 4,000 callers the share deviates by 0.8 % at most (one standard deviation); 4 % is five.
    assert abs(share(replace(KEY, model_type=model_type), percent) - percent / 100) < 0.04


def test_each_template_divides_its_callers_in_a_way_of_its_own() -> None:
    other = replace(KEY, target=None)
    differing = sum(
        arm_of(KEY, 50, key_id=key_id, user_id=user)
        != arm_of(other, 50, key_id=key_id, user_id=user)
        for key_id, user in CALLERS
    )
    assert 0.45 < differing / len(CALLERS) < 0.55


def test_the_hash_is_the_documented_one() -> None:
    """Anyone can work out the side of a caller from what the documentation says."""
    text = "key 7\nuser 7\nqwen_instruct/enhancement/sfw/sdxl"
    bucket = int.from_bytes(sha256(text.encode()).digest()[:8]) % 10_000
    at = bucket // 100
    assert arm_of(KEY, at + 1, key_id="key 7", user_id="user 7") == "candidate"
    assert arm_of(KEY, at, key_id="key 7", user_id="user 7") == "current"
