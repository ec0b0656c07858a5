"""One row of the audit log as a file that stands alone (``onbook.audit.proof``, version 1).

In the terms of SCITT: the row is the *statement*, the gateway its *issuer*; the path from the row
to a signed head of its chain is the *receipt*; all of it together is a *transparent statement*.
The worker's own signed receipt is another statement, inside the row's column ``receipt``.

The whole file is sealed by the gateway that exported it: the signature is over the canonical JSON
of everything else, so that what no other signature covers (the event that made the template live,
the texts) cannot be changed on the way either.
"""

from typing import Final, Literal

import msgspec

from onbook.wire.canonical import CanonicalizationError, canonical_json
from onbook.wire.signing import PublishedKey
from onbook.wire.strict_json import NotStrictJson, strict_json

PROOF_TYPE: Final = "onbook.audit.proof"
PROOF_VERSION: Final = 1
# As many rows as may lie between the end of a row's group and a checkpoint that covers it.
MAX_PATH: Final = 20_000
# A path of that length is 1.4 MB, and texts are bounded where they come in.
MAX_PROOF_BYTES: Final = 32 * 1024 * 1024


class ProofUnreadable(ValueError):
    """The file is no proof of this version; the message says why, in one sentence."""


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the file; a field that is not known would be one that nobody has checked."""


class HeadSignature(_Part, frozen=True):
    """Ed25519, base64, over ``audit_chain.head_statement``."""

    key_id: str
    signature: str


class InclusionReceipt(_Part, frozen=True):
    """Where the row stands, and the way to the signed end of its group.

    ``path`` has the content digests of the rows behind it, up to ``group_end``.
    """

    chain_id: str
    seq: int
    prev_hash: str
    group_end: int
    row_hash: str
    path: list[str]
    head: HeadSignature


class GroupPath(_Part, frozen=True):
    """The content digests of a whole group of rows; ``group_end`` is the number of its last."""

    group_end: int
    contents: list[str]


class CheckpointCover(_Part, frozen=True):
    """A signed checkpoint, and the way to it from the end of the row's group.

    ``body`` is the canonical JSON that was signed (``wire.audit_checkpoint``).
    """

    body: str
    signature: str
    path: list[GroupPath]


class EventCover(_Part, frozen=True):
    """A signed checkpoint that covers an event of a template.

    ``digests`` are those of all events that it covers, ``audit_checkpoint.event_sha256`` each.
    """

    body: str
    signature: str
    digests: list[str]


class OwnedKey(_Part, frozen=True):
    """A public key, and whose it is; the other fields are those of ``signing.PublishedKey``."""

    role: Literal["gateway", "worker"]
    owner: str
    public_key: str
    not_before: str
    endorsed_by: str | None
    endorsement: str | None

    @property
    def published(self) -> PublishedKey:
        """The key as its ring publishes it."""
        return PublishedKey(
            public_key=self.public_key,
            not_before=self.not_before,
            endorsed_by=self.endorsed_by,
            endorsement=self.endorsement,
        )


class ProvenTemplate(_Part, frozen=True):
    """The template version that the row names: its content, and the event that made it live.

    ``checkpoint`` covers the event; None where none does.
    """

    content: dict[str, object]
    event: dict[str, object] | None
    checkpoint: EventCover | None


class ProvenTexts(_Part, frozen=True):
    """The texts of the request, and the salt of the row's digests of them."""

    created_at: str
    salt: str
    original: str
    messages: str | None
    raw_output: str | None
    enhanced: str | None


class AuditProof(_Part, frozen=True):
    """The file. ``statement`` is column name to value, which the row's digest is taken of."""

    type: Literal["onbook.audit.proof"]
    version: Literal[1]
    exported_at: str
    issuer: str
    statement: dict[str, object]
    receipt: InclusionReceipt
    checkpoint: CheckpointCover | None
    keys: list[OwnedKey]
    template: ProvenTemplate | None
    texts: ProvenTexts | None
    seal: HeadSignature


_decoder: Final = msgspec.json.Decoder(AuditProof)


def sealed_bytes(proof: AuditProof) -> bytes:
    """Return what the seal signs: the canonical JSON of everything but its signature.

    Raises:
        CanonicalizationError: a value has no canonical form.
    """
    content = msgspec.to_builtins(proof)
    del content["seal"]["signature"]
    return canonical_json(content)


def encoded_proof(proof: AuditProof) -> bytes:
    """Return the file."""
    return msgspec.json.format(msgspec.json.encode(proof), indent=2) + b"\n"


def decoded_proof(data: bytes) -> AuditProof:
    """Return the proof in a file.

    Raises:
        ProofUnreadable: it is none.
    """
    if len(data) > MAX_PROOF_BYTES:
        raise ProofUnreadable("It is larger than any proof.")
    try:
        proof = _decoder.decode(data)
        strict_json(data)
        sealed_bytes(proof)
    except msgspec.ValidationError as error:
        # Names the field that does not fit, never its value.
        raise ProofUnreadable(
            f"It is no audit proof of version {PROOF_VERSION}: {error}."
        ) from None
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise ProofUnreadable("It is no JSON.") from None
    except NotStrictJson as error:
        raise ProofUnreadable(str(error)) from None
    except CanonicalizationError as error:
        raise ProofUnreadable(f"It has no canonical form: {error}.") from None
    return proof
