"""The digests of a stored row, as fast as a million rows need it.

A quick encoder gives the canonical form of nearly every row. A row whose hash it does not explain
is hashed again by ``wire.canonical`` before anything is said about it; and what it does explain
has the very bytes that were hashed when the row was written.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import msgspec

from onbook.ports.audit import AuditedRow
from onbook.wire.audit_chain import content_sha256, link_hash
from onbook.wire.canonical import CanonicalizationError

_quick: Final = msgspec.json.Encoder(order="sorted")
_SCALARS: Final = frozenset({str, int, float, bool, type(None)})


@dataclass(slots=True, eq=False)
class Hashed:
    """A row with a number, and what its columns hash to now; "" where they have no digest."""

    row: AuditedRow
    seq: int
    content: str
    link: str


def hashed(row: AuditedRow, seq: int) -> Hashed:
    """Return ``row``, which stands at ``seq``, with its digests."""
    content = _quick_content(row.content)
    link = "" if content is None else _quick_link(row, seq, content)
    if content is None or link != row.row_hash:
        content = content_of(row)
        link = relinked(row, content, seq=seq, prev_hash=row.prev_hash)
    return Hashed(row, seq, content, link)


def content_of(row: AuditedRow) -> str:
    """Return the digest of the audited columns; "" if they have none, so were never written."""
    try:
        return content_sha256(row.content)
    except CanonicalizationError:
        return ""


def relinked(row: AuditedRow, content: str, *, seq: int, prev_hash: str | None) -> str:
    """Return the hash that ``row`` would have at ``seq`` behind ``prev_hash``; "" for none."""
    chain_id, group_end = row.chain_id, row.group_end
    if not content or chain_id is None or prev_hash is None or group_end is None:
        return ""
    try:
        return link_hash(chain_id, seq, prev_hash, group_end, content)
    except CanonicalizationError:
        return ""


def _quick_content(content: Mapping[str, object]) -> str | None:
    kinds = set(map(type, content.values()))
    # Bytes would be encoded as text, and then two different rows could have one digest.
    if not kinds <= _SCALARS:
        return None
    if float in kinds:
        # RFC 8785 writes 12.0 as 12.
        content = {
            name: int(value) if type(value) is float and value.is_integer() else value
            for name, value in content.items()
        }
    try:
        return sha256(_quick.encode(content)).hexdigest()
    except (UnicodeEncodeError, ValueError, OverflowError):
        return None


def _quick_link(row: AuditedRow, seq: int, content: str) -> str:
    try:
        encoded = _quick.encode(
            {
                "chain_id": row.chain_id,
                "content_sha256": content,
                "group_end": row.group_end,
                "prev_hash": row.prev_hash,
                "seq": seq,
                "type": "onbook.audit.row",
            }
        )
    except (UnicodeEncodeError, OverflowError):
        return ""
    return sha256(encoded).hexdigest()
