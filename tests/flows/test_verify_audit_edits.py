"""Edits that leave every row of a chain as it is: beside the chains, in texts and in events."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import cast

import msgspec
import pytest

from onbook.adapters.memory.audit_trail import MemoryAuditTrail
from onbook.flows.audit_checkpoints import KeptCheckpoint
from onbook.flows.audit_contents import salted
from onbook.flows.audit_findings import Finding, TrustRoots
from onbook.flows.checkpoints import CheckpointedHeads, write_checkpoint
from onbook.flows.verify_audit import verify_audit
from onbook.ports.audit import SigningKey, StoredCheckpoint, TemplateEvent
from onbook.ports.stores import EnhancementTexts
from onbook.wire.audit_checkpoint import decoded_checkpoint
from onbook.wire.signing import PublishedKey
from support_audit import (
    AT,
    GATEWAY,
    ROOTS,
    STRANGER,
    WORKER,
    Log,
    audited,
    filled,
    memory_log,
    own_keys,
    request,
    request_id,
)

NOWHERE = (None,) * 7


def trail(log: Log) -> MemoryAuditTrail:
    return cast(MemoryAuditTrail, log.trail)


async def found(log: Log, kept: list[KeptCheckpoint] | None = None) -> list[Finding]:
    told: list[Finding] = []
    await verify_audit(log.trail, ROOTS, told.append, kept=kept or ())
    return told


async def kinds(log: Log, kept: list[KeptCheckpoint] | None = None) -> set[str]:
    return {item.kind for item in await found(log, kept)}


async def started(*rows: int) -> Log:
    """Return a log with ``rows`` from before the chain, and keys."""
    log = memory_log()
    await log.trail.add_signing_keys(own_keys(GATEWAY, WORKER), at=AT)
    for number in rows:
        trail(log).stored.append(audited(request(number)[0], NOWHERE))
    return log


@pytest.mark.parametrize(
    ("seq", "chain_id"), [(0, "c"), (-1, "c"), (2**53, "c"), (None, "c"), (3, None)]
)
async def test_a_row_in_no_possible_place_is_named(seq: int | None, chain_id: str | None) -> None:
    log = await filled(memory_log())
    made = replace(audited(request(90)[0], NOWHERE), seq=seq, chain_id=chain_id)
    trail(log).stored.append(made)
    assert (request_id(90), "unchained_row") in {
        (item.request_id, item.kind) for item in await found(log)
    }


async def test_a_row_that_no_walk_comes_to_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    log = await filled(memory_log())
    rows, hidden = trail(log).heads, log.chains[1]

    async def without() -> object:
        return [head for head in await rows() if head.chain_id != hidden]

    trail(log).kept_checkpoints.clear()
    monkeypatch.setattr(log.trail, "heads", without)
    (finding,) = await found(log)
    assert (finding.kind, finding.count) == ("row_not_walked", 4)


async def test_honest_old_rows_are_explained_by_the_count_of_a_checkpoint() -> None:
    log = await started(500, 501)
    # The clock went back: the first row of the chain is older than those from before it.
    await log.group(log.chain(), [request(1)])
    await log.checkpoint()
    told, summary = await log.check()
    assert told == []
    assert summary.rows_before_the_chain == 2
    checkpoint = trail(log).kept_checkpoints[1]
    body = decoded_checkpoint(checkpoint.body)
    assert body is not None
    assert body.unchained_rows == 2


async def test_rows_beside_the_chains_can_neither_come_nor_go() -> None:
    log = await started(1)
    await log.group(log.chain(), [request(10)])
    await log.checkpoint()
    trail(log).stored.append(audited(request(2)[0], NOWHERE))
    (finding,) = await found(log)
    assert (finding.kind, finding.name, finding.count) == ("unchained_row", "1", 1)
    # A later checkpoint does not make it right.
    await log.group(log.chains[0], [request(11)])
    await log.checkpoint()
    assert await kinds(log) == {"unchained_row"}
    del trail(log).stored[-2], trail(log).stored[0]
    assert "row_missing" in await kinds(log)


async def test_a_checkpoint_that_was_put_in_does_not_stop_the_next() -> None:
    log = await filled(memory_log())
    kept = trail(log).kept_checkpoints
    kept[2**53 - 1] = replace(kept[2], number=2**53 - 1)
    await log.group(log.chains[0], [request(90)])
    made = await log.checkpoint()
    assert made is not None
    assert made.number == 3
    assert "checkpoint_changed" in await kinds(log)


async def test_a_forged_checkpoint_keeps_no_row_from_being_covered() -> None:
    log = await filled(memory_log())
    body = decoded_checkpoint(trail(log).kept_checkpoints[2].body)
    assert body is not None
    far = [msgspec.structs.replace(head, seq=10**6) for head in body.heads]
    forged = msgspec.structs.replace(body, number=3, heads=far)
    signer = STRANGER.signer(AT)
    text = msgspec.json.encode(forged).decode()
    trail(log).kept_checkpoints[3] = replace(
        trail(log).kept_checkpoints[2], number=3, body=text, signature=signer.sign(text.encode())
    )
    await log.group(log.chains[0], [request(90)])
    made = await log.checkpoint()
    assert made is not None
    fourth = decoded_checkpoint(made.body)
    assert fourth is not None
    assert [(head.chain_id, head.seq) for head in fourth.heads] == [(log.chains[0], 9)]


@pytest.mark.parametrize(
    ("steps", "changes", "expected"),
    [
        ("[]", {}, set()),
        ("[]", {"raw_output": "something else"}, {"text_digest_mismatch"}),
        (None, {"raw_output": None}, set()),
        (None, {"raw_output": "something else"}, {"text_digest_mismatch"}),
        ("no steps", {}, {"text_digest_mismatch"}),
    ],
)
async def test_a_raw_output_needs_a_digest(
    steps: str | None, changes: dict[str, str | None], expected: set[str]
) -> None:
    log = await started()
    row, texts = request(1, receipt=None, output_steps=steps)
    texts = replace(texts, raw_output=texts.enhanced)
    await log.group(log.chain(), [(row, replace(texts, **changes))])  # type: ignore[arg-type]  # texts
    assert await kinds(log) == expected


@pytest.mark.parametrize(
    ("kept", "expected"),
    [("␀", set()), ("␀!", {"text_digest_mismatch"}), ("?", {"text_digest_mismatch"})],
)
async def test_a_raw_output_with_u0000_is_held_against_the_rows_own_digest(
    kept: str, expected: set[str]
) -> None:
    log = await started()
    # The worker has signed the digest of what it wrote, with U+0000 in it.
    steps = [{"step": "clean", "before_sha256": salted(f"{1:032x}", "␀"), "after_sha256": "0"}]
    row, texts = request(1, output_steps=json.dumps(steps))
    await log.group(log.chain(), [(row, replace(texts, raw_output=kept))])
    assert await kinds(log) == expected


@pytest.mark.parametrize(
    "change",
    [
        lambda one: replace(one, messages=one.messages.replace('"role"', '"content": "x", "role"')),
        lambda one: replace(one, salt=f" {one.salt}"),
        lambda one: replace(one, created_at=AT),
        lambda one: replace(one, original="\ud800bytes"),
    ],
)
async def test_a_text_has_one_reading(
    change: Callable[[EnhancementTexts], EnhancementTexts],
) -> None:
    log = await filled(memory_log())
    texts = trail(log).kept_texts
    texts[request_id(3)] = change(texts[request_id(3)])
    assert {(item.kind, item.request_id) for item in await found(log)} == {
        ("text_digest_mismatch", request_id(3))
    }


async def test_a_receipt_has_one_reading() -> None:
    log = await started()
    row, texts = request(1)
    assert row.receipt is not None
    twice = row.receipt.replace("{", '{"added_text":"x",', 1)
    await log.group(log.chain(), [(replace(row, receipt=twice), texts)])
    assert await kinds(log) == {"receipt_invalid"}


async def with_events() -> Log:
    log = await started()
    trail(log).kept_events[:] = [
        TemplateEvent(position=at, content={"position": at, "actor": f"admin {at}"})
        for at in (1, 2, 4)
    ]
    await log.group(log.chain(), [request(1)])
    await log.checkpoint()
    trail(log).kept_events.append(TemplateEvent(position=7, content={"actor": "admin 7"}))
    await log.checkpoint()
    return log


async def test_checkpoints_cover_the_events_of_templates_once() -> None:
    log = await with_events()
    told, summary = await log.check()
    assert told == []
    assert summary.template_events == 4
    bodies = [decoded_checkpoint(item.body) for item in trail(log).kept_checkpoints.values()]
    covered = [body.template_events for body in bodies if body and body.template_events]
    assert [(item.after, item.through) for item in covered] == [(0, 4), (4, 7)]
    assert await log.checkpoint() is None


@pytest.mark.parametrize("how", ["change", "delete", "put in", "unreadable"])
async def test_an_event_of_a_template_that_was_changed(how: str) -> None:
    log = await with_events()
    events = trail(log).kept_events
    if how == "delete":
        del events[1]
    elif how == "put in":
        events.append(TemplateEvent(position=3, content={"actor": "somebody"}))
    else:
        actor = "mallory" if how == "change" else b"\xff"
        events[1] = replace(events[1], content={**events[1].content, "actor": actor})
    (finding,) = await found(log)
    assert (finding.kind, finding.name) == ("template_event_changed", "1")


def copy_of(stored: StoredCheckpoint) -> KeptCheckpoint:
    body = decoded_checkpoint(stored.body)
    assert body is not None
    return KeptCheckpoint(stored.body, body, stored.signature)


async def test_a_kept_checkpoint_shows_that_the_end_is_gone() -> None:
    log = await filled(memory_log())
    kept = [copy_of(item) for item in trail(log).kept_checkpoints.values()]
    assert await found(log, kept) == []
    del trail(log).kept_checkpoints[2]
    gone = {request_id(number) for number in (8, 9, 10, 11, 12)}
    trail(log).stored[:] = [row for row in trail(log).stored if row.request_id not in gone]
    assert await found(log) == []
    assert await kinds(log, kept) == {"checkpoint_missing", "head_missing"}


async def test_a_kept_checkpoint_in_other_bytes_is_told_of() -> None:
    log = await filled(memory_log())
    stored = trail(log).kept_checkpoints
    kept = [copy_of(stored[2])]
    assert await kinds(log, [replace(kept[0], signature="AA==")]) >= {"checkpoint_changed"}
    # Written anew by whoever has the key, with another time.
    seen = CheckpointedHeads(number=1, body_sha256=stored[1].body_sha256)
    del stored[2]
    body = decoded_checkpoint(stored[1].body)
    assert body is not None
    seen.reached = {head.chain_id: head.seq for head in body.heads}
    clock = type("Later", (), {"now": lambda _self: AT + timedelta(minutes=9)})()
    await write_checkpoint(log.trail, GATEWAY.signer(AT), GATEWAY.owner, clock, seen=seen)
    assert await found(log) == []
    assert await kinds(log, kept) == {"checkpoint_missing"}


@pytest.mark.parametrize("field", ["public_key", "not_before", "endorsed_by"])
async def test_a_key_that_is_no_text_is_named_and_stops_nothing(field: str) -> None:
    log = await filled(memory_log())
    odd = PublishedKey(**{"public_key": "x", "not_before": "y", field: "\ud800bytes"})
    odd = msgspec.structs.replace(odd, endorsement="AA==", endorsed_by=odd.endorsed_by or "x")
    trail(log).keys["odd"] = SigningKey(role="gateway", owner="o", published=odd, key_id="k")
    assert await kinds(log) == {"key_changed"}


async def test_a_workers_key_of_which_only_the_name_was_known() -> None:
    log = memory_log()
    bare = PublishedKey(public_key=WORKER.published[0].public_key, not_before="")
    known = SigningKey(role="worker", owner=WORKER.owner, published=bare)
    await log.trail.add_signing_keys([*own_keys(GATEWAY), known], at=AT)
    await log.group(log.chain(), [request(1)])
    assert await found(log) == []


async def test_endorsements_are_followed_in_any_order() -> None:
    twice = GATEWAY.rotated(not_before=AT).rotated(not_before=AT)
    log = memory_log()
    await log.trail.add_signing_keys(own_keys(WORKER), at=AT)
    for key in reversed(own_keys(twice)):
        await log.trail.add_signing_keys([key], at=AT)
    await log.group(log.chain(twice), [request(1)])
    roots = TrustRoots(gateways=[GATEWAY.published[0].public_key])
    assert (await log.check(roots))[0] == []
