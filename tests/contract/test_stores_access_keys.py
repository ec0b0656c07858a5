import asyncio
from datetime import UTC, datetime, timedelta

import pytest
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from onbook.adapters.database.access_key_store import SqlAccessKeyStore
from onbook.adapters.database.engine import create_engine, writer
from onbook.adapters.database.postgres_connection import connect
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


async def test_noting_use_and_revoking_at_once(access_key_store: AccessKeyStore) -> None:
    keys = [f"key-{number}" for number in range(1, 9)]
    for number in range(1, 9):
        await access_key_store.add(_key(number))
    times = [AT + timedelta(seconds=number) for number in range(8)]
    await asyncio.gather(
        *(access_key_store.touch(keys, at=at) for at in times),
        *(access_key_store.touch(keys[::-1], at=at) for at in reversed(times)),
        *(access_key_store.revoke(key, at=AT) for key in keys),
    )
    found = await access_key_store.all()
    assert {key.last_used_at for key in found} == {times[-1]}
    assert {key.revoked_at for key in found} == {AT}


async def test_noting_use_takes_its_locks_in_one_order(postgres_url: str) -> None:
    engine = create_engine(postgres_url)
    store = SqlAccessKeyStore(engine)
    # On disk in the other order, in which a plain update would lock them.
    for number in (2, 1):
        await store.add(_key(number))
    other = await connect(postgres_url)
    await other.execute("BEGIN; SELECT FROM access_keys WHERE key_id = 'key-1' FOR UPDATE")
    noting = asyncio.create_task(store.touch(["key-1", "key-2"], at=AT))
    while not await other.fetch(
        "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname ="
        " current_database()"
    ):
        assert not noting.done()
    # It waits for the first and holds nothing, so whoever has the first may go on to the second.
    await other.execute("SELECT FROM access_keys WHERE key_id = 'key-2' FOR UPDATE NOWAIT; COMMIT")
    await other.close()
    await noting
    assert [key.last_used_at for key in await store.all()] == [AT, AT]
    await engine.dispose()


async def test_damaged_scopes_allow_nothing(engine: AsyncEngine) -> None:
    store = SqlAccessKeyStore(engine)
    await store.add(_key())
    async with writer(engine).begin() as connection:
        await connection.exec_driver_sql("UPDATE access_keys SET scopes = '\"admin\"'")
    with structlog.testing.capture_logs() as logs:
        (found,) = await store.all()
    assert found.scopes == frozenset()
    assert [event["event"] for event in logs] == ["access_key_scopes_invalid"]
