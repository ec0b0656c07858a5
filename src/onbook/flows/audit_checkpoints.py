"""Checking the checkpoints of the audit log, and what they say of its rows and events."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from onbook.flows.audit_findings import AuditSummary, Finding, FindingKind, KeyBook, Report
from onbook.flows.audit_walk import CheckpointedHead
from onbook.ports.audit import AuditTrail, StoredCheckpoint
from onbook.wire.audit_chain import GENESIS
from onbook.wire.audit_checkpoint import (
    CheckpointBody,
    CoveredEvents,
    decoded_checkpoint,
    event_sha256,
    events_sha256,
)
from onbook.wire.canonical import sha256_of_text
from onbook.wire.signing import verified


@dataclass(frozen=True, slots=True)
class KeptCheckpoint:
    """A copy of a checkpoint from elsewhere; ``signature`` None where it was not kept."""

    body: str
    statement: CheckpointBody
    signature: str | None = None


@dataclass(slots=True)
class Statements:
    """What sound checkpoints say.

    ``heads`` are of chains, by ``seq``. ``unchained`` are the number of the last checkpoint that
    counts rows in no chain, and that count. ``events`` are the events of templates, with the
    number of their checkpoint.
    """

    heads: dict[str, dict[int, CheckpointedHead]] = field(default_factory=lambda: defaultdict(dict))
    unchained: tuple[int, int] | None = None
    events: list[tuple[int, CoveredEvents]] = field(default_factory=list)

    def note(self, body: CheckpointBody, report: Report) -> None:
        """Take in what a checkpoint says; report where it contradicts an earlier one."""
        for head in body.heads:
            # The first one that names a row is the one that was written soonest after it.
            self.heads[head.chain_id].setdefault(
                head.seq, CheckpointedHead(head.row_hash, body.number)
            )
        if body.template_events is not None:
            self.events.append((body.number, body.template_events))
        if body.unchained_rows is None:
            return
        if self.unchained is None:
            self.unchained = body.number, body.unchained_rows
        elif body.unchained_rows != self.unchained[1]:
            _tell_count(report, *self.unchained, body.unchained_rows)


async def check_checkpoints(
    trail: AuditTrail,
    keys: KeyBook,
    report: Report,
    summary: AuditSummary,
    kept: Sequence[KeptCheckpoint] = (),
) -> Statements:
    """Report each checkpoint that is missing or changed; return what the sound ones say.

    Args:
        trail: The log.
        keys: The gateways' keys.
        report: Is told of each finding.
        summary: Is counted up.
        kept: Copies from elsewhere. They are believed: a stored one that differs was changed.

    Raises:
        StoreUnavailable: the database cannot be read.
    """
    found = Statements()
    # Taken in first, so that what they say is what the rest is held against.
    for one in sorted(kept, key=lambda one: one.statement.number):
        found.note(one.statement, report)
    copies = {one.body: one for one in kept}
    number, previous = 0, GENESIS
    untrusted: set[str] = set()
    async for checkpoint in trail.checkpoints():
        summary.checkpoints += 1
        if checkpoint.number > number + 1:
            _tell_missing(report, number + 1, checkpoint.number - 1)
        body = decoded_checkpoint(checkpoint.body)
        copy = copies.get(checkpoint.body)
        why = _why_changed(checkpoint, keys) or _unlike(copy, checkpoint)
        if why is None and body is not None:
            if checkpoint.number == number + 1 and body.previous_sha256 != previous:
                why = "the one before it is not the one that it names"
            _tell_trust(checkpoint, keys, untrusted, report)
            if copy is None:
                found.note(body, report)
        if why is None:
            copies.pop(checkpoint.body, None)
            summary.last_checkpoint = checkpoint.number
            if keys.by_id.get(checkpoint.signing_key_id) in keys.trusted:
                summary.checkpointed_until = body.created_at if body else None
        else:
            _tell(report, "checkpoint_changed", checkpoint.number, f"was changed: {why}")
        number = max(number, checkpoint.number)
        # What was signed, where its stored digest is not: the next one names that.
        previous = sha256_of_text(checkpoint.body)
    for missing in copies.values():
        what = "was kept elsewhere, and is not in the log in the same bytes"
        _tell(report, "checkpoint_missing", missing.statement.number, what)
    return found


async def check_events(
    trail: AuditTrail,
    statements: Statements,
    report: Report,
    summary: AuditSummary,
) -> None:
    """Report the events of templates that are not those that a checkpoint covers.

    Raises:
        StoreUnavailable: the database cannot be read.
    """
    for number, covered in statements.events:
        digests: list[str] = []
        async for event in trail.events(after=covered.after):
            if event.position > covered.through:
                break
            digests.append(event_sha256(event.content))
        summary.template_events += len(digests)
        if events_sha256(digests) != covered.sha256:
            report(
                Finding(
                    kind="template_event_changed",
                    sentence="An event of a template was changed, deleted or put in, between "
                    f"positions {covered.after + 1} and {covered.through}: they are not what "
                    f"checkpoint {number} covers.",
                    name=str(number),
                    count=max(len(digests), 1),
                )
            )


def _tell_count(report: Report, number: int, counted: int, now: int, *, later: str = "") -> None:
    report(
        Finding(
            kind="unchained_row" if now > counted else "row_missing",
            sentence=f"Checkpoint {number} counts {counted} rows in no chain, and there are {now}"
            f"{later}; none can come or go.",
            name=str(number),
            count=abs(now - counted),
        )
    )


def check_unchained(statements: Statements, now: int, report: Report) -> None:
    """Report that there are more rows in no chain than there were, or fewer."""
    if statements.unchained is not None and statements.unchained[1] != now:
        _tell_count(report, *statements.unchained, now, later=" now")


def _unlike(copy: KeptCheckpoint | None, checkpoint: StoredCheckpoint) -> str | None:
    if copy is None or copy.signature in (None, checkpoint.signature):
        return None
    return "its signature is not the one that was kept elsewhere"


def _why_changed(checkpoint: StoredCheckpoint, keys: KeyBook) -> str | None:
    body = decoded_checkpoint(checkpoint.body)
    if body is None:
        return "it cannot be read"
    public = keys.by_id.get(checkpoint.signing_key_id)
    checks = (
        (
            sha256_of_text(checkpoint.body) == checkpoint.body_sha256,
            "its digest is not that of its body",
        ),
        (body.number == checkpoint.number, f"it was written as number {body.number}"),
        (body.key_id == checkpoint.signing_key_id, "it names another key"),
        (
            body.created_at == checkpoint.created_at.isoformat(timespec="microseconds"),
            "its time is another one",
        ),
        (
            public is None
            or verified(
                public, checkpoint.signature, checkpoint.body.encode("utf-8", "surrogatepass")
            ),
            "its signature does not hold",
        ),
    )
    return next((why for holds, why in checks if not holds), None)


def _tell_trust(
    checkpoint: StoredCheckpoint, keys: KeyBook, told: set[str], report: Report
) -> None:
    key_id = checkpoint.signing_key_id
    public = keys.by_id.get(key_id)
    if public in keys.trusted or key_id in told:
        return
    told.add(key_id)
    which = "that is not known here" if public is None else f"that nobody vouches for ({public})"
    report(
        Finding(
            kind="key_untrusted",
            sentence=f"Checkpoints from {checkpoint.number} on are signed with a key {which}; "
            "name a key that you trust with --trust.",
            name=key_id,
        )
    )


def _tell_missing(report: Report, first: int, last: int) -> None:
    which = f"Checkpoint {first} is" if first == last else f"Checkpoints {first} to {last} are"
    report(
        Finding(
            kind="checkpoint_missing",
            sentence=f"{which} missing: number {last + 1} is there.",
            name=str(first),
            count=last - first + 1,
        )
    )


def _tell(report: Report, kind: FindingKind, number: int, what: str) -> None:
    report(Finding(kind=kind, sentence=f"Checkpoint {number} {what}.", name=str(number)))
