"""Exporting one row of the audit log as a proof that stands alone."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import msgspec

from onbook.flows.audit_contents import time_of
from onbook.flows.audit_digests import hashed
from onbook.flows.verify_proof import verify_proof
from onbook.ports.audit import AuditedRow, AuditTrail, SigningKey, StoredCheckpoint
from onbook.ports.clock import Clock
from onbook.wire.audit_checkpoint import decoded_checkpoint, event_sha256
from onbook.wire.audit_proof import (
    MAX_PATH,
    PROOF_TYPE,
    PROOF_VERSION,
    AuditProof,
    CheckpointCover,
    EventCover,
    GroupPath,
    HeadSignature,
    InclusionReceipt,
    OwnedKey,
    ProvenTemplate,
    ProvenTexts,
    sealed_bytes,
)
from onbook.wire.canonical import CanonicalizationError
from onbook.wire.signing import KeyRing, key_id_of


class RequestUnknown(LookupError):
    """The log has no row of this request."""


class NotProvable(ValueError):
    """The row cannot be proved; the message says why, in one or more sentences."""


async def export_proof(
    trail: AuditTrail, request_id: str, ring: KeyRing, clock: Clock, *, with_texts: bool = False
) -> AuditProof:
    """Return the proof for a request, sealed by ``ring``; it has been checked.

    Args:
        trail: The log.
        request_id: Which request.
        ring: The keys of the gateway that exports.
        clock: The time of the export.
        with_texts: Whether the texts go with it, where they are still there.

    Raises:
        RequestUnknown: there is no row.
        NotProvable: the row is in no chain, or not as it was written.
        StoreUnavailable: the database cannot be read.
    """
    row = await trail.row(request_id)
    if row is None:
        raise RequestUnknown(request_id)
    group = await _group(trail, row)
    signer = ring.signer(clock.now())
    proof = AuditProof(
        type=PROOF_TYPE,
        version=PROOF_VERSION,
        exported_at=clock.now().isoformat(timespec="microseconds"),
        issuer=ring.owner,
        statement=dict(row.content),
        receipt=_receipt(row, group),
        checkpoint=await _cover(trail, row),
        keys=await _keys(trail, row, ring),
        template=await _template(trail, row),
        texts=await _texts(trail, row) if with_texts else None,
        seal=HeadSignature(key_id=signer.key_id, signature=""),
    )
    try:
        seal = HeadSignature(key_id=signer.key_id, signature=signer.sign(sealed_bytes(proof)))
        proof = msgspec.structs.replace(proof, seal=seal)
        failures = verify_proof(proof).failures
    except CanonicalizationError:
        raise NotProvable("Something in it is no value that was ever written.") from None
    if failures:
        raise NotProvable(" ".join(failures))
    return proof


async def _group(trail: AuditTrail, row: AuditedRow) -> list[AuditedRow]:
    """Return the rows of the group of ``row``, from that on."""
    chain_id, seq, group_end = row.chain_id, row.seq, row.group_end
    if chain_id is None or seq is None:
        raise NotProvable("The row is in no chain: it is from before there was one.")
    if group_end is None or not seq <= group_end <= seq + MAX_PATH:
        raise NotProvable("The row does not say where its group ends.")
    group = [row]
    if group_end > seq:
        async for later in trail.rows(chain_id, after=seq):
            group.append(later)
            if later.seq == group_end:
                break
    if [item.seq for item in group] != list(range(seq, group_end + 1)):
        raise NotProvable("Rows of its group are missing.")
    return group


def _receipt(row: AuditedRow, group: Sequence[AuditedRow]) -> InclusionReceipt:
    last = group[-1]
    if last.signing_key_id is None or last.head_signature is None:
        raise NotProvable("The group of the row is not signed.")
    return InclusionReceipt(
        chain_id=row.chain_id or "",
        seq=row.seq or 0,
        prev_hash=row.prev_hash or "",
        group_end=row.group_end or 0,
        row_hash=row.row_hash or "",
        path=[hashed(item, item.seq or 0).content for item in group[1:]],
        head=HeadSignature(key_id=last.signing_key_id, signature=last.head_signature),
    )


async def _cover(trail: AuditTrail, row: AuditedRow) -> CheckpointCover | None:
    """Return the first checkpoint that covers the row, if it is near enough."""
    group_end, chain_id = row.group_end or 0, row.chain_id or ""
    found = await _covering(trail, chain_id, group_end)
    if found is None:
        return None
    checkpoint, seq = found
    path: list[GroupPath] = []
    if seq > group_end:
        async for later in trail.rows(chain_id, after=group_end):
            end, digest = later.group_end or 0, hashed(later, later.seq or 0).content
            if path and path[-1].group_end == end:
                path[-1].contents.append(digest)
            else:
                path.append(GroupPath(group_end=end, contents=[digest]))
            if (later.seq or 0) >= seq:
                break
    return CheckpointCover(body=checkpoint.body, signature=checkpoint.signature, path=path)


async def _covering(
    trail: AuditTrail, chain_id: str, group_end: int
) -> tuple[StoredCheckpoint, int] | None:
    async for checkpoint in trail.checkpoints():
        body = decoded_checkpoint(checkpoint.body)
        for head in body.heads if body else ():
            if head.chain_id == chain_id and head.seq >= group_end:
                # Later ones are farther away still.
                return (checkpoint, head.seq) if head.seq - group_end <= MAX_PATH else None
    return None


async def _keys(trail: AuditTrail, row: AuditedRow, ring: KeyRing) -> list[OwnedKey]:
    """Return the gateways' keys, and those of the row's worker."""
    own = [
        SigningKey(role="gateway", owner=ring.owner, published=published)
        for published in ring.published
    ]
    mine = {key.published.public_key for key in own}
    known = [key for key in await trail.signing_keys() if key.published.public_key not in mine]
    worker = row.content.get("worker_id")
    return [
        OwnedKey(role=key.role, owner=key.owner, **msgspec.structs.asdict(key.published))
        for key in (*own, *known)
        if key.key_id in ("", key_id_of(key.published.public_key))
        and (key.role == "gateway" or key.owner == worker)
    ]


async def _template(trail: AuditTrail, row: AuditedRow) -> ProvenTemplate | None:
    content = row.content
    name, version = content["template_name"], content["template_version"]
    if content["template_sha256"] is None or not isinstance(version, int):
        return None
    found = await trail.template(str(name), version, before=time_of(content))
    if found is None:
        return None
    packaged = content["template_source"] == "hardcoded"
    if packaged and found.content_sha256 != content["template_sha256"]:
        # The package's own version with this number need not be the database's.
        return None
    event = None if found.event is None else dict(found.event)
    return ProvenTemplate(
        content=dict(found.content),
        event=event,
        checkpoint=None if event is None else await _event_cover(trail, event),
    )


async def _event_cover(trail: AuditTrail, event: Mapping[str, object]) -> EventCover | None:
    """Return the checkpoint that covers an event, if it covers few enough."""
    position = event.get("position")
    if not isinstance(position, int):
        return None
    async for checkpoint in trail.checkpoints():
        body = decoded_checkpoint(checkpoint.body)
        covered = body.template_events if body else None
        if covered is None or not covered.after < position <= covered.through:
            continue
        digests: list[str] = []
        async for item in trail.events(after=covered.after):
            if item.position > covered.through:
                break
            digests.append(event_sha256(item.content))
            if len(digests) > MAX_PATH:
                return None
        return EventCover(body=checkpoint.body, signature=checkpoint.signature, digests=digests)
    return None


async def _texts(trail: AuditTrail, row: AuditedRow) -> ProvenTexts | None:
    found = (await trail.texts([row.request_id])).get(row.request_id)
    if found is None:
        return None
    values = asdict(found)
    del values["request_id"]
    values["created_at"] = found.created_at.isoformat(timespec="microseconds")
    return ProvenTexts(**values)
