"""Requests that prove who sent them: RFC 9530 digests under RFC 9421 signatures, with Ed25519.

One profile, and nothing beside it: a signature labelled ``onbook`` over the method, the path, the
digest of the body and its type, with ``created``, ``expires``, ``nonce``, ``keyid`` and
``alg="ed25519"``. ``keyid`` is ``wire.signing.key_id_of`` of the public key.

The path is the one that the worker serves: ``/enhance``. A proxy that publishes the worker under a
prefix, and takes the prefix off again, changes nothing for the signature. The query is not covered,
since a worker reads none.

A sender whose key was rotated sends its published keys along (``Onbook-Signing-Keys``). They
need no signature of their own: a key among them counts only where a trusted one has endorsed it.
"""

import base64
import hmac
import secrets
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from heapq import heappop, heappush
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from onbook.wire.shown_keys import KEYS_HEADER, keys_header, shown_keys
from onbook.wire.signing import PublishedKey, Signer, key_id_of, trusted_keys, verified
from onbook.wire.structured_fields import (
    FieldInvalid,
    InnerList,
    Item,
    Member,
    Parameters,
    parse_dictionary,
    serialised,
)

LABEL: Final = "onbook"
ALGORITHM: Final = "ed25519"
COMPONENTS: Final = ("@method", "@path", "content-digest", "content-type")
# A request is signed when it is sent. Each second more is another second's nonces to remember.
LIFETIME_S: Final = 60
# The clocks of two machines are never the same.
SKEW_S: Final = 60
_COVERED: Final = tuple(Item(name) for name in COMPONENTS)
_PARAMETERS: Final = frozenset({"created", "expires", "nonce", "keyid", "alg"})
_NONCE_CHARS: Final = range(16, 129)
_SIGNATURE_BYTES: Final = 64
_KEY_ID_CHARS: Final = 16

# Learned from senders, each endorsed by a trusted key: far more than a ring ever has.
_MAX_LEARNED: Final = 512

# 2,000 requests a second need 240,000 nonces: each is kept for its lifetime and the clocks' skew.
_NONCE_MEMORY_BYTES: Final = 64 * 1024 * 1024
# A digest of 16 bytes as an object, its place in the set and in its second's list; measured as 112
# to 144, by how full the set is.
_NONCE_BYTES: Final = 160
_NONCES: Final = _NONCE_MEMORY_BYTES // _NONCE_BYTES

_SIGN_IT: Final = "Let a gateway whose key is in ONBOOK_WORKER_TRUST_KEYS send the request."
_SIGN_AGAIN: Final = "Sign each request anew, at the moment it is sent."
_SET_CLOCKS: Final = "Set the clocks of both machines; sign each request when it is sent."
_UNCHANGED: Final = (
    "Let nothing between gateway and worker change method, path, body or Content-Type."
)
_LET_IN: Final = (
    "Put the public key of the gateway ('onbook keys signing list') into ONBOOK_WORKER_TRUST_KEYS."
)


class SignatureRefused(Exception):
    """The request is not shown to come from a trusted sender.

    ``reason`` is a short name for machines; ``message`` and ``action`` are one sentence each, and
    hold nothing of the request. ``key_id`` is the key that the request names, if it gets so far.
    """

    def __init__(
        self, reason: str, message: str, action: str = _SIGN_IT, *, key_id: str | None = None
    ) -> None:
        super().__init__(message)
        self.reason, self.message, self.action = reason, message, action
        self.key_id = key_id


class TooManyNonces(Exception):
    """More signed requests than can be remembered came within the lifetime of a signature.

    ``retry_after_s`` is when the first one will be forgotten, in seconds.
    """

    def __init__(self, retry_after_s: int) -> None:
        super().__init__("too many signed requests are under way")
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class SignedHead:
    """What a request's head says, its signature checked: ``expires`` is in Unix seconds."""

    key_id: str
    nonce: str
    expires: int
    digest: bytes


class ReplayCache:
    """The nonces of requests that were taken, until no request with one of them can be valid.

    Args:
        limit: Nonces to remember at once; beyond it, requests are refused rather than forgotten.
            By default as many as 64 MiB hold: 3,400 requests a second.
    """

    def __init__(self, limit: int = _NONCES) -> None:
        self._limit = limit
        self._seen: set[bytes] = set()
        # By the second that they expire in: there are never more than a few hundred.
        self._by_expiry: dict[int, list[bytes]] = {}
        self._expiries: list[int] = []

    def __len__(self) -> int:
        """Return how many are remembered."""
        return len(self._seen)

    def remember(self, key_id: str, nonce: str, *, expires: int, now: float) -> bool:
        """Return whether the nonce is new, and remember it until ``expires``.

        Raises:
            TooManyNonces: there is no room for another one.
        """
        # A clock that is set back must not revive what has just expired.
        while self._expiries and self._expiries[0] + SKEW_S < now:
            self._seen.difference_update(self._by_expiry.pop(heappop(self._expiries)))
        # A key's id has no NUL, and a digest takes a third of the text's memory.
        entry = sha256(f"{key_id}\0{nonce}".encode()).digest()[:16]
        if entry in self._seen:
            return False
        if len(self._seen) >= self._limit:
            raise TooManyNonces(max(1, int(self._expiries[0] + SKEW_S - now) + 1))
        self._seen.add(entry)
        if expires not in self._by_expiry:
            self._by_expiry[expires] = []
            heappush(self._expiries, expires)
        self._by_expiry[expires].append(entry)
        return True


