"""The audit log and the key store on a Postgres that fails under them."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import asyncpg
import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from onbook.adapters.database.access_key_store import SqlAccessKeyStore
from onbook.adapters.database.engine import create_engine
from onbook.adapters.database.errors import DatabaseAway, DatabaseUnusable
from onbook.adapters.database.postgres_connection import PostgresConnection, connect
from onbook.adapters.database.postgres_log import PostgresEnhancementLog
from onbook.adapters.database.tables import enhancement_logs
from onbook.adapters.errors import AlreadyRecorded
from onbook.adapters.files.spool import SpooledEnhancementLog
from onbook.ports.stores import AccessKey, EnhancementRow, StoreUnavailable
from postgres import NoPostgres, PostgresServer, postgres_server
from support_chain import audited_rows, sound

MakeRow = Callable[..., EnhancementRow]

KEY = AccessKey(
    key_id="key-1",
    name="a key",
    key_hmac="f" * 64,
    scopes=frozenset({"enhance"}),
    created_at=datetime(2026, 11, 22, tzinfo=UTC),
)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server that these tests may stop and kill."""
    try:
        with postgres_server() as server:
            yield server
    except NoPostgres as error:
        pytest.skip(f"Postgres cannot be tested: {error}")


@pytest.fixture
def own_url(server: PostgresServer) -> Iterator[str]:
    with server.database() as url:
        yield url
        with suppress(AssertionError):
            # For the next test, where this one failed half way.
            server.start()


@pytest.fixture
async def log(own_url: str) -> AsyncIterator[PostgresEnhancementLog]:
    log = PostgresEnhancementLog(own_url, statement_timeout_s=2.0, connect_timeout_s=2.0)
    yield log
    await log.close()


@asynccontextmanager
async def engine_on(url: str, *, statement_timeout_s: float = 5.0) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(url, statement_timeout_s=statement_timeout_s)
    try:
        yield engine
    finally:
        await engine.dispose()


async def chain(url: str, log: PostgresEnhancementLog) -> list[int]:
    """Assert that all rows are one whole chain; return the sizes of its groups."""
    async with engine_on(url) as engine:
        return sound(await audited_rows(log, engine), keys=())


async def request_ids(url: str) -> list[str]:
    async with engine_on(url) as engine, engine.connect() as connection:
        return list(await connection.scalars(select(enhancement_logs.c.request_id)))


async def restart(server: PostgresServer) -> None:
    # In a thread, so that the event loop sees the connections end.
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(server.start)


async def test_the_log_heals_after_an_outage(
    server: PostgresServer, own_url: str, log: PostgresEnhancementLog, make_row: MakeRow
) -> None:
    rows = [make_row() for _ in range(4)]
    await log.record(rows[0], None)
    await asyncio.to_thread(server.stop)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="nothing answers at its address"):
            await log.record(rows[1], None)
    await asyncio.to_thread(server.start)
    await log.record(rows[1], None)
    await restart(server)
    # Nobody noticed this one.
    await log.record(rows[2], None)
    assert await request_ids(own_url) == [row.request_id for row in rows[:3]]


async def test_no_acknowledged_row_is_lost_or_doubled_when_the_server_is_killed(
    server: PostgresServer, own_url: str, log: PostgresEnhancementLog, make_row: MakeRow
) -> None:
    acknowledged: list[EnhancementRow] = []
    failed: list[EnhancementRow] = []
    many = asyncio.Event()

    async def client() -> None:
        while not failed:
            row = make_row()
            try:
                await log.record(row, None)
            except StoreUnavailable:
                failed.append(row)
            else:
                acknowledged.append(row)
            if len(acknowledged) > 500:
                many.set()

    clients = [asyncio.create_task(client()) for _ in range(32)]
    await many.wait()
    await asyncio.to_thread(server.kill)
    await asyncio.gather(*clients)
    await asyncio.to_thread(server.start)
    found = set(await request_ids(own_url))
    assert {row.request_id for row in acknowledged} <= found
    # As the spool does it.
    for row in failed:
        with suppress(AlreadyRecorded):
            await log.record(row, None)
    ids = await request_ids(own_url)
    assert sorted(ids) == sorted(row.request_id for row in acknowledged + failed)
    assert sum(await chain(own_url, log)) == len(ids)


