"""The audit log in memory."""

from dataclasses import fields

from onbook.adapters.chaining import Chain, SignerSource, audited_value
from onbook.adapters.errors import AlreadyRecorded, RowRefused
from onbook.ports.audit import AuditedRow
from onbook.ports.stores import EnhancementRow, EnhancementTexts, StoreUnavailable
from onbook.wire.audit_chain import content_sha256
from onbook.wire.canonical import CanonicalizationError

_NAMES = tuple(item.name for item in fields(EnhancementRow))


class MemoryEnhancementLog:
    """``ports.EnhancementLog`` in memory; ``rows`` and ``texts`` show what was recorded.

    ``audited`` has the rows with their places in the chain, each a group of its own. ``available``
    False makes every call fail, as an outage would.

    Args:
        signer: Gives the key for the heads; None leaves them unsigned.
    """

    def __init__(self, signer: SignerSource | None = None) -> None:
        self._chain = Chain(signer)
        self.available = True
        self.closed = False
        self.rows: list[EnhancementRow] = []
        self.audited: list[AuditedRow] = []
        self.texts: dict[str, EnhancementTexts] = {}
        self._known: set[str] = set()

    @property
    def chain_id(self) -> str:
        """The chain that the next row goes into."""
        return self._chain.chain_id

    async def record(self, row: EnhancementRow, texts: EnhancementTexts | None) -> None:
        """Keep the row and its texts."""
        if self.closed:
            raise StoreUnavailable("The audit log is closed.")
        if not self.available:
            raise StoreUnavailable("The audit log is switched off.")
        if row.request_id in self._known:
            raise AlreadyRecorded("The audit log already has a row with this request_id.")
        self.audited.append(self._chained(row))
        self._known.add(row.request_id)
        self.rows.append(row)
        if texts is not None:
            self.texts[texts.request_id] = texts

    async def close(self) -> None:
        """Take no more rows."""
        self.closed = True

    def _chained(self, row: EnhancementRow) -> AuditedRow:
        content = {name: audited_value(getattr(row, name)) for name in _NAMES}
        try:
            digest = content_sha256(content)
        except CanonicalizationError as error:
            raise RowRefused("The audit log refuses the row.") from error
        extension = self._chain.extension([digest])
        (place,) = extension.places
        chain_id, seq, prev_hash, group_end, row_hash, key_id, signature = place
        self._chain.committed(extension.head)
        return AuditedRow(
            content=content,
            chain_id=chain_id,
            seq=seq,
            prev_hash=prev_hash,
            group_end=group_end,
            row_hash=row_hash,
            signing_key_id=key_id,
            head_signature=signature,
        )
