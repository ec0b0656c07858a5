"""Ed25519 signatures, and key rings that rotate with overlap.

A new key is endorsed by the one before it, so whoever trusts one key of a ring can follow it to
the later ones without being told by anyone else.
"""

import base64
import binascii
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from onbook.wire.canonical import canonical_json, sha256_hex


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs with one private key. ``public_key`` is base64 of its 32 raw bytes."""

    key: Ed25519PrivateKey
    public_key: str
    key_id: str

    def sign(self, data: bytes) -> str:
        """Return the signature over ``data``, base64."""
        return base64.b64encode(self.key.sign(data)).decode("ascii")


def signer_of(key: Ed25519PrivateKey) -> Signer:
    """Return the signer that uses ``key``."""
    public = base64.b64encode(key.public_key().public_bytes_raw()).decode("ascii")
    return Signer(key, public, key_id_of(public))


def key_id_of(public_key: str) -> str:
    """Return the short name of a public key: it follows from the key."""
    return sha256_hex(public_key.encode("utf-8", "surrogatepass"))[:16]


def verified(public_key: str, signature: str, data: bytes) -> bool:
    """Tell whether ``signature`` (base64) over ``data`` was made with ``public_key``'s half."""
    try:
        raw = base64.b64decode(signature, validate=True)
        # Base64 has several spellings of the same bytes; only the one that we write counts.
        if base64.b64encode(raw) != signature.encode():
            return False
        _public_key(public_key).verify(raw, data)
    except (InvalidSignature, ValueError, binascii.Error):
        return False
    return True


class PublishedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A public key of a ring: in use from ``not_before`` (RFC 3339, UTC) until the next one is.

    ``endorsement`` is the signature of ``endorsed_by``, the key before it; None on the first.
    """

    public_key: str
    not_before: str
    endorsed_by: str | None = None
    endorsement: str | None = None


class StoredKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key with its private half, base64 of 32 raw bytes, as it lies in a file."""

    private_key: str
    published: PublishedKey

    def __repr__(self) -> str:
        """Show the public half only: what is shown may be logged."""
        return f"StoredKey(published={self.published!r})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        """Say the same to rich."""
        return [("published", self.published)]


class KeyRing(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of one owner, oldest first. ``owner`` stays when keys are rotated."""

    owner: str
    keys: list[StoredKey]

    def signer(self, at: datetime) -> Signer:
        """Return the signer that is in use at ``at``: the newest key whose time has come."""
        moment = _rfc3339(at)
        due = [key for key in self.keys if key.published.not_before <= moment] or self.keys[:1]
        return signer_of(_private_key(due[-1].private_key))

    @property
    def published(self) -> list[PublishedKey]:
        """The public half of every key, oldest first."""
        return [key.published for key in self.keys]

    def rotated(self, *, not_before: datetime) -> "KeyRing":
        """Return the ring with a new key, endorsed by the newest one and used from then on."""
        newest = signer_of(_private_key(self.keys[-1].private_key))
        fresh = Ed25519PrivateKey.generate()
        published = PublishedKey(
            public_key=signer_of(fresh).public_key,
            not_before=max(_rfc3339(not_before), self.keys[-1].published.not_before),
            endorsed_by=newest.public_key,
        )
        published = msgspec.structs.replace(
            published, endorsement=newest.sign(endorsed_bytes(published))
        )
        return KeyRing(owner=self.owner, keys=[*self.keys, _stored(fresh, published)])


def new_ring(prefix: str, *, at: datetime, key: Ed25519PrivateKey | None = None) -> KeyRing:
    """Return a ring of one key (a new one unless given); its owner is ``<prefix>-<12 hex>``."""
    key = key or Ed25519PrivateKey.generate()
    public = signer_of(key).public_key
    published = PublishedKey(public_key=public, not_before=_rfc3339(at))
    owner = f"{prefix}-{sha256_hex(public.encode())[:12]}"
    return KeyRing(owner=owner, keys=[_stored(key, published)])


def encoded_ring(ring: KeyRing) -> bytes:
    """Return ``ring`` as it lies in its file. It holds private keys."""
    return msgspec.json.format(msgspec.json.encode(ring), indent=1) + b"\n"


def decoded_ring(data: bytes) -> KeyRing:
    """Return the ring that ``encoded_ring`` wrote.

    Raises:
        ValueError: the file is damaged; the message never holds a key.
    """
    try:
        ring = msgspec.json.decode(data, type=KeyRing)
        whole = all(
            signer_of(_private_key(key.private_key)).public_key == key.published.public_key
            for key in ring.keys
        )
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, binascii.Error):
        raise ValueError("not a ring of keys") from None
    if not whole or not ring.keys:
        raise ValueError("not a ring of keys")
    return ring


def trusted_keys(published: Sequence[PublishedKey], roots: Collection[str]) -> frozenset[str]:
    """Return ``roots`` and every key that a chain of endorsements leads to from one of them.

    Args:
        published: Keys in any order, also of strangers; each endorsement is checked once at most.
        roots: Public keys that are trusted without an endorsement.
    """
    followers: dict[str, list[PublishedKey]] = {}
    for key in published:
        if key.endorsed_by is not None:
            followers.setdefault(key.endorsed_by, []).append(key)
    trusted = set(roots)
    to_follow = list(trusted)
    while to_follow:
        by = to_follow.pop()
        for key in followers.pop(by, ()):
            if key.public_key in trusted or key.endorsement is None:
                continue
            if verified(by, key.endorsement, endorsed_bytes(key)):
                trusted.add(key.public_key)
                to_follow.append(key.public_key)
    return frozenset(trusted)


def endorsed_bytes(key: PublishedKey) -> bytes:
    """Return what an endorsement signs."""
    return canonical_json(
        {
            "type": "onbook.key.endorsement",
            "public_key": key.public_key,
            "not_before": key.not_before,
            "endorsed_by": key.endorsed_by,
        }
    )


def _stored(key: Ed25519PrivateKey, published: PublishedKey) -> StoredKey:
    raw = base64.b64encode(key.private_bytes_raw()).decode("ascii")
    return StoredKey(private_key=raw, published=published)


def _private_key(text: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(base64.b64decode(text, validate=True))


@lru_cache(maxsize=256)
def _public_key(public_key: str) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key, validate=True))


def _rfc3339(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds")