class _Losing:
    """A connection that is lost before or after its next statement is carried out."""

    def __init__(self, inner: PostgresConnection, *, after: bool) -> None:
        self._inner = inner
        self._after = after

    async def execute(self, query: str, *args: object) -> str:
        if self._after:
            await self._inner.execute(query, *args)
        self._inner.terminate()
        raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle")

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)


def lose_next(log: PostgresEnhancementLog, *, after: bool) -> None:
    connection = log._writer._connection
    assert connection is not None
    log._writer._connection = _Losing(connection, after=after)  # type: ignore[assignment]  # it passes on the rest


@pytest.mark.parametrize("after", [False, True])
async def test_rows_whose_commit_was_not_answered_are_looked_for(
    own_url: str, log: PostgresEnhancementLog, make_row: MakeRow, *, after: bool
) -> None:
    await log.record(make_row(request_id="first"), None)
    lose_next(log, after=after)
    rows = [make_row(request_id=f"r{number}") for number in range(3)]
    outcomes = await asyncio.gather(
        *(log.record(row, None) for row in rows), return_exceptions=True
    )
    if after:
        assert outcomes == [None] * 3
        assert await request_ids(own_url) == ["first", "r0", "r1", "r2"]
    else:
        assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 3
        assert "was lost" in str(outcomes[0])
        assert await request_ids(own_url) == ["first"]
    await log.record(make_row(request_id="last"), None)
    assert await chain(own_url, log) == ([1, 3, 1] if after else [1, 1])


async def test_a_commit_that_comes_to_light_late_neither_forks_nor_doubles(
    own_url: str, log: PostgresEnhancementLog, make_row: MakeRow
) -> None:
    await log.record(make_row(request_id="r0"), None)
    connection = log._writer._connection
    assert connection is not None
    late = await connect(own_url, synchronous_commit="on")

    class Late(_Losing):
        """The server goes on with the statement after the connection is lost."""

        async def execute(self, query: str, *args: object) -> str:
            await late.execute("BEGIN")
            await late.execute(query, *args)
            raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle")

    log._writer._connection = Late(connection, after=False)  # type: ignore[assignment]  # it passes on the rest
    row = make_row(request_id="r1")
    with pytest.raises(StoreUnavailable, match="was lost"):
        await log.record(row, None)
    following = [
        asyncio.create_task(log.record(make_row(request_id=name), None)) for name in ("r2", "r3")
    ]
    watcher = await connect(own_url)
    # It waits for the place in the chain that the late row may take.
    while not await watcher.fetchval("SELECT 1 FROM pg_locks WHERE NOT granted"):
        assert not following[0].done()
    await late.execute("COMMIT")
    await asyncio.gather(*following)
    with pytest.raises(AlreadyRecorded):
        await log.record(row, None)
    assert await request_ids(own_url) == ["r0", "r1", "r2", "r3"]
    assert sum(await chain(own_url, log)) == 4
    await late.close()
    await watcher.close()


async def test_another_row_with_the_same_request_is_not_taken_for_the_one_that_was_lost(
    log: PostgresEnhancementLog, make_row: MakeRow
) -> None:
    await log.record(make_row(request_id="twice"), None)
    lose_next(log, after=False)
    with pytest.raises(StoreUnavailable):
        await log.record(make_row(request_id="twice"), None)


