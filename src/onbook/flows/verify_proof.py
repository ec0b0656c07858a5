"""Checking an exported proof, with nothing at hand but the file and a key that one trusts."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

from onbook.domain.templates import mapping_sha256
from onbook.flows.audit_contents import changed_texts, decoded_receipt, receipt_signer, time_of
from onbook.flows.audit_findings import reached_keys
from onbook.ports.stores import EnhancementTexts
from onbook.wire.audit_chain import Head, content_sha256, head_statement, link_hash
from onbook.wire.audit_checkpoint import (
    CheckpointBody,
    decoded_checkpoint,
    event_sha256,
    events_sha256,
)
from onbook.wire.audit_proof import AuditProof, ProvenTemplate, sealed_bytes
from onbook.wire.signing import endorsed_bytes, key_id_of, verified

_GROUP: Final = "the signature of the row's group"
_COLUMNS_READ: Final = (
    "request_id",
    "created_at",
    "content_mode",
    "integrity_status",
    "worker_id",
    "receipt",
    "prompt_sha256",
    "messages_sha256",
    "output_sha256",
    "template_name",
    "template_version",
    "template_sha256",
)


@dataclass(slots=True)
class ProofReport:
    """What a proof shows. ``failures`` empty: everything in it holds.

    ``signed_by`` are the gateways' keys whose signatures hold, by what they sign; ``trusted`` says
    whether each of them leads to a key that was named, and is None where none was.
    """

    request_id: str
    failures: list[str] = field(default_factory=list)
    proved: list[str] = field(default_factory=list)
    not_proved: list[str] = field(default_factory=list)
    signed_by: dict[str, str] = field(default_factory=dict)
    trusted: bool | None = None

    @property
    def sound(self) -> bool:
        """Whether everything in the file holds, and its keys are trusted if any was named."""
        return not self.failures and self.trusted is not False


def verify_proof(
    proof: AuditProof, roots: Collection[str] = (), worker_roots: Collection[str] = ()
) -> ProofReport:
    """Check every part of ``proof``.

    Args:
        proof: The file.
        roots: Public keys of gateways that are trusted, base64; none leaves it to the reader whom
            the keys in the file belong to.
        worker_roots: Likewise of workers.
    """
    report = ProofReport(str(proof.statement.get("request_id")))
    missing = [name for name in _COLUMNS_READ if name not in proof.statement]
    if missing:
        report.failures.append(f"The statement lacks {', '.join(missing)}.")
        return report
    gateways = {
        key_id_of(key.published.public_key): key.published.public_key
        for key in proof.keys
        if key.role == "gateway"
    }
    _check_keys(proof, report)
    _check_signature(
        report,
        gateways,
        "the seal of the file",
        proof.seal.key_id,
        proof.seal.signature,
        sealed_bytes(proof),
    )
    _check_row(proof, gateways, report)
    _check_checkpoint(proof, gateways, report)
    _check_receipt(proof, worker_roots, report)
    _check_template(proof, gateways, report)
    _check_texts(proof, report)
    _check_trust(proof, roots, report)
    if report.failures:
        report.proved.clear()
    _say_limits(proof, report)
    return report


def _check_keys(proof: AuditProof, report: ProofReport) -> None:
    for key in proof.keys:
        published = key.published
        by, endorsement = published.endorsed_by, published.endorsement
        if by is None and endorsement is None:
            continue
        if (
            by is None
            or endorsement is None
            or not verified(by, endorsement, endorsed_bytes(published))
        ):
            report.failures.append(
                f"The endorsement of key {key_id_of(published.public_key)} does not hold."
            )


def _check_signature(
    report: ProofReport,
    gateways: dict[str, str],
    what: str,
    key_id: str,
    signature: str,
    data: bytes,
) -> None:
    public = gateways.get(key_id)
    if public is None:
        report.failures.append(f"The key of {what} is not in the file.")
    elif verified(public, signature, data):
        report.signed_by[what] = public
    else:
        report.failures.append(f"It does not hold: {what}.")


def _check_row(proof: AuditProof, gateways: dict[str, str], report: ProofReport) -> None:
    receipt = proof.receipt
    row_hash = link_hash(
        receipt.chain_id,
        receipt.seq,
        receipt.prev_hash,
        receipt.group_end,
        content_sha256(proof.statement),
    )
    if row_hash != receipt.row_hash:
        report.failures.append("The row is not the one that its hash was taken of.")
    if len(receipt.path) != receipt.group_end - receipt.seq:
        report.failures.append("The path does not lead to the end of the row's group.")
    head = Head(chain_id=receipt.chain_id, seq=receipt.group_end, row_hash=_group_hash(proof))
    _check_signature(
        report,
        gateways,
        _GROUP,
        receipt.head.key_id,
        receipt.head.signature,
        head_statement(head, receipt.head.key_id),
    )
    if _GROUP in report.signed_by:
        report.proved.append(
            f"A gateway wrote this row, number {receipt.seq} of chain {receipt.chain_id}, for "
            f"request {report.request_id}, and signed it with key {receipt.head.key_id}; no column "
            "of it has changed since."
        )


def _group_hash(proof: AuditProof) -> str:
    """Return the hash that the row and its path give for the end of the group."""
    receipt = proof.receipt
    return _along(
        receipt.chain_id,
        receipt.seq,
        receipt.row_hash,
        ((receipt.group_end, digest) for digest in receipt.path),
    )


def _along(chain_id: str, seq: int, row_hash: str, path: Iterable[tuple[int, str]]) -> str:
    for group_end, digest in path:
        seq += 1
        row_hash = link_hash(chain_id, seq, row_hash, group_end, digest)
    return row_hash


def _check_checkpoint(proof: AuditProof, gateways: dict[str, str], report: ProofReport) -> None:
    cover = proof.checkpoint
    if cover is None:
        report.not_proved.append(
            "That a checkpoint covers the row: the file holds none, because none was written yet "
            "or the next one is too far from the row."
        )
        return
    body = decoded_checkpoint(cover.body)
    if body is None:
        report.failures.append("The checkpoint cannot be read.")
        return
    what = f"the signature of checkpoint {body.number}"
    data = cover.body.encode("utf-8", "surrogatepass")
    _check_signature(report, gateways, what, body.key_id, cover.signature, data)
    if not _leads_to(proof, body):
        report.failures.append("The path does not lead from the row to the checkpoint.")
    elif what in report.signed_by:
        report.proved.append(
            f"Checkpoint {body.number}, written at {body.created_at} and signed with key "
            f"{body.key_id}, covers the row."
        )


def _leads_to(proof: AuditProof, body: CheckpointBody) -> bool:
    receipt, cover = proof.receipt, proof.checkpoint
    ends = [receipt.group_end]
    for group in cover.path if cover else ():
        ends.append(ends[-1] + len(group.contents))
        if group.group_end != ends[-1] or not group.contents:
            return False
    steps = (
        (group.group_end, digest)
        for group in (cover.path if cover else ())
        for digest in group.contents
    )
    row_hash = _along(receipt.chain_id, receipt.group_end, _group_hash(proof), steps)
    head = Head(chain_id=receipt.chain_id, seq=ends[-1], row_hash=row_hash)
    return head in body.heads


def _check_receipt(proof: AuditProof, worker_roots: Collection[str], report: ProofReport) -> None:
    stored = proof.statement["receipt"]
    if stored is None:
        report.not_proved.append("What a worker executed: the row has no receipt of one.")
        return
    if proof.statement["integrity_status"] == "violation":
        report.proved.append(
            "The gateway refused the worker's answer; the receipt in the row is kept as evidence "
            "of that, and need not hold."
        )
        return
    receipt = decoded_receipt(stored) or {}
    published = [key.published for key in proof.keys if key.role == "worker"]
    signer = receipt_signer(receipt, [key.public_key for key in published])
    named = receipt.get("key_id")
    if signer is None and named not in [key_id_of(key.public_key) for key in published]:
        report.not_proved.append(
            f"What a worker executed: the key {named}, which its receipt names, is not in the file."
        )
        return
    if signer is None or receipt.get("worker_id") != proof.statement["worker_id"]:
        report.failures.append("The worker's receipt is not signed with the key that it names.")
        return
    key_id, worker = key_id_of(signer), receipt["worker_id"]
    if worker_roots and signer not in reached_keys(published, worker_roots):
        report.failures.append(
            f"The worker's receipt is signed with key {key_id}, which none of the named keys of "
            "workers leads to."
        )
        return
    model = receipt.get("model_sha256") or "none"
    report.proved.append(
        f"Worker {worker} signed the receipt in the row with key {key_id}: it states the digests "
        f"of the request and of the model's text, the sampling, the model file ({model}), and "
        f"what it added to the messages ({str(receipt.get('added_text'))!r})."
    )
    if not worker_roots:
        report.not_proved.append(
            f"That key {key_id} is the worker's: the gateway says so; name it with --trust-worker "
            "to know it yourself."
        )


def _check_template(proof: AuditProof, gateways: dict[str, str], report: ProofReport) -> None:
    template, statement = proof.template, proof.statement
    if template is None:
        report.not_proved.append("The template's text: the file does not hold it.")
        return
    which = f"version {statement['template_version']} of template {statement['template_name']}"
    if mapping_sha256(template.content) != statement["template_sha256"]:
        report.failures.append(f"The content in the file is not that of {which}.")
        return
    report.proved.append(f"The content in the file is that of {which}, which the row names.")
    event = template.event
    if event is None:
        report.not_proved.append("Who made the template live: no event says so.")
    elif (event.get("template_name"), event.get("to_version")) != (
        statement["template_name"],
        statement["template_version"],
    ) or time_of(event) > time_of(statement):
        report.failures.append("The event in the file is not the one that made the template live.")
    else:
        report.proved.append(
            f"By the record of gateway {proof.issuer}, {event.get('actor')} {event.get('action')} "
            f"it at {event.get('created_at')}."
        )
        _check_event_cover(template, event, gateways, report)


def _check_event_cover(
    template: ProvenTemplate,
    event: dict[str, object],
    gateways: dict[str, str],
    report: ProofReport,
) -> None:
    cover = template.checkpoint
    if cover is None:
        report.not_proved.append(
            "That the event which made the template live was not changed before the export: no "
            "checkpoint in the file covers it."
        )
        return
    body = decoded_checkpoint(cover.body)
    covered = body.template_events if body else None
    if body is None or covered is None:
        report.failures.append("The checkpoint of the template's event cannot be read.")
        return
    what = f"the signature of checkpoint {body.number}, which covers the template's event"
    data = cover.body.encode("utf-8", "surrogatepass")
    _check_signature(report, gateways, what, body.key_id, cover.signature, data)
    if event_sha256(event) not in cover.digests or events_sha256(cover.digests) != covered.sha256:
        report.failures.append("The template's event is not one that the checkpoint covers.")
    elif what in report.signed_by:
        report.proved.append(
            f"Checkpoint {body.number}, written at {body.created_at}, covers the event: it has "
            "not changed since."
        )


def _check_texts(proof: AuditProof, report: ProofReport) -> None:
    if proof.texts is None:
        report.not_proved.append(
            "What the texts said: the file holds digests of them and not the texts. Those of the "
            "prompt and of the answer are salted; that of the messages, and those that the worker "
            "signed, are not: whoever guesses a whole text can confirm it."
        )
        return
    given = proof.texts
    texts = EnhancementTexts(
        request_id=report.request_id,
        created_at=time_of({"created_at": given.created_at}),
        salt=given.salt,
        original=given.original,
        messages=given.messages,
        raw_output=given.raw_output,
        enhanced=given.enhanced,
    )
    changed = changed_texts(proof.statement, decoded_receipt(proof.statement["receipt"]), texts)
    if changed:
        report.failures += [f"The {which} in the file is not the row's." for which in changed]
    else:
        report.proved.append("The texts in the file are those of the request.")


def _check_trust(proof: AuditProof, roots: Collection[str], report: ProofReport) -> None:
    if not roots:
        return
    trusted = reached_keys([key.published for key in proof.keys if key.role == "gateway"], roots)
    strange = {what: key for what, key in report.signed_by.items() if key not in trusted}
    report.trusted = not strange and not report.failures
    report.failures += [
        f"The key of {what}, {key}, is none that you named, and none that it endorses."
        for what, key in strange.items()
    ]


def _say_limits(proof: AuditProof, report: ProofReport) -> None:
    if report.trusted is None:
        report.not_proved.append(
            "Whose keys these are: compare them with what the operator publishes, and name the one "
            "that you trust with --trust."
        )
    if report.failures:
        return
    if proof.statement["receipt"] is not None:
        report.not_proved.append(
            "That the worker told the truth: without a trusted execution environment, a worker "
            "that holds its key and lies can sign a lie."
        )
    report.not_proved.append("That the times are right: they are the gateway's own clock.")
    report.not_proved.append(
        "Anything about other requests, or that the log is complete: 'onbook audit verify' looks "
        "at that."
    )
