"""Walking the whole audit log: chains, signatures, checkpoints, receipts, texts and templates."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Final

from onbook.flows.audit_checkpoints import (
    KeptCheckpoint,
    Statements,
    check_checkpoints,
    check_events,
    check_unchained,
)
from onbook.flows.audit_contents import ContentChecks
from onbook.flows.audit_findings import (
    AuditSummary,
    Finding,
    Report,
    TrustRoots,
    check_keys,
    key_book,
)
from onbook.flows.audit_walk import ChainWalk
from onbook.ports.audit import AuditedRow, AuditTrail

# Rows whose texts are asked for at once.
_BATCH: Final = 500


async def verify_audit(
    trail: AuditTrail,
    roots: TrustRoots,
    report: Report,
    *,
    contents: bool = True,
    kept: Sequence[KeptCheckpoint] = (),
) -> AuditSummary:
    """Check everything; tell ``report`` of each finding as it is found.

    Memory does not grow with rows; it does with checkpoints, some 200 bytes for each head that one
    names.

    Args:
        trail: The log.
        roots: Whose signatures are believed without an endorsement.
        report: Is told of each finding; none means that nothing was changed.
        contents: Also check receipts, texts and templates, and not the chains alone.
        kept: Copies of checkpoints from elsewhere.

    Raises:
        StoreUnavailable: the database cannot be read.
    """
    summary = AuditSummary()

    def tell(finding: Finding) -> None:
        summary.findings[finding.kind] += 1
        report(
            replace(
                finding,
                chain_id=_shown(finding.chain_id),
                request_id=_shown(finding.request_id),
                name=_shown(finding.name),
                sentence=_shown(finding.sentence) or "",
            )
        )

    known = await trail.signing_keys()
    check_keys(known, roots, tell)
    gateways, workers = key_book(known, roots, "gateway"), key_book(known, roots, "worker")
    # In this order: what is appended meanwhile is looked at the next time.
    counts = await trail.counts()
    chains = {head.chain_id: head.seq for head in await trail.heads()}
    said = await check_checkpoints(trail, gateways, tell, summary, kept)
    checks = ContentChecks(trail, workers, tell, summary) if contents else None
    summary.orphaned_texts = counts.orphaned_texts
    began: str | None = None
    walked = 0
    for chain_id in sorted(chains.keys() | said.heads.keys()):
        summary.chains += chain_id in chains
        walk = ChainWalk(chain_id, gateways, said.heads.get(chain_id, {}), tell, summary)
        first, count = await _walk(trail.rows(chain_id), walk, checks, chains.get(chain_id, 0))
        began = min(filter(None, (began, first)), default=None)
        walked += count
        walk.finish()
    walked += await _unchained(trail, began, said, counts.unchained, checks, tell, summary)
    await check_events(trail, said, tell, summary)
    _check_whole(counts.rows - walked, tell, summary)
    return summary


def _check_whole(unseen: int, report: Report, summary: AuditSummary) -> None:
    """Report rows that no walk came to, and chains that nobody has signed."""
    if unseen > 0:
        report(
            Finding(
                kind="row_not_walked",
                sentence=f"{unseen} of the rows that the log counts are in no place that was "
                "walked: the table, or its index, is damaged.",
                count=unseen,
            )
        )
    if summary.rows and not summary.groups_signed and not summary.findings:
        report(
            Finding(
                kind="group_unsigned",
                sentence="There are rows in chains, and no trusted signature over any of them.",
                count=summary.rows,
            )
        )


async def _walk(
    rows: AsyncIterator[AuditedRow], walk: ChainWalk, checks: ContentChecks | None, newest: int
) -> tuple[str | None, int]:
    """Take every row; return the time of the first, and how many come up to number ``newest``."""
    first: str | None = None
    count = 0
    batch: list[AuditedRow] = []
    async for row in rows:
        first = first or str(row.content["created_at"])
        count += (row.seq or 0) <= newest
        walk.take(row)
        if checks is not None:
            batch.append(row)
            if len(batch) >= _BATCH:
                await checks.check(batch)
                batch.clear()
    if checks is not None and batch:
        await checks.check(batch)
    return first, count


async def _unchained(
    trail: AuditTrail,
    began: str | None,
    said: Statements,
    counted: int,
    checks: ContentChecks | None,
    report: Report,
    summary: AuditSummary,
) -> int:
    """Count the rows from before the first chain, and report the others that are in no chain.

    A row that is newer than the chains' first is one, unless a checkpoint counts as many as the
    ``counted`` that there are now: then the clock went back where the chains begin.

    Returns:
        How many came.
    """
    explained = said.unchained is not None and counted <= said.unchained[1]
    batch: list[AuditedRow] = []
    count = loose = named = 0
    async for row in trail.unchained():
        count += 1
        loose += row.chain_id is None
        if row.chained:
            _tell_row(
                report, row, "Of the row's place in a chain, only a part is there, or useless"
            )
        elif explained or began is None or str(row.content["created_at"]) < began:
            summary.rows_before_the_chain += 1
        else:
            named += 1
            _tell_row(
                report, row, "The row is in no chain, though it is newer than the first that is"
            )
        if checks is not None:
            batch.append(row)
            if len(batch) >= _BATCH:
                await checks.check(batch)
                batch.clear()
    if checks is not None and batch:
        await checks.check(batch)
    if said.unchained is None or loose - said.unchained[1] != named or not named:
        check_unchained(said, loose, report)
    return count


def _tell_row(report: Report, row: AuditedRow, what: str) -> None:
    report(
        Finding(
            kind="unchained_row",
            sentence=f"{what}.",
            chain_id=row.chain_id,
            seq=row.seq,
            request_id=row.request_id,
        )
    )


def _shown(text: str | None) -> str | None:
    """Return ``text`` as it can be printed: what was edited may be no UTF-8."""
    return None if text is None else text.encode("utf-8", "backslashreplace").decode()
