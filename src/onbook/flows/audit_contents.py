"""Checking what a row names: its worker's receipt, its texts and its template."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, cast

import msgspec

from onbook.domain.templates import mapping_sha256
from onbook.flows.audit_findings import AuditSummary, Finding, FindingKind, KeyBook, Report
from onbook.flows.record_enhancement import NUL_PICTURE
from onbook.ports.audit import AuditedRow, AuditTrail
from onbook.ports.stores import EnhancementTexts
from onbook.wire.canonical import CanonicalizationError, canonical_json, sha256_of_text
from onbook.wire.signing import key_id_of, verified
from onbook.wire.strict_json import NotStrictJson, strict_json

_HEX: Final = frozenset("0123456789abcdef")
_END_OF_TIME = datetime.max.replace(tzinfo=UTC)


class ContentChecks:
    """Checks rows in batches against what else is stored.

    Args:
        trail: Where texts and templates are.
        workers: The workers' keys.
        report: Is told of each finding.
        summary: Is counted up.
    """

    def __init__(
        self, trail: AuditTrail, workers: KeyBook, report: Report, summary: AuditSummary
    ) -> None:
        self._trail = trail
        self._workers = workers
        self._report = report
        self._summary = summary
        self._templates: set[tuple[str, int, str]] = set()
        self._unknown: set[str] = set()

    async def check(self, rows: Sequence[AuditedRow]) -> None:
        """Report each row whose receipt, texts or template are not what it says.

        Raises:
            StoreUnavailable: the database cannot be read.
        """
        texts = await self._trail.texts([row.request_id for row in rows])
        for row in rows:
            receipt = self._receipt(row)
            found = texts.get(row.request_id)
            if found is not None:
                self._summary.texts += 1
                for which in changed_texts(row.content, receipt, found, chained=row.chained):
                    self._tell("text_digest_mismatch", row, f"Its {which} is not what it was")
            await self._template(row)

    def _receipt(self, row: AuditedRow) -> Mapping[str, object] | None:
        stored = row.content["receipt"]
        if stored is None:
            return None
        receipt = decoded_receipt(stored)
        if row.content["integrity_status"] == "violation":
            # It is kept because it does not hold.
            self._summary.receipts_of_violations += 1
            return receipt
        self._summary.receipts += 1
        if receipt is None:
            self._tell("receipt_invalid", row, "Its receipt cannot be read")
            return None
        if receipt.get("worker_id") != row.content["worker_id"]:
            self._tell("receipt_invalid", row, "Its receipt is another worker's")
        key = receipt_signer(receipt, self._workers.by_id.values())
        named = str(receipt.get("key_id") or "")
        if key is not None:
            if key not in self._workers.trusted:
                self._summary.unconfirmed_worker_keys.add(key)
        elif named in self._workers.by_id:
            self._tell(
                "receipt_signature_invalid", row, "The signature of its receipt does not hold"
            )
        else:
            self._unknown_key(row, named)
        return receipt

    def _unknown_key(self, row: AuditedRow, named: str) -> None:
        self._summary.receipts_unchecked += 1
        # Rows from before the chain have receipts from before keys were kept. Of others, once for
        # each key: every later row of it is in the same case.
        if row.chain_id is None or named in self._unknown:
            return
        self._unknown.add(named)
        self._tell(
            "receipt_key_unknown",
            row,
            f"Its receipt, and maybe later ones, are signed with the worker's key {named} that is "
            "not known here; name it with --trust-worker",
        )

    async def _template(self, row: AuditedRow) -> None:
        content = row.content
        name, version, digest = (
            content["template_name"],
            content["template_version"],
            content["template_sha256"],
        )
        if not (isinstance(name, str) and isinstance(version, int) and isinstance(digest, str)):
            return
        known = (name, version, digest)
        if known in self._templates:
            return
        self._templates.add(known)
        evidence = await self._trail.template(name, version, before=time_of(content))
        packaged = content["template_source"] == "hardcoded"
        if evidence is None:
            if packaged:
                self._summary.templates_packaged += 1
            else:
                self._tell(
                    "template_missing", row, f"Version {version} of its template is missing", known
                )
            return
        now = mapping_sha256(evidence.content)
        if packaged and now != digest:
            # The package's own version with this number need not be the database's.
            self._summary.templates_packaged += 1
            return
        self._summary.templates += 1
        if now != digest:
            self._tell(
                "template_changed",
                row,
                f"Version {version} of its template is not what the row was written with",
                known,
            )
        elif evidence.content_sha256 not in (None, now):
            self._tell(
                "template_changed",
                row,
                f"The stored digest of version {version} of its template was changed",
                known,
            )

    def _tell(
        self,
        kind: FindingKind,
        row: AuditedRow,
        what: str,
        template: tuple[str, int, str] | None = None,
    ) -> None:
        self._report(
            Finding(
                kind=kind,
                sentence=f"{what}.",
                chain_id=row.chain_id,
                seq=row.seq,
                request_id=row.request_id,
                name=None if template is None else f"{template[0]}@{template[1]}",
            )
        )


def changed_texts(
    content: Mapping[str, object],
    receipt: Mapping[str, object] | None,
    texts: EnhancementTexts,
    *,
    chained: bool = True,
) -> list[str]:
    """Return which texts do not have the digests that the row, or its receipt, names.

    Args:
        content: The row.
        receipt: That of the row, decoded.
        texts: What is stored for it.
        chained: False for a row from before the chain, which says less of its texts.
    """
    refused = content["content_mode"] == "refused" and texts.original == ""
    checks: list[tuple[str, bool]] = [
        ("prompt", refused or salted(texts.salt, texts.original) == content["prompt_sha256"]),
    ]
    if chained:
        checks.append(("time", time_of({"created_at": texts.created_at}) == time_of(content)))
    if texts.enhanced is not None:
        checks.append(
            ("enhanced prompt", salted(texts.salt, texts.enhanced) == content["output_sha256"])
        )
    if texts.messages is not None:
        checks.append(("messages", _json_sha256(texts.messages) == content["messages_sha256"]))
    if texts.raw_output is not None:
        named = receipt.get("output_sha256") if receipt else None
        # The worker has signed U+0000 where U+2400 is stored; the row's own digest holds there.
        if named is not None and NUL_PICTURE not in texts.raw_output:
            checks.append(("raw output", sha256_of_text(texts.raw_output) == named))
        digest = salted(texts.salt, texts.raw_output)
        if chained or content.get("output_steps") is not None:
            checks.append(("raw output", digest is not None and digest == _raw_sha256(content)))
    return list(dict.fromkeys(which for which, holds in checks if not holds))


def _raw_sha256(content: Mapping[str, object]) -> object:
    """Return the salted digest that the row names of the model's text; None if it names none."""
    steps = _steps(content.get("output_steps"))
    if steps is None:
        return None
    # Where nothing changed the text, it is the answer.
    return steps[0].get("before_sha256") if steps else content["output_sha256"]