async def test_a_row_that_was_spooled_though_it_was_committed_is_there_once(
    server: PostgresServer, own_url: str, make_row: MakeRow, tmp_path: Path
) -> None:
    inner = PostgresEnhancementLog(own_url)
    log = SpooledEnhancementLog(inner, tmp_path / "spool")
    await log.record(make_row(request_id="r0"), None)
    connection = inner._writer._connection
    assert connection is not None

    class CommittedThenGone(_Losing):
        async def execute(self, query: str, *args: object) -> str:
            try:
                return await super().execute(query, *args)
            finally:
                await asyncio.to_thread(server.stop)

    inner._writer._connection = CommittedThenGone(connection, after=True)  # type: ignore[assignment]  # as above
    await log.record(make_row(request_id="r1"), None)
    await log.record(make_row(request_id="r2"), None)
    assert log.pending == 2
    await asyncio.to_thread(server.start)
    assert await log.drain() == 2
    assert log.pending == 0
    await log.close()
    assert await request_ids(own_url) == ["r0", "r1", "r2"]
    assert not (tmp_path / "spool.damaged").exists()


async def test_a_connection_that_an_administrator_ends_costs_nothing(
    server: PostgresServer, own_url: str, log: PostgresEnhancementLog, make_row: MakeRow
) -> None:
    await log.record(make_row(), None)
    connection = log._writer._connection
    assert connection is not None
    gone = asyncio.Event()
    connection.add_termination_listener(lambda _connection: gone.set())
    server.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> "
        "pg_backend_pid() AND application_name = 'onbook'"
    )
    await gone.wait()
    await log.record(make_row(), None)
    assert len(await request_ids(own_url)) == 2


async def test_the_key_store_heals_after_an_outage(server: PostgresServer, own_url: str) -> None:
    async with engine_on(own_url) as engine:
        store = SqlAccessKeyStore(engine)
        await store.add(KEY)
        await restart(server)
        # Every pooled connection is lost, and nobody noticed.
        assert await asyncio.gather(*(store.by_hmac(KEY.key_hmac) for _ in range(6))) == [KEY] * 6
        await asyncio.to_thread(server.stop)
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="nothing answers at its address"):
                await store.by_hmac(KEY.key_hmac)
        await asyncio.to_thread(server.start)
        assert await store.by_hmac(KEY.key_hmac) == KEY


async def test_a_server_that_hangs_cannot_hang_a_request(own_url: str) -> None:
    async with engine_on(own_url, statement_timeout_s=1.0) as engine:
        store = SqlAccessKeyStore(engine)
        await store.add(KEY)
        async with engine.connect() as connection:
            pid = (await connection.exec_driver_sql("SELECT pg_backend_pid()")).scalar_one()
        os.kill(pid, signal.SIGSTOP)
        try:
            started = time.monotonic()
            with pytest.raises(StoreUnavailable, match="does not answer in time"):
                await store.by_hmac(KEY.key_hmac)
            # The statement's second and one of grace, but not the same again for a rollback.
            assert time.monotonic() - started < 3.5
            # Another connection is opened; the server itself lives.
            assert await store.by_hmac(KEY.key_hmac) == KEY
        finally:
            os.kill(pid, signal.SIGCONT)


async def test_an_address_that_accepts_and_says_nothing(make_row: MakeRow) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://u@127.0.0.1:{silent.getsockname()[1]}/d"
        log = PostgresEnhancementLog(url, connect_timeout_s=0.1)
        with pytest.raises(StoreUnavailable, match="does not answer in time"):
            await log.record(make_row(), None)
        await log.close()
        async with engine_on(url, statement_timeout_s=0.1) as engine:
            with pytest.raises(DatabaseAway, match="does not answer in time"):
                await SqlAccessKeyStore(engine).all()


async def test_a_lock_held_elsewhere_refuses_and_then_recovers(
    own_url: str, make_row: MakeRow
) -> None:
    log = PostgresEnhancementLog(own_url, statement_timeout_s=0.1)
    other = await connect(own_url)
    await other.execute("BEGIN; LOCK TABLE enhancement_logs, access_keys")
    row = make_row()
    with pytest.raises(StoreUnavailable, match="took too long"):
        await log.record(row, None)
    async with engine_on(own_url, statement_timeout_s=0.1) as engine:
        with pytest.raises(StoreUnavailable, match="took too long"):
            await SqlAccessKeyStore(engine).add(KEY)
        await other.execute("ROLLBACK")
        await SqlAccessKeyStore(engine).add(KEY)
    await other.close()
    await log.record(row, None)
    await log.close()
    assert await request_ids(own_url) == [row.request_id]


