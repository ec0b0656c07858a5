"""The body of a signed checkpoint: where the chains of the audit log ended at one moment.

Only the heads that have moved since the checkpoint before it are listed. Checkpoints are numbered
without a gap and each names the digest of the one before it, so they are a chain of their own.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec

from onbook.wire.audit_chain import Head
from onbook.wire.canonical import (
    CanonicalizationError,
    canonical_json,
    sha256_hex,
    sha256_of,
    sha256_of_text,
)

CHECKPOINT_TYPE: Final = "onbook.audit.checkpoint"


class CoveredEvents(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The events of templates from the one behind position ``after`` to that at ``through``.

    ``sha256`` is ``events_sha256`` of their digests, in the order of their positions.
    """

    after: int
    through: int
    sha256: str


class CheckpointBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is signed. ``created_at`` is RFC 3339 in UTC; ``issuer`` owns the key ``key_id``.

    ``previous_sha256`` is the SHA-256 of the body before it; ``audit_chain.GENESIS`` in number 1.
    ``unchained_rows`` is how many rows are in no chain: those from before there was one, so that
    there can never be more. ``template_events`` is None where there was no new one.
    """

    number: int
    created_at: str
    issuer: str
    key_id: str
    previous_sha256: str
    heads: list[Head]
    unchained_rows: int | None = None
    template_events: CoveredEvents | None = None
    type: Literal["onbook.audit.checkpoint"] = CHECKPOINT_TYPE


_decoder: Final = msgspec.json.Decoder(CheckpointBody)


def event_sha256(event: Mapping[str, object]) -> str:
    """Return the digest of one event of a template: column name to value.

    One that was edited so that it has no canonical form has a digest too, of how it is written
    in ASCII: it must not keep a checkpoint from being made or looked at.
    """
    try:
        return sha256_of(event)
    except CanonicalizationError:
        return sha256_of_text(ascii(sorted(event.items())))


def events_sha256(digests: Sequence[str]) -> str:
    """Return what a checkpoint has of the digests of several events."""
    return sha256_hex(canonical_json(list(digests)))


def encoded_checkpoint(body: CheckpointBody) -> str:
    """Return the canonical JSON of ``body``, which is what is signed and stored."""
    return canonical_json(body).decode()


def decoded_checkpoint(text: str) -> CheckpointBody | None:
    """Return the body in ``text``, or None where that is no checkpoint."""
    try:
        return _decoder.decode(text)
    except (msgspec.DecodeError, UnicodeError):
        return None
