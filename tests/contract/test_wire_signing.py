"""Key rings: which key is in use, and which keys a chain of endorsements leads to."""

import base64
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from io import StringIO

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from onbook.wire.signing import (
    KeyRing,
    PublishedKey,
    decoded_ring,
    encoded_ring,
    key_id_of,
    new_ring,
    signer_of,
    trusted_keys,
    verified,
)

START = datetime(2026, 11, 24, 10, tzinfo=UTC)
HOUR = timedelta(hours=1)


def ring_of(rotations: int) -> KeyRing:
    ring = new_ring("gateway", at=START)
    for hour in range(1, rotations + 1):
        ring = ring.rotated(not_before=START + hour * HOUR)
    return ring


RING_OF_FIVE = ring_of(4)


def in_use(ring: KeyRing, at: datetime) -> int:
    return [key.public_key for key in ring.published].index(ring.signer(at).public_key)


def test_a_signature_is_good_for_its_data_and_its_key_alone() -> None:
    signer, other = ring_of(0).signer(START), ring_of(0).signer(START)
    signature = signer.sign(b"head")
    assert verified(signer.public_key, signature, b"head")
    assert not verified(signer.public_key, signature, b"heaD")
    assert not verified(other.public_key, signature, b"head")
    assert signer.key_id == key_id_of(signer.public_key) != other.key_id


@pytest.mark.parametrize("wrong", ["", "x", "AAAA", "é", "A" * 86 + "==", "!" * 88])
def test_what_is_no_signature_or_no_key_verifies_nothing(wrong: str) -> None:
    signer = ring_of(0).signer(START)
    assert not verified(signer.public_key, wrong, b"head")
    assert not verified(wrong, signer.sign(b"head"), b"head")


def test_each_key_is_used_from_its_time_on() -> None:
    ring = ring_of(3)
    times = [START + hours * HOUR for hours in (0, 0.99, 1, 1.5, 2, 3, 1000)]
    assert [in_use(ring, at) for at in times] == [0, 0, 1, 1, 2, 3, 3]


def test_before_the_first_keys_time_the_first_one_signs() -> None:
    # A clock that was set back must not leave the log without signatures.
    assert in_use(ring_of(2), START - 1000 * HOUR) == 0


def test_a_rotation_never_comes_before_the_key_it_follows() -> None:
    ring = ring_of(2).rotated(not_before=START)
    assert ring.published[3].not_before == ring.published[2].not_before
    assert in_use(ring, START + 2 * HOUR) == 3


def test_the_owner_stays_and_the_older_keys_stay() -> None:
    before = ring_of(1)
    after = before.rotated(not_before=START + 5 * HOUR)
    assert after.owner == before.owner
    assert after.published[:2] == before.published
    assert after.published[2].endorsed_by == before.published[1].public_key


def test_the_keys_behind_a_root_are_trusted_and_those_before_it_are_not() -> None:
    ring = ring_of(3)
    keys = [key.public_key for key in ring.published]
    for place in range(4):
        assert trusted_keys(ring.published, [keys[place]]) == frozenset(keys[place:])
    assert trusted_keys(ring.published, []) == frozenset()
    stranger = ring_of(0).published[0].public_key
    assert trusted_keys(ring.published, [stranger]) == {stranger}


@given(st.permutations(list(range(5))))
def test_the_order_in_which_keys_are_read_does_not_matter(order: list[int]) -> None:
    # Two rotations may have one ``not_before``, and a database sorts them as it likes.
    published = [RING_OF_FIVE.published[place] for place in order]
    assert trusted_keys(published, [RING_OF_FIVE.published[0].public_key]) == {
        key.public_key for key in published
    }


FIELDS = ("public_key", "not_before", "endorsed_by", "endorsement")


