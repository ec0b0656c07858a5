"""Reading the audit log beside the service: which rows are there, and whether their chain holds."""

import asyncio
import subprocess
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import asyncpg
from typer.main import get_command

from onbook.adapters.database.postgres_url import is_postgres
from onbook.adapters.database.sqlite_file import sqlite_path
from onbook.cli.main import app
from onbook.wire.audit_chain import GENESIS
from server import ONBOOK, environment, query

_SQL = (
    "SELECT request_id, chain_id, seq, prev_hash, row_hash, group_end, head_signature, created_at "
    "FROM enhancement_logs"
)


@dataclass(frozen=True, slots=True)
class LoggedRow:
    """A row's place in its chain, and when its request began."""

    request_id: str
    chain_id: str
    seq: int
    prev_hash: str
    row_hash: str
    group_end: int
    head_signature: str | None
    created_at: str


def logged(url: str) -> list[LoggedRow]:
    """Return all rows, chain after chain, each in the order in which it was written."""
    found = asyncio.run(_fetch(url)) if is_postgres(url) else query(sqlite_path(url).parent, _SQL)
    # A time is a text on SQLite; as texts, those of one database compare as the times do.
    rows = [LoggedRow(*columns, created_at=str(time)) for *columns, time in found]  # type: ignore[arg-type,misc]  # as the statement names them
    begins: dict[str, str] = {}
    for row in rows:
        begins[row.chain_id] = min(row.created_at, begins.get(row.chain_id, row.created_at))
    return sorted(rows, key=lambda row: (begins[row.chain_id], row.chain_id, row.seq))


async def _fetch(url: str) -> list[tuple[object, ...]]:
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(_SQL)]
    finally:
        await connection.close()


def check_chains(rows: Sequence[LoggedRow]) -> None:
    """Check that every row is linked to the one before it, and every group whole and signed.

    A log that signs nothing at all passes here; ``verify`` does not let it.
    """
    signs = any(row.head_signature for row in rows)
    chains: dict[str, list[LoggedRow]] = defaultdict(list)
    for row in rows:
        chains[row.chain_id].append(row)
    for chain in chains.values():
        assert [row.seq for row in chain] == list(range(1, len(chain) + 1))
        assert chain[0].prev_hash == GENESIS
        assert all(before.row_hash == after.prev_hash for before, after in pairwise(chain))
        # A group that a kill cut in two would end in a row that is neither its last nor signed.
        ends = {row.seq for row in chain if row.seq == row.group_end}
        assert {row.group_end for row in chain} == ends
        assert not signs or all(bool(row.head_signature) == (row.seq in ends) for row in chain)


def verify(url: str, data_dir: Path) -> None:
    """Let ``onbook audit verify`` walk everything, as an auditor does."""
    if "audit" not in get_command(app).commands:  # type: ignore[attr-defined]  # a group has them
        return
    done = subprocess.run(
        [ONBOOK, "audit", "verify", "--database-url", url, "--data-dir", str(data_dir)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