class RequestVerifier:
    """Takes requests that a trusted key has signed, each of them once.

    Args:
        trusted: Gives the public keys (base64) of those who may send.
        since: Unix seconds of the start: what was signed before it, skew aside, may have been
            taken by the process before this one, whose nonces are forgotten.
        replays: The nonces that were taken.
    """

    def __init__(
        self,
        trusted: Callable[[], Collection[str]],
        *,
        since: float,
        replays: ReplayCache | None = None,
    ) -> None:
        self._trusted = trusted
        self._since = since
        self._replays = ReplayCache() if replays is None else replays
        # What trusted senders have shown and endorsed, and the keys of which that was worked out.
        self._learned: frozenset[str] = frozenset()

    def head(
        self, method: str, path: str, headers: Iterable[tuple[bytes, bytes]], *, now: float
    ) -> SignedHead:
        """Check the signature, before the body is read. Header names are in lower case.

        Raises:
            SignatureRefused: it is missing, malformed, out of its time, or not by a trusted key.
        """
        fields = _fields(headers)
        listed, signature = _signature(fields)
        key_id, nonce, created, expires = _known(listed.parameters)
        try:
            self._check_times(created, expires, now)
            digest = _digest(fields)
            values = {"@method": method, "@path": path, **fields}
            base = signature_base([(name, values[name]) for name in COMPONENTS], serialised(listed))
            self._check_signature(key_id, fields.get(KEYS_HEADER.lower()), signature, base)
        except SignatureRefused as refused:
            refused.key_id = key_id[:_KEY_ID_CHARS]
            raise
        return SignedHead(key_id, nonce, expires, digest)

    def body(self, head: SignedHead, body: bytes, *, now: float) -> None:
        """Check the body against the head, and take the request's nonce.

        Raises:
            SignatureRefused: the body is another one, or the request was sent before.
            TooManyNonces: no further nonce can be remembered.
        """
        if not hmac.compare_digest(sha256(body).digest(), head.digest):
            raise SignatureRefused(
                "wrong_digest",
                "The body is not the one that was signed.",
                _UNCHANGED,
                key_id=head.key_id,
            )
        if not self._replays.remember(head.key_id, head.nonce, expires=head.expires, now=now):
            raise SignatureRefused(
                "replayed",
                "The request was sent before, with the same nonce.",
                _SIGN_AGAIN,
                key_id=head.key_id,
            )

    def _check_signature(
        self, key_id: str, shown: str | None, signature: bytes, base: bytes
    ) -> None:
        public_key = self._key(key_id, shown)
        if not verified(public_key, base64.b64encode(signature).decode("ascii"), base):
            raise SignatureRefused(
                "wrong_signature", "The signature does not fit the request.", _UNCHANGED
            )

    def _key(self, key_id: str, shown: str | None) -> str:
        """Return the trusted key of that id; one that a trusted key endorses is learned."""
        roots = self._trusted()
        for keys in (roots, self._learned):
            for key in keys:
                if key_id_of(key) == key_id:
                    return key
        published = [] if shown is None else shown_keys(shown)
        # A stranger's list costs no more than it has endorsements, and none if it is beside the
        # point: the key that signs is not in it.
        if any(key_id_of(key.public_key) == key_id for key in published):
            trusted = trusted_keys(published, frozenset(roots) | self._learned)
            found = next((key for key in trusted if key_id_of(key) == key_id), None)
            if found is not None:
                if len(self._learned) < _MAX_LEARNED:
                    self._learned |= {found}
                return found
        raise SignatureRefused("unknown_key", "The request is signed with an unknown key.", _LET_IN)

    def _check_times(self, created: int, expires: int, now: float) -> None:
        if not 0 < expires - created <= LIFETIME_S:
            raise SignatureRefused(
                "lifetime", f"A signature may live for {LIFETIME_S} seconds.", _SIGN_AGAIN
            )
        if created > now + SKEW_S:
            raise SignatureRefused(
                "from_the_future", "The signature is not valid yet.", _SET_CLOCKS
            )
        if expires < now:
            raise SignatureRefused("expired", "The signature has expired.", _SET_CLOCKS)
        if created + SKEW_S < self._since:
            raise SignatureRefused(
                "before_start", "The request was signed before this worker started.", _SIGN_AGAIN
            )


def content_digest(body: bytes) -> str:
    """Return the value of ``Content-Digest`` for ``body``."""
    return f"sha-256=:{base64.b64encode(sha256(body).digest()).decode('ascii')}:"


