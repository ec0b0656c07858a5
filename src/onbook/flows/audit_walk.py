"""Walking one chain of the audit log: every row in its place, every group signed.

Rows are looked at a group at a time, from its signed end backwards: what the signature covers
names the hash of the row before it, so that the row that was changed is named and not its
neighbour.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from onbook.flows.audit_digests import Hashed, hashed, relinked
from onbook.flows.audit_findings import AuditSummary, Finding, FindingKind, KeyBook, Report
from onbook.ports.audit import AuditedRow
from onbook.wire.audit_chain import GENESIS, Head, head_statement
from onbook.wire.canonical import CanonicalizationError
from onbook.wire.signing import verified

# More than any group holds; bounds what a forged end of a group can make us keep.
_MAX_GROUP: Final = 1024
# How many changed rows of a group are compared with each other to find out what was swapped.
_MAX_SWAPS: Final = 32


@dataclass(frozen=True, slots=True)
class CheckpointedHead:
    """What a checkpoint says of one row: its hash."""

    row_hash: str
    number: int


@dataclass(slots=True)
class _End:
    """The last row that was looked at. ``sound`` False: its hash is not to be relied on."""

    seq: int = 0
    row_hash: str = GENESIS
    sound: bool = True
    group_end: int = 0


class ChainWalk:
    """Takes the rows of one chain in order and reports what is wrong with them.

    Args:
        chain_id: Which chain.
        keys: The gateways' keys.
        heads: What checkpoints say of rows of this chain, by ``seq``.
        report: Is told of each finding.
        summary: Is counted up.
    """

    def __init__(
        self,
        chain_id: str,
        keys: KeyBook,
        heads: Mapping[int, CheckpointedHead],
        report: Report,
        summary: AuditSummary,
    ) -> None:
        self._chain_id = chain_id
        self._keys = keys
        self._heads = heads
        self._report = report
        self._summary = summary
        self._group: list[Hashed] = []
        self._end = _End()
        self._newest_seen = 0
        self._untrusted: set[str] = set()
        self._blamed: set[int] = set()

    def take(self, row: AuditedRow) -> None:
        """Look at the next row."""
        self._summary.rows += 1
        seq = row.seq
        if seq is None or seq < 1:
            self._tell("row_changed", row, "its number in the chain is none that was given")
            return
        self._group.append(hashed(row, seq))
        signed = row.signing_key_id is not None or row.head_signature is not None
        if signed or row.group_end == seq or len(self._group) >= _MAX_GROUP:
            self._close()

    def finish(self) -> None:
        """Look at what is left, and at what should have come."""
        if self._group:
            self._close()
        end, newest = self._end, max(self._heads, default=0)
        missing_to = max(end.group_end, newest)
        if missing_to <= end.seq:
            return
        why = (
            f"checkpoint {self._heads[newest].number} names row {newest}"
            if newest == missing_to
            else "the last row names them as its group's"
        )
        kind: FindingKind = "head_missing" if newest == missing_to else "row_missing"
        self._missing(kind, end.seq + 1, missing_to, why)

    def _close(self) -> None:
        rows, self._group = self._group, []
        anchor = self._signed_hash(rows[-1])
        self._blamed = set()
        rows = self._in_place(rows, anchor)
        if not rows:
            return
        hashes = self._backwards(rows, anchor)
        first, end = rows[0], self._end
        if first.seq > end.seq + 1:
            self._missing("row_missing", end.seq + 1, first.seq - 1, f"row {first.seq} is there")
        elif end.sound and first.seq not in self._blamed and first.row.prev_hash != end.row_hash:
            self._tell("link_broken", first.row, "it was linked to another row before it")
        for item in rows:
            self._compare_head(item)
        last = rows[-1]
        self._end = _End(
            last.seq,
            hashes[-1],
            last.seq not in self._blamed or anchor is not None,
            last.row.group_end or 0 if last.seq not in self._blamed else 0,
        )
        if anchor is not None:
            self._cover(rows)

    def _signed_hash(self, last: Hashed) -> str | None:
        """Return the hash that the group's signature covers, or None; report what is wrong."""
        row = last.row
        key_id, signature = row.signing_key_id, row.head_signature
        if key_id is None and signature is None:
            if row.group_end == row.seq:
                self._tell("group_unsigned", row, "the last row of its group has no signature")
            return None
        public = self._keys.by_id.get(key_id or "")
        if key_id is None or signature is None:
            self._tell("signature_invalid", row, "a part of its signature is missing")
            return None
        if public is None:
            self._tell_key(row, key_id, "that is not known here")
            return None
        for row_hash in dict.fromkeys((last.link, row.row_hash or "")):
            head = Head(chain_id=self._chain_id, seq=last.seq, row_hash=row_hash)
            if _signed(public, signature, head, key_id):
                break
        else:
            self._tell("signature_invalid", row, "its signature is not over this head of the chain")
            return None
        if public not in self._keys.trusted:
            self._tell_key(row, key_id, f"that nobody vouches for ({public})")
        else:
            self._summary.groups_signed += 1
            self._summary.signed_by.add(key_id)
        return row_hash

    def _in_place(self, rows: list[Hashed], anchor: str | None) -> list[Hashed]:
        """Return one row for each number; report the others."""
        kept: list[Hashed] = []
        for item in rows:
            if item.seq <= self._end.seq:
                self._tell("row_inserted", item.row, "there is another row with its number")
            elif kept and kept[-1].seq == item.seq:
                other = kept[-1]
                # The one that was written still fits itself; of two that do, the signed one.
                if item.link == anchor or (other.link != other.row.row_hash):
                    kept[-1], item = item, other  # noqa: PLW2901 - the other one is told of
                self._tell("row_inserted", item.row, "there is another row with its number")
            else:
                kept.append(item)
        return kept

    def _backwards(self, rows: list[Hashed], anchor: str | None) -> list[str]:
        """Report the rows that were changed; return the hashes that the rows should have."""
        hashes = [item.row.row_hash or "" for item in rows]
        # What the next row, or the signature, says that this one's hash is.
        expected, sure = anchor, anchor is not None
        changed: list[Hashed] = []
        for at in range(len(rows) - 1, -1, -1):
            item = rows[at]
            following = rows[at + 1] if at + 1 < len(rows) else None
            if following is not None and following.seq != item.seq + 1:
                self._missing(
                    "row_missing", item.seq + 1, following.seq - 1, f"row {following.seq} is there"
                )
                expected, sure = None, False
            stored, fits = item.row.row_hash or "", item.link == item.row.row_hash
            if expected is not None and item.link == expected:
                hashes[at] = expected
                if not fits:
                    changed.append(item)
                expected = item.row.prev_hash
            elif expected is not None and fits and not sure and following is not None:
                self._tell("link_broken", following.row, "it was linked to another row before it")
                expected = item.row.prev_hash
            elif expected is None and fits:
                expected = item.row.prev_hash
            else:
                changed.append(item)
                before = rows[at - 1] if at else None
                known = stored == expected
                hashes[at] = expected or stored
                expected = self._before(item, before) if known else None
                sure = False
        self._tell_changed(changed)
        return hashes

    def _before(self, item: Hashed, before: Hashed | None) -> str | None:
        """Return what the hash before a changed row was, or None if that cannot be known.

        Its own hash is as it was, and covers the hash before it; only one of the two was changed.
        """
        if before is None or before.row.row_hash == item.row.prev_hash:
            return item.row.prev_hash
        own = relinked(item.row, item.content, seq=item.seq, prev_hash=before.row.row_hash)
        if own == item.row.row_hash:
            return before.row.row_hash
        self._tell("link_broken", before.row, "the row after it was linked to another one")
        return None

    def _tell_changed(self, changed: list[Hashed]) -> None:
        places = {item.seq for item in changed} if len(changed) <= _MAX_SWAPS else set()
        for item in reversed(changed):
            place = self._own_place(item, places)
            if place is None:
                self._tell(
                    "row_changed", item.row, "a column is not what it was when it was written"
                )
            else:
                self._tell("row_reordered", item.row, f"it was written as row {place}")

    def _own_place(self, item: Hashed, places: set[int]) -> int | None:
        """Return where a row was written that fits another place than its own."""
        near = {item.seq - 1, item.seq + 1}
        for place in sorted((places | near) - {item.seq}):
            link = relinked(item.row, item.content, seq=place, prev_hash=item.row.prev_hash)
            if link and link == item.row.row_hash:
                return place
        return None

    def _compare_head(self, item: Hashed) -> None:
        head = self._heads.get(item.seq)
        if head is not None and item.seq not in self._blamed and head.row_hash != item.link:
            self._tell("head_changed", item.row, f"checkpoint {head.number} has another hash of it")

    def _cover(self, rows: list[Hashed]) -> None:
        if rows[-1].row.signing_key_id not in self._summary.signed_by:
            return
        sound = [item.row for item in rows if item.seq not in self._blamed]
        newest = max((str(row.content["created_at"]) for row in sound), default="")
        self._summary.covered_until = max(self._summary.covered_until or "", newest) or None

    def _missing(self, kind: FindingKind, first: int, last: int, why: str) -> None:
        which = f"Row {first} is" if first == last else f"Rows {first} to {last} are"
        self._report(
            Finding(
                kind=kind,
                sentence=f"{which} missing: {why}.",
                chain_id=self._chain_id,
                seq=first,
                count=last - first + 1,
            )
        )

    def _tell(self, kind: FindingKind, row: AuditedRow, why: str) -> None:
        if row.seq is not None:
            self._blamed.add(row.seq)
        self._report(
            Finding(
                kind=kind,
                sentence=f"{_SUBJECT[kind]}: {why}.",
                chain_id=self._chain_id,
                seq=row.seq,
                request_id=row.request_id,
            )
        )

    def _tell_key(self, row: AuditedRow, key_id: str, why: str) -> None:
        # Once for each key: every later group of it is in the same case.
        if key_id in self._untrusted:
            return
        self._untrusted.add(key_id)
        self._report(
            Finding(
                kind="key_untrusted",
                sentence=f"Groups from row {row.seq} on are signed with a key {why}; name a key "
                "that you trust with --trust.",
                chain_id=self._chain_id,
                seq=row.seq,
                request_id=row.request_id,
                name=key_id,
            )
        )


def _signed(public: str, signature: str, head: Head, key_id: str) -> bool:
    try:
        return verified(public, signature, head_statement(head, key_id))
    except CanonicalizationError:
        # Bytes that are no UTF-8, which nobody has ever signed.
        return False


_SUBJECT: Final[Mapping[str, str]] = {
    "row_changed": "The row was changed",
    "row_reordered": "The row is not in its place",
    "row_inserted": "The row was put in",
    "link_broken": "The link is broken",
    "group_unsigned": "The group is not signed",
    "signature_invalid": "The signature does not hold",
    "head_changed": "The row is not the one that was checkpointed",
}
