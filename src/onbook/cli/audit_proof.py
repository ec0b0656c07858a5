"""``onbook audit export``, ``verify-proof`` and ``checkpoint``."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import typer

from onbook.adapters.clock import SystemClock
from onbook.adapters.database.audit_trail import SqlAuditTrail
from onbook.cli import templates_output as output
from onbook.cli.audit_trust import on_trail, own_ring, public_keys
from onbook.cli.options import fail
from onbook.cli.terminal import visible_line
from onbook.flows.audit_proof import NotProvable, RequestUnknown, export_proof
from onbook.flows.checkpoints import write_checkpoint
from onbook.flows.verify_proof import ProofReport, verify_proof
from onbook.ports.audit import SigningKey, StoredCheckpoint
from onbook.settings import Settings
from onbook.wire.audit_proof import (
    MAX_PROOF_BYTES,
    AuditProof,
    ProofUnreadable,
    decoded_proof,
    encoded_proof,
)


def export_row(settings: Settings, request_id: str, *, with_texts: bool, to: Path | None) -> None:
    """Write the proof for one request to ``to``, or to standard output."""
    ring, clock = own_ring(settings), SystemClock()

    async def work(trail: SqlAuditTrail) -> AuditProof:
        return await export_proof(trail, request_id, ring, clock, with_texts=with_texts)

    try:
        proof = on_trail(settings, work)
    except RequestUnknown:
        fail("the log has no row of this request; an answer's request_id names it.", code=2)
    except NotProvable as error:
        fail(f"the row cannot be proved: {error} 'onbook audit verify' looks at the whole log.")
    if with_texts and proof.texts is None:
        output.note(
            "The texts of this request are not there any more; the proof holds digests only."
        )
    if proof.checkpoint is None:
        output.note("No checkpoint covers the row yet; 'onbook audit checkpoint' writes one.")
    if to is None:
        typer.echo(encoded_proof(proof), nl=False)
        return
    try:
        # It may hold what people said: for its owner only.
        with open(to, "wb", opener=_private) as file:
            file.write(encoded_proof(proof))
    except OSError as error:
        fail(f"{to} cannot be written: {error.strerror}.", code=2)
    output.note(f"Written to {to}.")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def check_proof(file: Path, trust: Sequence[str], workers: Sequence[str], *, as_json: bool) -> None:
    """Print what a proof shows; ends with 1 if it does not hold."""
    roots, worker_roots = public_keys(trust, "--trust"), public_keys(workers, "--trust-worker")
    try:
        with file.open("rb") as opened:
            proof = decoded_proof(opened.read(MAX_PROOF_BYTES + 1))
    except OSError as error:
        fail(f"{file} cannot be read: {error.strerror}.", code=2)
    except ProofUnreadable as error:
        fail(f"{file} cannot be checked: {error}", code=2)
    report = verify_proof(proof, roots, worker_roots)
    if as_json:
        output.as_json({"sound": report.sound, **asdict(report)})
    else:
        _say(report)
    if not report.sound:
        raise typer.Exit(1)


def checkpoint_now(settings: Settings, *, as_json: bool) -> None:
    """Write a checkpoint and print it."""
    ring, clock = own_ring(settings), SystemClock()
    keys = [SigningKey(role="gateway", owner=ring.owner, published=key) for key in ring.published]

    async def work(trail: SqlAuditTrail) -> StoredCheckpoint | None:
        now = clock.now()
        await trail.add_signing_keys(keys, at=now)
        return await write_checkpoint(trail, ring.signer(now), ring.owner, clock)

    written = on_trail(settings, work, writes=True)
    if as_json:
        output.as_json({"checkpoint": None if written is None else _plain(written)})
    elif written is None:
        output.say(
            "Nothing was written: no chain has moved since the last checkpoint, and no template."
        )
    else:
        output.say(
            f"Checkpoint {written.number} is written, signed with key {written.signing_key_id}; "
            f"its SHA-256 is {written.body_sha256}."
        )


def _plain(checkpoint: StoredCheckpoint) -> dict[str, object]:
    plain = asdict(checkpoint)
    plain["created_at"] = checkpoint.created_at.isoformat(timespec="microseconds")
    return plain


def _say(report: ProofReport) -> None:
    if report.sound:
        output.say("The proof holds." if report.trusted else "The proof holds in itself.")
    else:
        output.say("The proof does not hold:")
    for failure in report.failures:
        _item(failure)
    if report.proved:
        output.heading("Proved")
    for sentence in report.proved:
        _item(sentence)
    if report.signed_by:
        output.heading("Signed by")
    for what, key in report.signed_by.items():
        _item(f"{key}: {what}")
    output.heading("Not proved")
    for sentence in report.not_proved:
        _item(sentence)


def _item(sentence: str) -> None:
    output.say(f"  {visible_line(sentence)}")
