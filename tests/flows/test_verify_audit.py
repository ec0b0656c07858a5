from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from onbook.adapters.chaining import Chain
from onbook.adapters.database.log_rows import CHAIN_COLUMNS, ROW_COLUMNS
from onbook.adapters.memory.audit_trail import MemoryAuditTrail
from onbook.adapters.memory.clock import FixedClock
from onbook.flows.audit_digests import content_of, relinked
from onbook.flows.audit_findings import Finding, TrustRoots
from onbook.flows.checkpoints import CheckpointedHeads, write_checkpoint
from onbook.ports.audit import AuditedRow, StoredCheckpoint
from onbook.ports.stores import StoreUnavailable
from onbook.wire.audit_chain import content_sha256
from onbook.wire.audit_checkpoint import decoded_checkpoint
from support_audit import (
    AT,
    GATEWAY,
    ROOTS,
    STRANGER,
    WORKER,
    Log,
    filled,
    memory_log,
    own_keys,
    request,
    request_id,
)

Named = set[tuple[str, int | None]]


def trail(log: Log) -> MemoryAuditTrail:
    assert isinstance(log.trail, MemoryAuditTrail)
    return log.trail


def at(log: Log, number: int) -> int:
    """Return where the row of a request stands in the memory of the trail."""
    rows = trail(log).stored
    return next(i for i, row in enumerate(rows) if row.request_id == request_id(number))


def edit(log: Log, number: int, **changes: object) -> None:
    place, rows = at(log, number), trail(log).stored
    columns = {name: value for name, value in changes.items() if name in CHAIN_COLUMNS}
    content = {name: value for name, value in changes.items() if name in ROW_COLUMNS}
    row = replace(rows[place], **columns)  # type: ignore[arg-type]  # a test's own field names
    rows[place] = replace(row, content={**row.content, **content})


def delete(log: Log, *numbers: int) -> None:
    gone = {request_id(number) for number in numbers}
    trail(log).stored[:] = [row for row in trail(log).stored if row.request_id not in gone]


async def found(log: Log) -> list[Finding]:
    return (await log.check())[0]


async def named(log: Log) -> Named:
    return {(item.kind, item.seq) for item in await found(log)}


async def test_a_sound_log_has_no_findings() -> None:
    log = await filled(memory_log())
    findings, summary = await log.check()
    assert findings == []
    assert (summary.chains, summary.rows, summary.checkpoints) == (2, 12, 2)
    assert (summary.receipts, summary.texts, summary.templates) == (12, 12, 1)
    assert (summary.groups_signed, summary.last_checkpoint) == (5, 2)
    assert summary.covered_until == "2026-11-23T09:00:12.000250+00:00"
    assert summary.checkpointed_until == "2026-11-23T09:02:00.000250+00:00"
    assert summary.signed_by == {GATEWAY.signer(AT).key_id}
    assert summary.unconfirmed_worker_keys == set()


# Requests 1 to 5 and 8 to 10 are rows 1 to 8 of the first chain, in groups that end at 1, 5 and 8;
# 6, 7, 11 and 12 are the second chain, in groups that end at 2 and 4.
@pytest.mark.parametrize(
    ("gone", "expected"),
    [
        ((3,), {("row_missing", 3)}),
        ((2, 3), {("row_missing", 2)}),
        ((5,), {("row_missing", 5)}),
        ((1,), {("row_missing", 1)}),
        ((10,), {("head_missing", 8)}),
        ((8, 9, 10), {("head_missing", 6)}),
        ((2, 3, 4, 5), {("row_missing", 2)}),
        ((6, 7, 11, 12), {("head_missing", 1)}),
    ],
)
async def test_rows_that_were_deleted(gone: tuple[int, ...], expected: Named) -> None:
    log = await filled(memory_log())
    delete(log, *gone)
    assert await named(log) == expected
    assert (await found(log))[0].count == len(gone)


