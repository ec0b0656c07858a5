"""``onbook audit verify``: walking the log, and saying what was found."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

import typer

from onbook.adapters.database.audit_trail import SqlAuditTrail
from onbook.cli import templates_output as output
from onbook.cli.audit_trust import on_trail, trust_roots
from onbook.cli.templates_output import counted
from onbook.cli.terminal import visible_line
from onbook.flows.audit_checkpoints import KeptCheckpoint
from onbook.flows.audit_findings import AuditSummary, Finding
from onbook.flows.verify_audit import verify_audit
from onbook.settings import Settings

# More than anybody reads; JSON has them all.
_SHOWN: Final = 100


def verify_log(
    settings: Settings,
    trust: Sequence[str],
    workers: Sequence[str],
    copies: Sequence[KeptCheckpoint],
    *,
    as_json: bool,
) -> None:
    """Check the log and print what was found; ends with 1 if anything was.

    Ends with 2 where there are only rows from before the chain: nothing says what they were.
    """
    roots = trust_roots(settings, trust, workers)
    kept: list[Finding] = []

    def note(finding: Finding) -> None:
        if as_json or len(kept) < _SHOWN:
            kept.append(finding)

    async def work(trail: SqlAuditTrail) -> AuditSummary:
        return await verify_audit(trail, roots, note, kept=copies)

    summary = on_trail(settings, work)
    total = sum(summary.findings.values())
    if as_json:
        output.as_json(
            {
                "sound": total == 0 and not _unprotected(summary),
                "findings": [asdict(finding) for finding in kept],
                "summary": _plain(summary),
            }
        )
    else:
        _say_findings(kept, total)
        _say_summary(summary)
    if total:
        raise typer.Exit(1)
    if _unprotected(summary):
        raise typer.Exit(2)


def _unprotected(summary: AuditSummary) -> bool:
    return summary.rows_before_the_chain > 0 and not summary.rows


def _plain(summary: AuditSummary) -> dict[str, object]:
    plain = asdict(summary)
    plain["findings"] = dict(summary.findings)
    for name in ("unconfirmed_worker_keys", "signed_by"):
        plain[name] = sorted(plain[name])
    return plain


def _say_findings(found: Sequence[Finding], total: int) -> None:
    for finding in found:
        place = ""
        if finding.chain_id is not None:
            place = f"chain {finding.chain_id} row {finding.seq}: "
        which = "" if finding.request_id is None else f" (request {finding.request_id})"
        output.say(visible_line(f"{finding.kind}: {place}{finding.sentence}{which}"))
    if total > len(found):
        output.say(f"… and {total - len(found)} more; --json shows all of them.")


def _say_summary(summary: AuditSummary) -> None:
    total = sum(summary.findings.values())
    if total:
        output.say(f"Found {counted(total, 'thing')}, see above.")
    elif _unprotected(summary):
        output.say("Nothing in this log is protected: no row of it is in a chain.")
    elif not summary.rows:
        output.say("The log is sound: it has no rows.")
    else:
        output.say("The log is sound.")
    pairs = [
        ("Chains", str(summary.chains)),
        ("Rows", str(summary.rows)),
        ("Groups with a trusted signature", str(summary.groups_signed)),
        ("Checkpoints", str(summary.checkpoints)),
        ("Last checkpoint", str(summary.last_checkpoint or "none")),
        ("Receipts of workers", str(summary.receipts)),
        ("Texts", str(summary.texts)),
        ("Template versions", str(summary.templates)),
        ("Template events in checkpoints", str(summary.template_events)),
        ("Signatures reach until", summary.covered_until or "nowhere"),
        ("Checkpoints reach until", summary.checkpointed_until or "nowhere"),
    ]
    if summary.rows_before_the_chain:
        pairs.append(
            ("Rows from before the chain", f"{summary.rows_before_the_chain}, unprotected")
        )
    if summary.orphaned_texts:
        pairs.append(("Texts without a row", f"{summary.orphaned_texts}, unprotected"))
    if summary.receipts_of_violations:
        pairs.append(("Receipts that were refused then", str(summary.receipts_of_violations)))
    if summary.receipts_unchecked:
        pairs.append(("Receipts by unknown keys", str(summary.receipts_unchecked)))
    if summary.templates_packaged:
        pairs.append(("Packaged templates, not compared", str(summary.templates_packaged)))
    output.facts(pairs)
    for key in sorted(summary.unconfirmed_worker_keys):
        output.note(
            f"Only the database says that {key} is a worker's key; if you know it, name it with "
            "--trust-worker."
        )
    output.note(
        "Not shown: rows that were deleted together at the end of a chain before a checkpoint "
        "named them, and edits by whoever holds the gateway's private key. That the newest "
        "checkpoint was deleted, together with what it named, shows only against a copy that was "
        "kept elsewhere: --checkpoint."
    )
