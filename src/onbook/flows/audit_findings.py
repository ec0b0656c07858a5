"""What a check of the audit log finds, and whose signatures it believes."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from onbook.ports.audit import Role, SigningKey
from onbook.wire.signing import (
    PublishedKey,
    endorsed_bytes,
    key_id_of,
    trusted_keys,
    verified,
)

FindingKind = Literal[
    "row_changed",
    "row_missing",
    "row_inserted",
    "row_reordered",
    "link_broken",
    "group_unsigned",
    "signature_invalid",
    "key_untrusted",
    "key_changed",
    "checkpoint_missing",
    "checkpoint_changed",
    "head_missing",
    "head_changed",
    "receipt_invalid",
    "receipt_signature_invalid",
    "receipt_key_unknown",
    "text_digest_mismatch",
    "template_changed",
    "template_missing",
    "template_event_changed",
    "unchained_row",
    "row_not_walked",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is not as it was written.

    ``kind`` is stable, for machines; ``sentence`` is for people and never holds a caller's text.
    ``count`` is how many rows in a row it is about, from ``seq`` on. ``name`` is the number of a
    checkpoint, the id of a key, or a template and its version.
    """

    kind: FindingKind
    sentence: str
    chain_id: str | None = None
    seq: int | None = None
    request_id: str | None = None
    count: int = 1
    name: str | None = None


Report = Callable[[Finding], None]


@dataclass(slots=True)
class AuditSummary:
    """What was looked at, and how far signatures reach.

    ``covered_until`` is the newest time of a row that a trusted signature covers, RFC 3339 in
    UTC; ``checkpointed_until`` when the newest sound checkpoint was written.
    ``rows`` are those in chains. ``orphaned_texts`` have no row that would vouch for them;
    ``template_events`` are those that checkpoints cover.
    ``unconfirmed_worker_keys`` have signed receipts, and only the database says that they are a
    worker's.
    """

    chains: int = 0
    rows: int = 0
    groups_signed: int = 0
    rows_before_the_chain: int = 0
    checkpoints: int = 0
    receipts: int = 0
    receipts_of_violations: int = 0
    receipts_unchecked: int = 0
    texts: int = 0
    orphaned_texts: int = 0
    template_events: int = 0
    templates: int = 0
    templates_packaged: int = 0
    covered_until: str | None = None
    checkpointed_until: str | None = None
    last_checkpoint: int = 0
    unconfirmed_worker_keys: set[str] = field(default_factory=set)
    signed_by: set[str] = field(default_factory=set)
    findings: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustRoots:
    """Where trust begins: key rings from files of one's own, and keys that somebody named.

    ``published`` are the rings' keys as their files have them. A key of another role is never
    believed: what a worker signs is no head of a chain.
    """

    published: Sequence[SigningKey] = ()
    gateways: Collection[str] = ()
    workers: Collection[str] = ()

    def of(self, role: Role) -> frozenset[str]:
        """Return the public keys of ``role`` that need no endorsement."""
        named = self.gateways if role == "gateway" else self.workers
        rings = (key.published.public_key for key in self.published if key.role == role)
        return frozenset([*named, *rings])


@dataclass(frozen=True, slots=True)
class KeyBook:
    """The public keys of one role by their id, and which of them are to be believed."""

    by_id: Mapping[str, str]
    trusted: frozenset[str]


def key_book(known: Sequence[SigningKey], roots: TrustRoots, role: Role) -> KeyBook:
    """Return the keys of ``role``: those of the database, and the roots' own."""
    keys = [key for key in (*known, *roots.published) if key.role == role]
    keys = [key for key in keys if _readable(key)]
    trusted = reached_keys([key.published for key in keys], roots.of(role))
    public = {key.published.public_key for key in keys} | trusted
    return KeyBook({key_id_of(key): key for key in public}, trusted)


def reached_keys(published: Sequence[PublishedKey], roots: Collection[str]) -> frozenset[str]:
    """Return ``roots`` and every key that endorsements lead to, in whatever order they come."""
    trusted = frozenset(roots)
    while True:
        further = trusted_keys(published, trusted)
        if further == trusted:
            return trusted
        trusted = further


def check_keys(known: Sequence[SigningKey], roots: TrustRoots, report: Report) -> None:
    """Report each stored key that is not what its ring, its id or its endorsement says."""
    own = {key.published.public_key: key for key in roots.published}
    by_key = {key.published.public_key: key for key in known}
    for key in known:
        public, mine = key.published.public_key, own.get(key.published.public_key)
        if not _readable(key):
            told = "it is no text that was ever written"
        elif key.key_id not in ("", key_id_of(public)):
            told = "its id is not that of the key"
        elif not _endorsement_holds(key):
            told = "its endorsement by the key before it does not hold"
        elif _strangers(key, by_key.get(key.published.endorsed_by or "")):
            told = "the key that endorses it is another owner's"
        elif mine is not None and _differ(key, mine):
            told = "the ring of its owner has it otherwise"
        else:
            continue
        report(
            Finding(
                kind="key_changed",
                sentence=f"The stored signing key {key.key_id or key_id_of(public)} was changed: "
                f"{told}.",
                name=key.key_id or key_id_of(public),
            )
        )


def _differ(stored: SigningKey, mine: SigningKey) -> bool:
    if (stored.role, stored.owner) != (mine.role, mine.owner):
        return True
    if stored.role == "gateway":
        return stored.published != mine.published
    # Of a worker elsewhere a gateway may know the key alone, because somebody named it.
    known, whole = stored.published, mine.published
    told = (known.endorsed_by, known.endorsement)
    return known.not_before not in ("", whole.not_before) or (
        told not in ((None, None), (whole.endorsed_by, whole.endorsement))
    )


def _readable(key: SigningKey) -> bool:
    published = key.published
    texts = (
        key.key_id,
        key.owner,
        published.public_key,
        published.not_before,
        published.endorsed_by or "",
        published.endorsement or "",
    )
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        return False
    return True


def _strangers(key: SigningKey, endorser: SigningKey | None) -> bool:
    return endorser is not None and (endorser.role, endorser.owner) != (key.role, key.owner)


def _endorsement_holds(key: SigningKey) -> bool:
    by, endorsement = key.published.endorsed_by, key.published.endorsement
    if by is None or endorsement is None:
        return by is None and endorsement is None
    return verified(by, endorsement, endorsed_bytes(key.published))