async def test_the_tail_of_a_group_without_a_checkpoint() -> None:
    log = memory_log()
    await log.trail.add_signing_keys(own_keys(GATEWAY, WORKER), at=AT)
    await log.group(log.chain(), [request(1), request(2), request(3)])
    delete(log, 3)
    assert await named(log) == {("row_missing", 3)}


async def test_rows_that_were_swapped() -> None:
    log = await filled(memory_log())
    edit(log, 3, seq=4)
    edit(log, 4, seq=3)
    assert await named(log) == {("row_reordered", 3), ("row_reordered", 4)}


async def test_contents_that_were_swapped() -> None:
    log = await filled(memory_log())
    rows, (one, two) = trail(log).stored, (at(log, 3), at(log, 4))
    a, b = rows[one], rows[two]
    rows[one], rows[two] = replace(a, content=b.content), replace(b, content=a.content)
    assert await named(log) == {("row_changed", 3), ("row_changed", 4)}


async def test_a_row_that_was_copied() -> None:
    log = await filled(memory_log())
    copy = trail(log).stored[at(log, 3)]
    trail(log).stored.append(replace(copy, content={**copy.content, "id": "z", "request_id": "z"}))
    assert [(item.kind, item.seq, item.request_id) for item in await found(log)] == [
        ("row_inserted", 3, "z")
    ]
    end = trail(log).stored[at(log, 5)]
    trail(log).stored[-1] = replace(end, content={**end.content, "id": "z", "request_id": "z"})
    assert ("row_inserted", 5) in await named(log)


async def test_a_row_that_was_put_behind_the_end() -> None:
    log = await filled(memory_log())
    last = trail(log).stored[at(log, 10)]
    forged = Chain(None)
    heads = {head.chain_id: head for head in await log.trail.heads()}
    forged.committed(heads[log.chains[0]])
    content = {**last.content, "request_id": "z", "id": "z"}
    place = forged.extension([content_sha256(content)]).places[0]
    trail(log).stored.append(
        AuditedRow(content=content, **dict(zip(CHAIN_COLUMNS, place, strict=True)))  # type: ignore[arg-type]  # as the columns are
    )
    assert await named(log) == {("group_unsigned", 9)}


def rehashed(log: Log, chain_id: str) -> None:
    """Compute every hash of a chain anew, as somebody without a key can."""
    rows = [row for row in trail(log).stored if row.chain_id == chain_id]
    rows.sort(key=lambda row: row.seq or 0)
    chain = Chain(None)
    chain._head = type(chain._head)(chain_id=chain_id)
    start = 0
    while start < len(rows):
        end = rows[start].group_end or 0
        group = rows[start:end]
        extension = chain.extension([content_sha256(row.content) for row in group])
        for row, place in zip(group, extension.places, strict=True):
            trail(log).stored[trail(log).stored.index(row)] = replace(
                row, prev_hash=place[2], row_hash=place[4]
            )
        chain.committed(extension.head)
        start = end


async def test_a_chain_that_was_hashed_anew_without_a_key() -> None:
    log = await filled(memory_log())
    edit(log, 2, caller="somebody else")
    rehashed(log, log.chains[0])
    assert await named(log) >= {
        ("signature_invalid", 5),
        ("signature_invalid", 8),
        ("head_changed", 5),
        ("head_changed", 8),
    }


async def test_a_row_whose_own_hash_was_computed_anew_is_named_alone() -> None:
    log = await filled(memory_log())
    edit(log, 3, caller="somebody else")
    row = trail(log).stored[at(log, 3)]
    edit(log, 3, row_hash=relinked(row, content_of(row), seq=3, prev_hash=row.prev_hash))
    assert await named(log) == {("row_changed", 3)}