def signature_base(components: Sequence[tuple[str, str]], parameters: str) -> bytes:
    """Return what is signed (RFC 9421, 2.5): the covered components and the parameters."""
    lines = [f'"{name}": {value}' for name, value in components]
    return "\n".join([*lines, f'"@signature-params": {parameters}']).encode("utf-8", "replace")


def signed_headers(
    signer: Signer,
    *,
    method: str,
    path: str,
    content_type: str,
    body: bytes,
    now: float,
    nonce: str | None = None,
    published: Sequence[PublishedKey] = (),
) -> dict[str, str]:
    """Return the headers to add to a request.

    Args:
        signer: Signs.
        method: As it is sent.
        path: As the worker serves it, without a proxy's prefix.
        content_type: The value of ``Content-Type`` as it is sent.
        body: The body as it is sent.
        now: Unix seconds.
        nonce: Of 16 to 128 characters, never used before; by default a random one.
        published: The sender's ring, oldest first, so that a worker that trusts an older key of it
            can follow; a ring of one key is not sent.
    """
    created = int(now)
    digest = content_digest(body)
    listed = InnerList(
        _COVERED,
        {
            "created": created,
            "expires": created + LIFETIME_S,
            "nonce": nonce or secrets.token_urlsafe(16),
            "keyid": signer.key_id,
            "alg": ALGORITHM,
        },
    )
    parameters = serialised(listed)
    covered = zip(COMPONENTS, (method, path, digest, content_type), strict=True)
    signature = signer.sign(signature_base(list(covered), parameters))
    return {
        "Content-Digest": digest,
        "Signature-Input": f"{LABEL}={parameters}",
        "Signature": f"{LABEL}=:{signature}:",
        **keys_header(published),
    }


@lru_cache(maxsize=256)
def public_key_usable(text: str) -> bool:
    """Tell whether ``text`` is an Ed25519 public key, base64 of its 32 raw bytes."""
    try:
        Ed25519PublicKey.from_public_bytes(base64.b64decode(text, validate=True))
    except ValueError:
        return False
    return True


def _fields(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return the headers that matter; one on several lines is joined as RFC 9421, 2.1 has it."""
    wanted = {"content-digest", "content-type", "signature-input", "signature", KEYS_HEADER.lower()}
    lines: dict[str, list[str]] = {}
    for raw_name, raw_value in headers:
        name = raw_name.decode("latin-1").lower()
        if name in wanted:
            lines.setdefault(name, []).append(raw_value.decode("latin-1").strip(" \t"))
    return {name: ", ".join(values) for name, values in lines.items()}


def _signature(fields: dict[str, str]) -> tuple[InnerList, bytes]:
    """Return our label's list of components and its signature; other labels are not ours."""
    if "signature-input" not in fields or "signature" not in fields:
        raise SignatureRefused("unsigned", "The request is not signed.")
    listed = _member(fields["signature-input"])
    signature = _member(fields["signature"])
    if listed is None or signature is None:
        raise SignatureRefused("unsigned", f"The request has no signature '{LABEL}'.")
    if (
        not isinstance(listed, InnerList)
        or not isinstance(signature, Item)
        or not isinstance(signature.value, bytes)
        or len(signature.value) != _SIGNATURE_BYTES
    ):
        raise SignatureRefused("malformed", "The signature is malformed.")
    if listed.items != _COVERED or any(type(item.value) is not str for item in listed.items):
        raise SignatureRefused(
            "components",
            f"The signature must cover exactly {', '.join(COMPONENTS)}, in this order.",
        )
    for name in ("content-digest", "content-type"):
        if name not in fields:
            raise SignatureRefused("malformed", f"The header {name}, which is signed, is missing.")
    return listed, signature.value


def _member(field: str, label: str = LABEL) -> Member | None:
    try:
        return parse_dictionary(field).get(label)
    except FieldInvalid:
        raise SignatureRefused("malformed", "A signature header is malformed.") from None


def _known(parameters: Parameters) -> tuple[str, str, int, int]:
    key_id, nonce = parameters.get("keyid"), parameters.get("nonce")
    created, expires = parameters.get("created"), parameters.get("expires")
    if (
        parameters.keys() != _PARAMETERS
        or parameters["alg"] != ALGORITHM
        or type(parameters["alg"]) is not str
        or not (type(key_id) is str and type(nonce) is str)
        or not (type(created) is int and type(expires) is int)
        or len(nonce) not in _NONCE_CHARS
    ):
        raise SignatureRefused(
            "parameters",
            "A signature states created, expires, nonce, keyid and alg, and nothing else.",
        )
    return key_id, nonce, created, expires


def _digest(fields: dict[str, str]) -> bytes:
    digest = _member(fields["content-digest"], "sha-256")
    if not isinstance(digest, Item) or not isinstance(digest.value, bytes):
        raise SignatureRefused("malformed", "The header content-digest has no SHA-256.")
    return digest.value
