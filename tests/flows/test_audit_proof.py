import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onbook.adapters.memory.audit_trail import MemoryAuditTrail
from onbook.adapters.memory.clock import FixedClock
from onbook.flows.audit_proof import NotProvable, RequestUnknown, export_proof
from onbook.flows.verify_proof import ProofReport, verify_proof
from onbook.ports.audit import TemplateEvent
from onbook.wire.audit_proof import (
    AuditProof,
    HeadSignature,
    ProofUnreadable,
    decoded_proof,
    encoded_proof,
    sealed_bytes,
)
from support_audit import (
    AT,
    GATEWAY,
    STRANGER,
    WORKER,
    Log,
    filled,
    memory_log,
    own_keys,
    request,
    request_id,
)

KEY = GATEWAY.published[0].public_key
WORKER_KEY = WORKER.published[0].public_key
CLOCK = FixedClock(AT + timedelta(hours=1))


async def exported(log: Log, number: int = 3, *, with_texts: bool = True) -> AuditProof:
    return await export_proof(log.trail, request_id(number), GATEWAY, CLOCK, with_texts=with_texts)


async def empty_log() -> Log:
    log = memory_log()
    await log.trail.add_signing_keys(own_keys(GATEWAY, WORKER), at=AT)
    return log


def read_back(proof: AuditProof) -> AuditProof:
    return decoded_proof(encoded_proof(proof))


async def test_a_proof_stands_alone() -> None:
    proof = read_back(await exported(await filled(memory_log())))
    report = verify_proof(proof, [KEY], [WORKER_KEY])
    assert report.sound
    assert report.trusted is True
    assert set(report.signed_by.values()) == {KEY}
    assert len(report.signed_by) == 3
    text = " ".join(report.proved)
    for part in (request_id(3), "number 3", "Checkpoint 1", WORKER.owner, "template", "texts"):
        assert part in text
    assert any("can sign a lie" in sentence for sentence in report.not_proved)


async def test_without_a_named_key_the_reader_is_told_to_compare() -> None:
    report = verify_proof(await exported(await filled(memory_log())))
    assert report.sound
    assert report.trusted is None
    assert any("--trust" in sentence for sentence in report.not_proved)


async def test_a_key_that_was_not_named_is_refused() -> None:
    stranger = STRANGER.published[0].public_key
    report = verify_proof(await exported(await filled(memory_log())), [stranger])
    assert not report.sound
    assert report.trusted is False
    assert report.proved == []
    report = verify_proof(await exported(await filled(memory_log())), [KEY], [stranger])
    assert not report.sound


async def test_a_later_key_is_trusted_through_its_endorsement() -> None:
    log = await filled(memory_log())
    rotated = GATEWAY.rotated(not_before=AT)
    proof = await export_proof(log.trail, request_id(3), rotated, CLOCK)
    assert proof.seal.key_id != proof.receipt.head.key_id
    assert verify_proof(proof, [KEY]).sound


async def test_texts_only_on_demand_and_not_in_the_sentences() -> None:
    log = await filled(memory_log())
    row, texts = request(3)
    bare = encoded_proof(await exported(log, with_texts=False))
    whole = encoded_proof(await exported(log))
    assert texts.enhanced is not None
    for text in (texts.original, texts.enhanced, texts.salt):
        assert f'"{text}"'.encode() not in bare
        assert f'"{text}"'.encode() in whole
    report = verify_proof(decoded_proof(whole))
    assert texts.enhanced not in str(report)
    assert row.caller in json.loads(bare)["statement"].values()


async def test_of_other_requests_there_are_digests_only() -> None:
    proof = encoded_proof(await exported(await filled(memory_log()), with_texts=False)).decode()
    for number in range(1, 13):
        assert (request_id(number) in proof) == (number == 3)


async def test_a_proof_in_a_large_group_is_small() -> None:
    log = await empty_log()
    chain = log.chain()
    await log.group(chain, [request(number) for number in range(1, 257)])
    await log.checkpoint()
    proof = await exported(log, 1, with_texts=False)
    assert len(proof.receipt.path) == 255
    assert len(encoded_proof(proof)) < 60_000


