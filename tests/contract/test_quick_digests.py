"""What the audit log hashes quickly is what the canonical form says."""

import uuid
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy import Boolean, Double, Integer

from onbook.adapters.clock import SystemIds
from onbook.adapters.database.log_rows import ROW_COLUMNS, audited_content, content_digest
from onbook.adapters.database.tables import enhancement_logs
from onbook.wire.audit_chain import GENESIS, content_sha256, link_hash
from onbook.wire.canonical import (
    MAX_SAFE_INTEGER,
    CanonicalizationError,
    canonical_json,
    object_writer,
    sha256_of,
)

_FLOATS = st.one_of(
    st.floats(),
    # Where the layouts of JSON writers differ: whole numbers, small ones, and both ends.
    st.integers(-(2**60), 2**60).map(float),
    st.sampled_from(
        [-0.0, 1e-4, 9.999999999999999e-5, 1e-5, 5e-6, 1e-6, 1e-7, 2.0**53, 1e16, 1e21, 1e22]
    ),
    st.floats(-1e-3, 1e-3),
    st.floats(1e15, 1e17),
)
_INTEGERS = st.integers(-(2**64), 2**64) | st.sampled_from(
    [MAX_SAFE_INTEGER, MAX_SAFE_INTEGER + 1, -MAX_SAFE_INTEGER, -MAX_SAFE_INTEGER - 1]
)


def _cells(name: str) -> st.SearchStrategy[object]:
    kind = enhancement_logs.columns[name].type
    if name == "created_at":
        return st.datetimes(timezones=st.just(UTC)) | st.text(max_size=5)
    if isinstance(kind, Boolean):
        return st.none() | st.booleans()
    if isinstance(kind, Integer):
        return st.none() | _INTEGERS | st.booleans()
    if isinstance(kind, Double):
        return st.none() | _FLOATS | _INTEGERS
    return st.none() | st.text(max_size=20)


@given(st.tuples(*map(_cells, ROW_COLUMNS)))
def test_the_digest_of_a_row_is_that_of_its_canonical_form(values: tuple[object, ...]) -> None:
    try:
        expected = content_sha256(audited_content(values))
    except CanonicalizationError:
        with pytest.raises(CanonicalizationError):
            content_digest(values)
    else:
        assert content_digest(values) == expected


@given(_FLOATS | _INTEGERS | st.booleans() | st.none() | st.text(), st.text() | _FLOATS)
@example(float("inf"), "x")
@example(float("nan"), "x")
@example(2.0**53, '\x7f\u2028\U0001f600"\\\b\x00')
def test_a_prepared_writer_writes_the_canonical_form(number: object, other: object) -> None:
    write = object_writer(["n", "b", "a"], numbers=["n"])
    try:
        expected = canonical_json({"n": number, "b": other, "a": None})
    except CanonicalizationError:
        with pytest.raises(CanonicalizationError):
            write([number, other, None])
    else:
        assert write([number, other, None]) == expected


_DIGESTS = st.text(max_size=10) | st.just(GENESIS)


@given(_DIGESTS, _INTEGERS | st.booleans(), _DIGESTS, _INTEGERS, _DIGESTS)
@example("5f0c", 1, GENESIS, 1, GENESIS)
@example('"\\\n\x7f\x00', 3, '"', 7, "\\")
@example("\ud800", 1, GENESIS, 1, GENESIS)
@example("x", 1, GENESIS, MAX_SAFE_INTEGER + 1, GENESIS)
def test_the_quick_hash_of_a_link_is_that_of_the_canonical_form(
    chain_id: str, seq: int, prev_hash: str, group_end: int, content: str
) -> None:
    place = {
        "type": "onbook.audit.row",
        "chain_id": chain_id,
        "seq": seq,
        "prev_hash": prev_hash,
        "group_end": group_end,
        "content_sha256": content,
    }
    try:
        expected = sha256_of(place)
    except CanonicalizationError:
        with pytest.raises(CanonicalizationError):
            link_hash(chain_id, seq, prev_hash, group_end, content)
    else:
        assert link_hash(chain_id, seq, prev_hash, group_end, content) == expected


def test_identifiers_sort_by_time_and_are_random_otherwise() -> None:
    ids = SystemIds()
    before = int(datetime.now(UTC).timestamp() * 1000)
    made = [uuid.UUID(ids.request_id()) for _ in range(2000)]
    after = int(datetime.now(UTC).timestamp() * 1000)
    times = [one.int >> 80 for one in made]
    assert times == sorted(times)
    assert before <= times[0] <= times[-1] <= after
    assert {(one.version, one.variant) for one in made} == {(7, uuid.RFC_4122)}
    # Each of the 74 random bits is sometimes 0 and sometimes 1.
    random = [(one.int >> 64 & 0xFFF) << 62 | one.int & (1 << 62) - 1 for one in made]
    assert len(set(random)) == 2000
    assert all({value >> bit & 1 for value in random} == {0, 1} for bit in range(74))
