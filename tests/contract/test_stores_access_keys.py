from datetime import UTC, datetime, timedelta

import pytest
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from onbook.adapters.database.access_key_store import SqlAccessKeyStore
from onbook.adapters.database.engine import writer
from onbook.ports.stores import AccessKey, AccessKeyStore, StoreUnavailable

AT = datetime(2026, 11, 22, 10, 0, 0, 5, tzinfo=UTC)


def _key(number: int = 1, **changes: object) -> AccessKey:
    values: dict[str, object] = {
        "key_id": f"key-{number}",
        "name": "Küche 🔑",
        "key_hmac": f"{number:064x}",
        "scopes": frozenset({"enhance", "chat"}),
        "created_at": AT + timedelta(seconds=number),
    }
    return AccessKey(**{**values, **changes})  # type: ignore[arg-type]  # a test's own field names


async def test_a_key_is_found_by_its_hmac(access_key_store: AccessKeyStore) -> None:
    key = _key(expires_at=AT + timedelta(days=1))
    await access_key_store.add(key)
    assert await access_key_store.by_hmac(key.key_hmac) == key
    assert await access_key_store.by_hmac("f" * 64) is None


async def test_keys_are_listed_oldest_first(access_key_store: AccessKeyStore) -> None:
    keys = [_key(3), _key(1, scopes=frozenset()), _key(2)]
    for key in keys:
        await access_key_store.add(key)
    assert [key.key_id for key in await access_key_store.all()] == ["key-1", "key-2", "key-3"]


@pytest.mark.parametrize("twin", [_key(1, key_hmac="e" * 64), _key(2, key_hmac=_key().key_hmac)])
async def test_a_key_is_added_once(access_key_store: AccessKeyStore, twin: AccessKey) -> None:
    await access_key_store.add(_key())
    with pytest.raises(StoreUnavailable) as caught:
        await access_key_store.add(twin)
    assert twin.key_hmac not in str(caught.value)
    assert await access_key_store.all() == [_key()]


async def test_a_key_is_revoked_once(access_key_store: AccessKeyStore) -> None:
    await access_key_store.add(_key())
    assert await access_key_store.revoke("key-1", at=AT)
    assert not await access_key_store.revoke("key-1", at=AT + timedelta(days=1))
    assert not await access_key_store.revoke("key-2", at=AT)
    found = await access_key_store.by_hmac(_key().key_hmac)
    assert found is not None
    assert found.revoked_at == AT


async def test_use_is_noted_and_never_goes_back(access_key_store: AccessKeyStore) -> None:
    await access_key_store.add(_key(1))
    await access_key_store.add(_key(2))
    await access_key_store.touch(["key-1", "nobody"], at=AT)
    await access_key_store.touch(["key-1"], at=AT - timedelta(hours=1))
    await access_key_store.touch([], at=AT)
    assert [key.last_used_at for key in await access_key_store.all()] == [AT, None]
    await access_key_store.touch(["key-1"], at=AT + timedelta(hours=1))
    assert (await access_key_store.all())[0].last_used_at == AT + timedelta(hours=1)


async def test_damaged_scopes_allow_nothing(engine: AsyncEngine) -> None:
    store = SqlAccessKeyStore(engine)
    await store.add(_key())
    async with writer(engine).begin() as connection:
        await connection.exec_driver_sql("UPDATE access_keys SET scopes = '\"admin\"'")
    with structlog.testing.capture_logs() as logs:
        (found,) = await store.all()
    assert found.scopes == frozenset()
    assert [event["event"] for event in logs] == ["access_key_scopes_invalid"]