async def test_a_row_without_a_checkpoint_is_proved_by_its_group() -> None:
    log = await empty_log()
    await log.group(log.chain(), [request(1), request(2)])
    proof = await exported(log, 1)
    assert proof.checkpoint is None
    report = verify_proof(proof, [KEY])
    assert report.sound
    assert any("checkpoint" in sentence for sentence in report.not_proved)


async def test_a_checkpoint_too_far_away_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    log = await empty_log()
    chain = log.chain()
    for number in range(1, 6):
        await log.group(chain, [request(number)])
    await log.checkpoint()
    monkeypatch.setattr("onbook.flows.audit_proof.MAX_PATH", 3)
    assert (await exported(log, 1)).checkpoint is None
    cover = (await exported(log, 2)).checkpoint
    assert cover is not None
    assert [group.group_end for group in cover.path] == [3, 4, 5]


async def test_a_worker_whose_key_nobody_kept_proves_nothing() -> None:
    log = memory_log()
    await log.group(log.chain(), [request(1)])
    report = verify_proof(await exported(log, 1, with_texts=False), [KEY])
    assert report.sound
    assert any("not in the file" in sentence for sentence in report.not_proved)


async def test_a_refused_receipt_is_evidence_and_need_not_hold() -> None:
    log = memory_log()
    row, texts = request(1, integrity_status="violation", receipt='{"worker_id":"w"}')
    await log.group(log.chain(), [(row, texts)])
    report = verify_proof(await exported(log, 1, with_texts=False))
    assert report.sound
    assert any("refused" in sentence for sentence in report.proved)


async def test_what_cannot_be_proved_is_not_exported() -> None:
    log = await filled(memory_log())
    assert isinstance(log.trail, MemoryAuditTrail)
    with pytest.raises(RequestUnknown):
        await export_proof(log.trail, "none", GATEWAY, CLOCK)
    sound = list(log.trail.stored)
    at = next(i for i, row in enumerate(sound) if row.request_id == request_id(3))
    row = sound[at]
    for changed, why in (
        (replace(row, content={**row.content, "caller": "x"}), "not the one"),
        (replace(row, chain_id=None), "no chain"),
        (replace(row, group_end=None), "group ends"),
        (replace(row, group_end=10**12), "group ends"),
        (replace(row, group_end=700), "missing"),
    ):
        log.trail.stored = [*sound[:at], changed, *sound[at + 1 :]]
        with pytest.raises(NotProvable, match=why):
            await exported(log)
    unsigned = memory_log()
    await unsigned.group(unsigned.chain(None), [request(1)])
    with pytest.raises(NotProvable, match="not signed"):
        await exported(unsigned, 1)