async def test_a_migration_under_a_running_store_costs_at_most_one_read(
    server: PostgresServer, own_url: str
) -> None:
    async with engine_on(own_url) as engine:
        store = SqlAccessKeyStore(engine)
        await store.add(KEY)
        await store.all()
        server.execute(
            "ALTER TABLE access_keys ALTER COLUMN name TYPE varchar(100)",
            database=own_url.rpartition("/")[2],
        )
        with pytest.raises(StoreUnavailable, match="tables have just changed; try again"):
            await store.all()
        assert await store.all() == [KEY]


async def test_a_request_does_not_wait_long_for_a_connection(own_url: str) -> None:
    engine = create_engine(own_url, statement_timeout_s=0.1, pool_size=1)
    async with engine.connect(), engine.connect():
        with pytest.raises(StoreUnavailable, match="all connections to it are in use"):
            await SqlAccessKeyStore(engine).all()
    assert await SqlAccessKeyStore(engine).all() == []
    await engine.dispose()


async def test_a_database_that_is_dropped_and_restored(
    server: PostgresServer, own_url: str, log: PostgresEnhancementLog, make_row: MakeRow
) -> None:
    await log.record(make_row(), None)
    async with engine_on(own_url) as engine:
        store = SqlAccessKeyStore(engine)
        await store.add(KEY)
        await asyncio.to_thread(server.drop_database, own_url)
        with pytest.raises(StoreUnavailable, match=r"does not exist|was dropped"):
            await log.record(make_row(), None)
        with pytest.raises(DatabaseUnusable, match="does not exist"):
            await store.all()
        restored = await asyncio.to_thread(server.fresh_database)
        server.execute(
            f"ALTER DATABASE {restored.rpartition('/')[2]} RENAME TO {own_url.rpartition('/')[2]}"
        )
        assert await store.all() == []
    row = make_row()
    await log.record(row, None)
    assert await request_ids(own_url) == [row.request_id]


async def test_a_read_only_server_is_named_and_left_for_another(
    server: PostgresServer, own_url: str, log: PostgresEnhancementLog, make_row: MakeRow
) -> None:
    name = own_url.rpartition("/")[2]
    server.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with pytest.raises(StoreUnavailable, match="read-only"):
        await log.record(make_row(), None)
    server.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    await log.record(make_row(), None)


async def test_a_wrong_password_is_named_and_not_shown(
    server: PostgresServer, own_url: str, make_row: MakeRow
) -> None:
    wrong = "not-the-password"
    url = own_url.replace(quote(server.password, safe=""), wrong)
    log = PostgresEnhancementLog(url)
    async with engine_on(url) as engine:
        for attempt in (log.record(make_row(), None), SqlAccessKeyStore(engine).all()):
            with pytest.raises(StoreUnavailable, match="the password is wrong") as caught:
                await attempt
            assert wrong not in str(caught.value)
    await log.close()


async def test_a_database_without_tables_is_named(
    server: PostgresServer, own_url: str, make_row: MakeRow
) -> None:
    del own_url
    with server.database(migrated=False) as url:
        log = PostgresEnhancementLog(url)
        with pytest.raises(StoreUnavailable, match="not set up by Onbook"):
            await log.record(make_row(), None)
        await log.close()


async def test_a_bug_in_the_writer_fails_its_group_and_no_more(
    own_url: str,
    log: PostgresEnhancementLog,
    make_row: MakeRow,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def broken(_group: object) -> None:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(log._writer, "commit", broken)
        with pytest.raises(StoreUnavailable, match="stopped"):
            await asyncio.wait_for(log.record(make_row(), None), 10)
    row = make_row()
    await log.record(row, None)
    assert await request_ids(own_url) == [row.request_id]