@pytest.mark.parametrize("field", FIELDS)
def test_a_tampered_endorsement_ends_the_chain(field: str) -> None:
    ring = ring_of(3)
    other = ring_of(3).published[2]
    forged = msgspec.structs.replace(ring.published[2], **{field: getattr(other, field)})
    if field == "not_before":
        forged = msgspec.structs.replace(
            ring.published[2], not_before=(START - HOUR).isoformat(timespec="microseconds")
        )
    published = [*ring.published[:2], forged, *ring.published[3:]]
    trusted = trusted_keys(published, [ring.published[0].public_key])
    assert trusted == {key.public_key for key in ring.published[:2]}


def test_an_endorsement_of_another_ring_adds_nothing() -> None:
    mine, theirs = ring_of(1), ring_of(1)
    mixed = [*mine.published, *theirs.published]
    assert trusted_keys(mixed, [mine.published[0].public_key]) == {
        key.public_key for key in mine.published
    }


def test_a_key_cannot_endorse_itself() -> None:
    signer = signer_of(Ed25519PrivateKey.generate())
    alone = PublishedKey(
        public_key=signer.public_key, not_before=START.isoformat(), endorsed_by=signer.public_key
    )
    assert trusted_keys([alone], [ring_of(0).published[0].public_key]).isdisjoint(
        {signer.public_key}
    )


@settings(max_examples=20)
@given(st.integers(0, 4))
def test_a_ring_is_read_back_as_it_was_written(rotations: int) -> None:
    ring = ring_of(rotations)
    assert decoded_ring(encoded_ring(ring)) == ring


@settings(max_examples=60)
@given(st.data())
def test_a_damaged_ring_is_never_taken_for_another(data: st.DataObject) -> None:
    ring = ring_of(1)
    whole = encoded_ring(ring)
    place = data.draw(st.integers(0, len(whole) - 1))
    kind = data.draw(st.sampled_from(["cut", "flip"]))
    broken = (
        whole[:place]
        if kind == "cut"
        else whole[:place]
        + bytes([whole[place] ^ (1 << data.draw(st.integers(0, 7)))])
        + whole[place + 1 :]
    )
    with suppress(ValueError):
        # White space, the owner's name and the public statements may change; keys may not.
        assert key_pairs(decoded_ring(broken)) == key_pairs(ring)


def key_pairs(ring: KeyRing) -> list[tuple[bytes, str]]:
    return [(base64.b64decode(key.private_key), key.published.public_key) for key in ring.keys]


def test_the_error_over_a_damaged_ring_does_not_show_it() -> None:
    ring = ring_of(1)
    with pytest.raises(ValueError, match=r"^not a ring of keys$") as caught:
        decoded_ring(encoded_ring(ring)[:-3])
    assert caught.value.__cause__ is None


def test_a_private_key_that_does_not_fit_its_public_one_is_damage() -> None:
    ring, other = ring_of(0), ring_of(0)
    mixed = msgspec.structs.replace(ring.keys[0], private_key=other.keys[0].private_key)
    for keys in ([mixed], []):
        with pytest.raises(ValueError, match="not a ring of keys"):
            decoded_ring(encoded_ring(msgspec.structs.replace(ring, keys=keys)))


def test_a_ring_can_be_made_around_an_existing_key() -> None:
    key = Ed25519PrivateKey.generate()
    ring = new_ring("worker", at=START, key=key)
    assert ring.signer(START).public_key == signer_of(key).public_key
    assert base64.b64decode(ring.keys[0].private_key) == key.private_bytes_raw()
    assert ring.owner.startswith("worker-")


def test_private_halves_are_never_shown() -> None:
    ring = ring_of(1)
    secrets = [key.private_key for key in ring.keys]
    shown = "".join([repr(ring), repr(ring.keys[0]), str(ring), repr(ring.signer(START))])
    assert "StoredKey" in shown
    assert not any(secret in shown for secret in secrets)
    written = StringIO()
    Console(file=written, width=10_000).print(ring.keys[0])
    assert "StoredKey" in written.getvalue()
    assert not any(secret in written.getvalue() for secret in secrets)
