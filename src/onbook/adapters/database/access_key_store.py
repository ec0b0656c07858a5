"""Who may call, in the database."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import structlog
from sqlalchemy import Row, Table, and_, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from onbook.adapters.database.engine import writer
from onbook.adapters.database.guard import store_errors
from onbook.adapters.database.tables import access_keys
from onbook.ports.stores import AccessKey

_log = structlog.get_logger(__name__)

_table: Final[Table] = access_keys
_all: Final = select(_table).order_by(_table.c.created_at, _table.c.key_id)


class SqlAccessKeyStore:
    """``ports.AccessKeyStore`` on SQLAlchemy Core."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._writer = writer(engine)

    async def add(self, key: AccessKey) -> None:
        """Store a new key."""
        with store_errors("store the access key"):
            async with self._writer.begin() as connection:
                await connection.execute(
                    insert(_table).values(
                        key_id=key.key_id,
                        name=key.name,
                        key_hmac=key.key_hmac,
                        scopes=sorted(key.scopes),
                        created_at=key.created_at,
                        expires_at=key.expires_at,
                        revoked_at=key.revoked_at,
                        last_used_at=key.last_used_at,
                    )
                )

    async def by_hmac(self, key_hmac: str) -> AccessKey | None:
        """Return the key with this HMAC, revoked and expired ones too."""
        with store_errors("look up the access key"):
            async with self._engine.connect() as connection:
                row = (
                    await connection.execute(select(_table).where(_table.c.key_hmac == key_hmac))
                ).one_or_none()
        return None if row is None else _key(row)

    async def all(self) -> Sequence[AccessKey]:
        """Return every key, oldest first."""
        with store_errors("list the access keys"):
            async with self._engine.connect() as connection:
                rows = (await connection.execute(_all)).all()
        return [_key(row) for row in rows]

    async def revoke(self, key_id: str, *, at: datetime) -> bool:
        """Revoke a key; return False if there is none with this id or it already was."""
        with store_errors("revoke the access key"):
            async with self._writer.begin() as connection:
                result = await connection.execute(
                    update(_table)
                    .where(_table.c.key_id == key_id, _table.c.revoked_at.is_(None))
                    .values(revoked_at=at)
                )
        return result.rowcount == 1

    async def touch(self, key_ids: Sequence[str], *, at: datetime) -> None:
        """Note when keys were last used; an older note never replaces a newer one."""
        if not key_ids:
            return
        with store_errors("note the use of access keys"):
            older = and_(
                _table.c.key_id.in_(key_ids),
                or_(_table.c.last_used_at.is_(None), _table.c.last_used_at < at),
            )
            async with self._writer.begin() as connection:
                # Always in the same order: two gateways that note the same keys would otherwise
                # wait for each other on Postgres. SQLite has one writer, and no such clause.
                await connection.execute(
                    select(_table.c.key_id)
                    .where(older)
                    .order_by(_table.c.key_id)
                    .with_for_update(key_share=True)
                )
                await connection.execute(update(_table).where(older).values(last_used_at=at))


def _key(row: Row[Any]) -> AccessKey:
    scopes = row.scopes
    if not isinstance(scopes, list) or not all(isinstance(scope, str) for scope in scopes):
        # Damaged by hand: better a key that may do nothing than one that may do anything.
        _log.warning("access_key_scopes_invalid", key_id=row.key_id)
        scopes = []
    return AccessKey(
        key_id=row.key_id,
        name=row.name,
        key_hmac=row.key_hmac,
        scopes=frozenset(scopes),
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
    )