async def test_signatures_that_were_taken_away_or_moved() -> None:
    log = await filled(memory_log())
    edit(log, 5, signing_key_id=None, head_signature=None)
    assert await named(log) == {("group_unsigned", 5)}
    other = trail(log).stored[at(log, 10)]
    edit(log, 5, signing_key_id=other.signing_key_id, head_signature=other.head_signature)
    assert await named(log) == {("signature_invalid", 5)}
    edit(log, 5, head_signature=None)
    assert await named(log) == {("signature_invalid", 5)}


async def test_a_log_without_signatures_says_so() -> None:
    log = memory_log()
    await log.trail.add_signing_keys(own_keys(WORKER), at=AT)
    chain = log.chain(None)
    await log.group(chain, [request(1), request(2)])
    assert await named(log) == {("group_unsigned", 2)}


async def test_a_key_in_the_database_alone_proves_nothing() -> None:
    log = memory_log()
    await log.trail.add_signing_keys(own_keys(GATEWAY, WORKER, STRANGER), at=AT)
    chain = log.chain(STRANGER)
    await log.group(chain, [request(1)])
    await log.group(chain, [request(2)])
    await log.checkpoint(by=STRANGER)
    findings = await found(log)
    assert [item.kind for item in findings] == ["key_untrusted", "key_untrusted"]
    assert all("--trust" in item.sentence for item in findings)
    roots = TrustRoots(gateways=[STRANGER.published[0].public_key], published=ROOTS.published)
    assert (await log.check(roots))[0] == []


async def test_a_worker_that_signs_heads_is_not_believed() -> None:
    log = memory_log()
    await log.trail.add_signing_keys(own_keys(GATEWAY, WORKER), at=AT)
    await log.group(log.chain(WORKER), [request(1)])
    assert {item.kind for item in await found(log)} == {"key_untrusted"}


async def test_a_rotated_key_is_trusted_through_the_one_before_it() -> None:
    rotated = GATEWAY.rotated(not_before=AT)
    log = memory_log()
    await log.trail.add_signing_keys(own_keys(rotated, WORKER), at=AT)
    await log.group(log.chain(rotated), [request(1)])
    assert await found(log) == []


async def test_a_receipt_by_a_key_that_nobody_knows_or_only_the_database() -> None:
    log = memory_log()
    await log.group(log.chain(), [request(1), request(2)])
    without = TrustRoots(published=own_keys(GATEWAY))
    findings, summary = await log.check(without)
    assert [(item.kind, item.seq) for item in findings] == [("receipt_key_unknown", 1)]
    assert summary.receipts_unchecked == 2
    await log.trail.add_signing_keys(own_keys(WORKER), at=AT)
    findings, summary = await log.check(without)
    assert findings == []
    assert summary.unconfirmed_worker_keys == {WORKER.published[0].public_key}


async def test_a_receipt_whose_signature_does_not_hold() -> None:
    row, texts = request(1)
    assert row.receipt is not None
    forged = row.receipt.replace('"prompt_tokens":12', '"prompt_tokens":13')
    for status, expected in (
        ("verified", {("receipt_signature_invalid", 1)}),
        # There it is the evidence.
        ("violation", set()),
    ):
        log = memory_log()
        await log.trail.add_signing_keys(own_keys(GATEWAY, WORKER), at=AT)
        await log.group(
            log.chain(), [(replace(row, receipt=forged, integrity_status=status), texts)]
        )
        assert await named(log) == expected


async def test_a_refused_text_is_not_there_and_need_not_be() -> None:
    log = memory_log()
    row, texts = request(1, content_mode="refused", output_sha256=None, receipt=None)
    bare = replace(texts, original="", messages=None, raw_output=None, enhanced=None)
    await log.group(log.chain(), [(row, bare)])
    assert await found(log) == []
    trail(log).kept_texts[row.request_id] = replace(bare, original="something")
    assert await named(log) == {("text_digest_mismatch", 1)}