def paths(value: object, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield (*at, name)
            yield from paths(inner, (*at, name))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield (*at, place)
            yield from paths(inner, (*at, place))


def changed(value: object, how: int) -> object:
    """Return another value of the same kind, or of another."""
    if how == 1:
        return "x" if value is None else None
    match value:
        case None:
            other: object = "x"
        case bool():
            other = not value
        case int() | float():
            other = value + 1
        case str():
            other = value[:-1] + chr(ord(value[-1]) ^ 1) if value else "x"
        case list():
            other = value[:-1] or ["x"]
        case _:
            other = {**value, "added": 1}  # type: ignore[dict-item]  # what is left is an object
    return other


@pytest.fixture(scope="module")
def sound_file() -> dict[str, Any]:
    async def make() -> bytes:
        log = await filled(memory_log())
        await log.trail.add_signing_keys(own_keys(GATEWAY.rotated(not_before=AT)), at=AT)
        return encoded_proof(await exported(log))

    found: dict[str, Any] = json.loads(asyncio.run(make()))
    assert outcome(found) == "holds"
    return found


def outcome(data: object) -> str:
    try:
        report: ProofReport = verify_proof(
            decoded_proof(json.dumps(data).encode()), [KEY], [WORKER_KEY]
        )
    except ProofUnreadable:
        return "unreadable"
    return "holds" if report.sound else "refused"


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_change_anywhere_in_the_file_is_refused(
    sound_file: dict[str, Any], data: st.DataObject
) -> None:
    path = data.draw(st.sampled_from(list(paths(sound_file))))
    tampered = json.loads(json.dumps(sound_file))
    place = tampered
    for step in path[:-1]:
        place = place[step]
    how = data.draw(st.integers(0, 2))
    if how == 2:
        del place[path[-1]]
    else:
        place[path[-1]] = changed(place[path[-1]], how)
    assert outcome(tampered) in ("unreadable", "refused"), path


@pytest.mark.parametrize("part", ["statement", "template", "texts", "checkpoint", "receipt"])
async def test_a_seal_by_somebody_else_helps_nobody(part: str) -> None:
    """Whoever changes the file and seals it anew needs a key that is trusted."""
    proof = await exported(await filled(memory_log()))
    if part == "statement":
        tampered = msgspec.structs.replace(proof, statement={**proof.statement, "caller": "x"})
    elif part == "receipt":
        receipt = msgspec.structs.replace(proof.receipt, seq=4)
        tampered = msgspec.structs.replace(proof, receipt=receipt)
    else:
        tampered = msgspec.structs.replace(proof, **{part: None})
    thief = STRANGER.signer(AT)
    keys = [
        *proof.keys,
        msgspec.structs.replace(proof.keys[0], public_key=STRANGER.published[0].public_key),
    ]
    tampered = msgspec.structs.replace(
        tampered, keys=keys, seal=HeadSignature(key_id=thief.key_id, signature="")
    )
    seal = HeadSignature(key_id=thief.key_id, signature=thief.sign(sealed_bytes(tampered)))
    tampered = msgspec.structs.replace(tampered, seal=seal)
    assert not verify_proof(tampered, [KEY]).sound


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[1]", b"\xff", b'{"type": "onbook.audit.proof"}', b"[" * 100_000]
)
def test_what_is_no_proof_is_said_to_be_none(data: bytes) -> None:
    with pytest.raises(ProofUnreadable):
        decoded_proof(data)


@pytest.mark.parametrize(
    "at", ['"statement": {', '"receipt": {', '"template": {', '{\n  "type"', '"texts": {']
)
async def test_a_key_that_is_named_twice_is_refused(at: str) -> None:
    whole = encoded_proof(await exported(await filled(memory_log()))).decode()
    name = next(line for line in whole[whole.index(at) + len(at) :].splitlines() if ":" in line)
    key = "type" if at.startswith("{") else name.split('"')[1]
    place = at if not at.startswith("{") else "{"
    twice = whole.replace(place, f'{place}"{key}": "other", ', 1)
    assert twice != whole
    with pytest.raises(ProofUnreadable):
        decoded_proof(twice.encode())


async def with_event() -> Log:
    log = memory_log()
    stored = log.trail
    assert isinstance(stored, MemoryAuditTrail)
    ((place, evidence),) = stored.templates.items()
    assert evidence.event is not None
    event = {"position": 2, **evidence.event}
    stored.templates[place] = replace(evidence, event=event)
    stored.kept_events += [
        TemplateEvent(position=1, content={"actor": "somebody else"}),
        TemplateEvent(position=2, content=event),
    ]
    return await filled(log)


async def test_an_event_is_proved_where_a_checkpoint_covers_it() -> None:
    log = await with_event()
    proof = read_back(await exported(log))
    report = verify_proof(proof, [KEY])
    assert report.sound
    assert any("covers the event" in sentence for sentence in report.proved)
    assert b"somebody else" not in encoded_proof(proof)
    assert isinstance(log.trail, MemoryAuditTrail)
    log.trail.kept_checkpoints.clear()
    report = verify_proof(read_back(await exported(log)), [KEY])
    assert report.sound
    assert any("no checkpoint in the file covers it" in item for item in report.not_proved)


async def test_an_event_that_was_changed_is_not_exported_as_covered() -> None:
    log = await with_event()
    assert isinstance(log.trail, MemoryAuditTrail)
    ((place, evidence),) = log.trail.templates.items()
    log.trail.templates[place] = replace(
        evidence, event={**(evidence.event or {}), "actor": "mallory"}
    )
    with pytest.raises(NotProvable, match="event"):
        await exported(log)


async def test_what_was_never_a_value_is_not_exported() -> None:
    log = await filled(memory_log())
    assert isinstance(log.trail, MemoryAuditTrail)
    texts = log.trail.kept_texts
    texts[request_id(3)] = replace(texts[request_id(3)], original="\ud800bytes")
    with pytest.raises(NotProvable):
        await exported(log)
