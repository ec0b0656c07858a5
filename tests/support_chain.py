"""The audit chain as the tests check it: every row's digest, place and signature, from scratch."""

import sqlite3
from collections.abc import Collection, Sequence
from contextlib import closing
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import literal_column
from sqlalchemy.ext.asyncio import AsyncEngine

from onbook.adapters.database.audit_queries import plain
from onbook.adapters.database.audit_rows import STORED_COLUMNS, row_reader
from onbook.adapters.database.tables import enhancement_logs
from onbook.adapters.memory.enhancement_log import MemoryEnhancementLog
from onbook.ports.audit import AuditedRow
from onbook.ports.stores import EnhancementLog
from onbook.wire.audit_chain import GENESIS, Head, content_sha256, head_statement, link_hash
from onbook.wire.signing import Signer, key_id_of, signer_of, verified

SIGNER = signer_of(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))


def signer() -> Signer:
    """Return the key that tests sign with."""
    return SIGNER


async def audited_rows(log: EnhancementLog, engine: AsyncEngine | None) -> list[AuditedRow]:
    """Return the rows of ``log`` as they are stored, in the order in which they came."""
    if isinstance(log, MemoryEnhancementLog):
        return log.audited
    assert engine is not None
    order = "rowid" if engine.dialect.name == "sqlite" else "ctid"
    # Without the table's types, which would tidy up what is really there.
    query = plain(enhancement_logs, engine.dialect.name, *STORED_COLUMNS)
    query = query.order_by(literal_column(order))
    read = row_reader(engine.dialect.name)
    async with engine.connect() as connection:
        return [read(tuple(row)) for row in await connection.execute(query)]


def audited_rows_in(path: Path) -> list[AuditedRow]:
    """Return the rows in the SQLite file at ``path``, in the order in which they came."""
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute(
            f"SELECT {', '.join(STORED_COLUMNS)} FROM enhancement_logs ORDER BY rowid"  # noqa: S608 - names of ours
        )
        return list(map(row_reader("sqlite"), found))


def sound(rows: Sequence[AuditedRow], keys: Collection[str] = (SIGNER.public_key,)) -> list[int]:
    """Assert that ``rows``, as they were committed, are one whole chain; return its groups' sizes.

    Args:
        rows: The rows in the order in which they came.
        keys: The public keys that may have signed; none for a chain without signatures.
    """
    previous, groups = GENESIS, [0]
    for seq, row in enumerate(rows, start=1):
        assert row.chain_id == rows[0].chain_id
        assert (row.seq, row.prev_hash) == (seq, previous)
        assert row.chain_id is not None
        assert row.group_end is not None
        content = content_sha256(row.content)
        previous = link_hash(row.chain_id, seq, previous, row.group_end, content)
        assert row.row_hash == previous
        groups[-1] += 1
        if row.group_end == seq:
            _signed(row, keys)
            groups.append(0)
        else:
            assert (row.signing_key_id, row.head_signature) == (None, None)
            assert rows[seq].group_end == row.group_end
    assert groups.pop() == 0
    return groups


def _signed(row: AuditedRow, keys: Collection[str]) -> None:
    if not keys:
        assert (row.signing_key_id, row.head_signature) == (None, None)
        return
    assert row.chain_id is not None
    assert row.seq is not None
    assert row.row_hash is not None
    assert row.signing_key_id is not None
    assert row.head_signature is not None
    head = Head(chain_id=row.chain_id, seq=row.seq, row_hash=row.row_hash)
    (key,) = (key for key in keys if key_id_of(key) == row.signing_key_id)
    assert verified(key, row.head_signature, head_statement(head, row.signing_key_id))