@pytest.mark.parametrize(
    ("change", "kind", "number"),
    [
        (
            lambda one: replace(
                one, signature=("B" if one.signature[0] == "A" else "A") + one.signature[1:]
            ),
            "checkpoint_changed",
            "1",
        ),
        (lambda one: replace(one, body=one.body + " "), "checkpoint_changed", "1"),
        (lambda one: replace(one, created_at=AT), "checkpoint_changed", "1"),
    ],
)
async def test_a_checkpoint_that_was_changed(
    change: Callable[[StoredCheckpoint], StoredCheckpoint], kind: str, number: str
) -> None:
    log = await filled(memory_log())
    kept = trail(log).kept_checkpoints
    kept[1] = change(kept[1])
    assert (kind, number) in {(item.kind, item.name) for item in await found(log)}


async def test_checkpoints_that_were_deleted_or_renumbered() -> None:
    log = await filled(memory_log())
    kept = trail(log).kept_checkpoints
    first = kept.pop(1)
    assert {(item.kind, item.name) for item in await found(log)} == {("checkpoint_missing", "1")}
    kept[1] = replace(kept.pop(2), number=1)
    assert ("checkpoint_changed", "1") in {(item.kind, item.name) for item in await found(log)}
    kept[1] = first
    assert await found(log) == []


async def test_a_checkpoint_names_what_has_moved_and_the_one_before_it() -> None:
    log = await filled(memory_log())
    kept = trail(log).kept_checkpoints
    bodies = [decoded_checkpoint(kept[number].body) for number in (1, 2)]
    assert [len(body.heads) for body in bodies if body] == [2, 2]
    assert await log.checkpoint() is None
    await log.group(log.chains[1], [request(20)])
    third = await log.checkpoint(AT + timedelta(minutes=3))
    assert third is not None
    body = decoded_checkpoint(third.body)
    assert body is not None
    assert [(head.chain_id, head.seq) for head in body.heads] == [(log.chains[1], 5)]
    assert body.previous_sha256 == kept[2].body_sha256
    assert body.issuer == GATEWAY.owner
    assert await found(log) == []


async def test_a_checkpoint_does_not_make_a_shortened_chain_look_whole() -> None:
    log = await filled(memory_log())
    delete(log, 8, 9, 10)
    assert await log.checkpoint(AT + timedelta(minutes=3)) is None
    assert await named(log) == {("head_missing", 6)}


async def test_two_processes_write_checkpoints_in_turn() -> None:
    log = memory_log()
    await log.trail.add_signing_keys(own_keys(GATEWAY, WORKER), at=AT)
    chain, mine = log.chain(), CheckpointedHeads()
    signer, clock = GATEWAY.signer(AT), FixedClock(AT)

    async def written(seen: CheckpointedHeads | None) -> int | None:
        made = await write_checkpoint(log.trail, signer, GATEWAY.owner, clock, seen=seen)
        return None if made is None else made.number

    await log.group(chain, [request(1)])
    assert await written(mine) == 1
    await log.group(chain, [request(2)])
    assert await written(None) == 2
    assert await written(mine) is None
    await log.group(chain, [request(3)])
    assert await written(mine) == 3
    assert await found(log) == []


async def test_a_number_that_was_taken_meanwhile_is_followed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = memory_log()
    await log.trail.add_signing_keys(own_keys(GATEWAY, WORKER), at=AT)
    await log.group(log.chain(), [request(1)])
    store, other = trail(log).add_checkpoint, log.chain()

    async def beaten(checkpoint: StoredCheckpoint) -> bool:
        monkeypatch.setattr(log.trail, "add_checkpoint", store)
        await log.checkpoint()
        await log.group(other, [request(2)])
        return await store(checkpoint)

    monkeypatch.setattr(log.trail, "add_checkpoint", beaten)
    made = await log.checkpoint()
    assert made is not None
    assert made.number == 2
    assert await found(log) == []


async def test_an_outage_is_not_a_finding() -> None:
    log = await filled(memory_log())
    trail(log).available = False
    with pytest.raises(StoreUnavailable):
        await log.check()
