"""Writing signed checkpoints of the audit log."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from onbook.ports.audit import AuditTrail, StoredCheckpoint
from onbook.ports.clock import Clock
from onbook.wire.audit_chain import GENESIS, Head
from onbook.wire.audit_checkpoint import (
    CheckpointBody,
    CoveredEvents,
    decoded_checkpoint,
    encoded_checkpoint,
    event_sha256,
    events_sha256,
)
from onbook.wire.canonical import sha256_of_text
from onbook.wire.signing import Signer, key_id_of, verified

# How often a number that another process has taken is followed by the next one.
_TRIES: Final = 10
# A checkpoint every second for a century; a number beyond that follows none, and somebody put it
# in, to leave no number for the next one.
_MAX_GAP: Final = 2**32
_MAX_SEQ: Final = 2**53 - 1
_HEX: Final = frozenset("0123456789abcdef")


@dataclass(slots=True)
class CheckpointedHeads:
    """How far the checkpoints that were read so far reach: by chain, the highest ``seq``.

    ``events`` is the position of the last event of a template that one covers.

    Kept between two calls, it saves reading every checkpoint again.
    """

    number: int = 0
    body_sha256: str = GENESIS
    reached: dict[str, int] = field(default_factory=dict)
    events: int = 0


async def write_checkpoint(
    trail: AuditTrail,
    signer: Signer,
    issuer: str,
    clock: Clock,
    *,
    seen: CheckpointedHeads | None = None,
) -> StoredCheckpoint | None:
    """Sign the heads and the events that are new since the last checkpoint, and store that.

    A head that stands behind what a checkpoint said of it is left out: the older checkpoint goes
    on to say that rows are missing.

    Args:
        trail: The log.
        signer: Signs.
        issuer: Whose key that is.
        clock: The time of the checkpoint.
        seen: What the last call has read; it is brought up to date.

    Returns:
        The checkpoint; None where nothing has moved, or other processes were always faster.

    Raises:
        StoreUnavailable: the database cannot be read or written.
    """
    seen = CheckpointedHeads() if seen is None else seen
    for _ in range(_TRIES):
        # The heads after the checkpoints: what another process signs meanwhile is signed twice
        # rather than never.
        await _catch_up(trail, seen, signer)
        # Positions of events are in the order of commits, so none comes later behind the last.
        covered = await _new_events(trail, seen.events)
        moved = [
            head
            for head in await trail.heads()
            if _signable(head) and head.seq > seen.reached.get(head.chain_id, 0)
        ]
        if not moved and covered is None:
            return None
        at = clock.now()
        body = CheckpointBody(
            number=seen.number + 1,
            created_at=at.isoformat(timespec="microseconds"),
            issuer=issuer,
            key_id=signer.key_id,
            previous_sha256=seen.body_sha256,
            heads=sorted(moved, key=lambda head: head.chain_id),
            unchained_rows=await trail.unchained_rows(),
            template_events=covered,
        )
        checkpoint = _signed(body, signer, at)
        if await trail.add_checkpoint(checkpoint):
            _note(seen, checkpoint, body)
            return checkpoint
    return None


async def _new_events(trail: AuditTrail, after: int) -> CoveredEvents | None:
    digests: list[str] = []
    through = after
    async for event in trail.events(after=after):
        digests.append(event_sha256(event.content))
        through = event.position
    if not digests:
        return None
    return CoveredEvents(after=after, through=through, sha256=events_sha256(digests))


def _signable(head: Head) -> bool:
    """Tell whether a head can be signed: a row that was put in may say anything of its place."""
    try:
        head.chain_id.encode()
    except UnicodeEncodeError:
        return False
    return 1 <= head.seq <= _MAX_SEQ and len(head.row_hash) == 64 and _HEX.issuperset(head.row_hash)


async def _catch_up(trail: AuditTrail, seen: CheckpointedHeads, signer: Signer) -> None:
    keys: dict[str, str] | None = None
    async for checkpoint in trail.checkpoints(after=seen.number):
        if not seen.number < checkpoint.number <= seen.number + _MAX_GAP:
            continue
        if keys is None:
            keys = {
                key_id_of(key.published.public_key): key.published.public_key
                for key in await trail.signing_keys()
            } | {signer.key_id: signer.public_key}
        _note(seen, checkpoint, _sound_body(checkpoint, keys))


def _sound_body(checkpoint: StoredCheckpoint, keys: Mapping[str, str]) -> CheckpointBody | None:
    """Return what a gateway has signed; what somebody else put in must not count as covered."""
    body = decoded_checkpoint(checkpoint.body)
    public = None if body is None else keys.get(body.key_id)
    if body is None or public is None or body.number != checkpoint.number:
        return None
    data = checkpoint.body.encode("utf-8", "surrogatepass")
    return body if verified(public, checkpoint.signature, data) else None


def _note(
    seen: CheckpointedHeads, checkpoint: StoredCheckpoint, body: CheckpointBody | None
) -> None:
    seen.number = checkpoint.number
    seen.body_sha256 = sha256_of_text(checkpoint.body)
    if body is None:
        return
    for head in body.heads:
        seen.reached[head.chain_id] = max(head.seq, seen.reached.get(head.chain_id, 0))
    if body.template_events is not None:
        seen.events = max(seen.events, body.template_events.through)


def _signed(body: CheckpointBody, signer: Signer, at: datetime) -> StoredCheckpoint:
    text = encoded_checkpoint(body)
    return StoredCheckpoint(
        number=body.number,
        created_at=at,
        body=text,
        body_sha256=sha256_of_text(text),
        signing_key_id=signer.key_id,
        signature=signer.sign(text.encode()),
    )