def decoded_receipt(stored: object) -> Mapping[str, object] | None:
    """Return the receipt in a row, or None if that is none."""
    if not isinstance(stored, str):
        return None
    try:
        receipt = strict_json(stored)
    except NotStrictJson:
        return None
    return cast("dict[str, object]", receipt) if isinstance(receipt, dict) else None


def receipt_signer(receipt: Mapping[str, object], keys: Iterable[str]) -> str | None:
    """Return which of ``keys`` has signed ``receipt``, or None.

    Args:
        receipt: As the row has it: also one of an older version, with other fields.
        keys: Public keys, base64.
    """
    signature, named = receipt.get("signature"), receipt.get("key_id")
    if not isinstance(signature, str):
        return None
    body = {name: value for name, value in receipt.items() if name != "signature"}
    try:
        data = canonical_json(body)
    except CanonicalizationError:
        return None
    return next(
        (
            key
            for key in keys
            # Receipts from before keys had ids name none.
            if (not named or key_id_of(key) == named) and verified(key, signature, data)
        ),
        None,
    )


def salted(salt: str, text: str) -> str | None:
    """Return the digest of ``text`` as rows have it; None if the salt is none."""
    # ``fromhex`` passes over white space, and a salt has one spelling.
    if not all(character in _HEX for character in salt):
        return None
    try:
        return hashlib.sha256(
            bytes.fromhex(salt) + text.encode("utf-8", "surrogatepass")
        ).hexdigest()
    except ValueError:
        return None


def time_of(content: Mapping[str, object]) -> datetime:
    """Return when a row was written, in UTC; the end of time if it does not say so."""
    try:
        time = datetime.fromisoformat(str(content.get("created_at")))
        return time.astimezone(UTC) if time.tzinfo is not None else _END_OF_TIME
    except (ValueError, OverflowError):
        return _END_OF_TIME


def _json_sha256(text: str) -> str | None:
    try:
        return hashlib.sha256(canonical_json(strict_json(text))).hexdigest()
    except (NotStrictJson, CanonicalizationError):
        return None


def _steps(stored: object) -> list[dict[str, object]] | None:
    if not isinstance(stored, str):
        return None
    try:
        return msgspec.convert(strict_json(stored), list[dict[str, object]])
    except (NotStrictJson, msgspec.ValidationError):
        return None
