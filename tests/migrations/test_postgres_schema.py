import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from onbook.adapters.database.chain import LOCK, downgrade, upgrade
from onbook.adapters.database.engine import create_engine
from onbook.adapters.database.errors import DatabaseAway, DatabaseTooNew, DatabaseUnusable
from onbook.adapters.database.postgres_schema import in_own_loop, postgres_revision
from onbook.adapters.database.schema import HEAD, migrate
from onbook.adapters.database.tables import metadata
from postgres import PostgresServer, postgres_server
from raw_book import Row, raw_book

# Everything of the schema that has a definition in words.
DESCRIBED = """
SELECT 'column', table_name::text, column_name::text,
    concat_ws(' ', data_type, character_maximum_length, is_nullable, column_default, is_identity)
FROM information_schema.columns WHERE table_schema = 'public'
UNION ALL
SELECT 'constraint', conrelid::regclass::text, conname::text, pg_get_constraintdef(oid)
FROM pg_constraint WHERE connamespace = 'public'::regnamespace
UNION ALL
SELECT 'index', tablename::text, indexname::text, indexdef FROM pg_indexes
WHERE schemaname = 'public'
"""
BEHAVIOUR = """
SELECT 'trigger', tgrelid::regclass::text, tgname::text, pg_get_triggerdef(oid)
FROM pg_trigger WHERE NOT tgisinternal
UNION ALL
SELECT 'function', '', proname::text, prosrc FROM pg_proc
WHERE pronamespace = 'public'::regnamespace
"""


def _described(url: str, query: str = f"{DESCRIBED} UNION ALL {BEHAVIOUR}") -> set[Row]:
    with raw_book(url) as book:
        return {row for row in book.rows(query) if row[1] != "alembic_version"}


@pytest.fixture
def empty_url(postgres: PostgresServer) -> str:
    return postgres.fresh_database(migrated=False)


def _with_connection(url: str, work: Callable[[Connection], object]) -> object:
    async def run() -> object:
        engine = create_engine(url)
        try:
            async with engine.begin() as connection:
                return await connection.run_sync(work)
        finally:
            await engine.dispose()

    return in_own_loop(run())


def test_a_new_database_is_brought_to_the_head(empty_url: str) -> None:
    assert postgres_revision(empty_url) is None
    migrate(empty_url)
    assert postgres_revision(empty_url) == HEAD
    with raw_book(empty_url) as book:
        assert book.rows("SELECT epoch FROM template_epoch") == [(0,)]


@pytest.mark.filterwarnings("ignore:autogenerate skipping")
def test_the_chain_and_the_tables_describe_one_schema(postgres_url: str, empty_url: str) -> None:
    def compared(connection: Connection) -> object:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        return compare_metadata(context, metadata)

    assert _with_connection(postgres_url, compared) == []
    _with_connection(empty_url, metadata.create_all)
    assert _described(postgres_url, DESCRIBED) == _described(empty_url, DESCRIBED)


def test_migrating_again_changes_nothing(postgres_url: str) -> None:
    before = _described(postgres_url)
    migrate(postgres_url)
    upgrade(postgres_url)
    assert _described(postgres_url) == before


def test_down_and_up_again(postgres_url: str) -> None:
    before = _described(postgres_url)
    downgrade(postgres_url, "base")
    assert _described(postgres_url) == set()
    assert postgres_revision(postgres_url) is None
    migrate(postgres_url)
    assert _described(postgres_url) == before


def test_several_processes_may_start_at_once(empty_url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(migrate, [empty_url] * 4))
    assert postgres_revision(empty_url) == HEAD


def test_a_failed_migration_leaves_nothing_half_done(
    empty_url: str, postgres: PostgresServer
) -> None:
    upgrade(empty_url, "2026_11_22_first_tables")
    before = _described(empty_url)
    # In the way of a late step.
    name = empty_url.rpartition("/")[2]
    postgres.execute("CREATE TABLE signing_keys (theirs integer)", database=name)
    with pytest.raises((DatabaseUnusable, DatabaseAway), match="cannot be used"):
        migrate(empty_url)
    postgres.execute("DROP TABLE signing_keys", database=name)
    assert _described(empty_url) == before
    migrate(empty_url)


def test_a_newer_database_is_refused(postgres_url: str) -> None:
    with raw_book(postgres_url) as book:
        book.run("UPDATE alembic_version SET version_num = '2027_01_01_more'")
    with pytest.raises(DatabaseTooNew, match=r"newer version of Onbook \(revision 2027_01_01_more"):
        migrate(postgres_url)


@pytest.mark.parametrize(
    "statements",
    [
        ["CREATE TABLE theirs (id integer)"],
        [
            "CREATE TABLE theirs (id integer)",
            "CREATE TABLE alembic_version (version_num text)",
            "INSERT INTO alembic_version VALUES ('ae1027a6acf')",
        ],
    ],
    ids=["tables", "tables with revisions of their own"],
)
def test_the_database_of_another_program_is_refused_untouched(
    empty_url: str, statements: list[str]
) -> None:
    with raw_book(empty_url) as book:
        for statement in statements:
            book.run(statement)
    before = _described(empty_url)
    with pytest.raises(DatabaseUnusable, match="belongs to another program") as caught:
        migrate(empty_url)
    assert not isinstance(caught.value, DatabaseTooNew)
    assert _described(empty_url) == before


def _quoted_password(server: PostgresServer) -> str:
    return quote(server.password, safe="")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda url, password: url.replace(password, "hunter2"), "the password is wrong"),
        (lambda url, _: url.replace("//onbook:", "//nobody_at_all:"), "the password is wrong"),
        (lambda url, _: url.rpartition("/")[0] + "/none", "it does not exist"),
        (lambda url, _: url + "?connect=yes", "its options may only be"),
        (lambda url, password: url.replace(password, "a/b"), "special character"),
    ],
    ids=["password", "user", "database", "option", "unquoted"],
)
def test_what_somebody_has_to_mend_is_refused(
    postgres: PostgresServer, change: Callable[[str, str], str], sentence: str
) -> None:
    url = change(postgres.url(), _quoted_password(postgres))
    with pytest.raises(DatabaseUnusable, match=sentence) as caught:
        migrate(url)
    for secret in ("hunter2", "a/b", postgres.password, _quoted_password(postgres)):
        assert secret not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_user_without_the_right_to_create_is_refused(
    postgres: PostgresServer, empty_url: str
) -> None:
    password = postgres.password.replace("'", "''")
    name = empty_url.rpartition("/")[2]
    postgres.execute(f"CREATE ROLE guest LOGIN PASSWORD '{password}'")
    postgres.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC", database=name)
    try:
        with pytest.raises(DatabaseUnusable, match="lacks a privilege"):
            migrate(postgres.url(name, user="guest"))
    finally:
        postgres.execute("DROP ROLE guest")


def test_a_database_of_another_encoding_is_refused(postgres: PostgresServer) -> None:
    postgres.execute("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    with pytest.raises(DatabaseUnusable, match="ENCODING 'UTF8'"):
        migrate(postgres.url("latin"))


def test_a_read_only_database_is_refused_even_where_it_is_current(
    postgres: PostgresServer, postgres_url: str
) -> None:
    name = postgres_url.rpartition("/")[2]
    postgres.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with pytest.raises(DatabaseAway, match="is read-only"):
        migrate(postgres_url)


def test_a_server_that_is_away_is_said_to_be_away_and_comes_back() -> None:
    with postgres_server() as server:
        url = server.fresh_database()
        server.stop()
        with pytest.raises(DatabaseAway, match="nothing answers") as caught:
            migrate(url)
        assert server.password not in str(caught.value)
        assert _quoted_password(server) not in str(caught.value)
        server.start()
        server.kill()
        server.start()
        migrate(url)


def test_who_waits_for_another_migration_too_long_is_told(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onbook.adapters.database.chain.BUSY_TIMEOUT_S", 0.1)
    with raw_book(postgres_url) as book:
        book.run("BEGIN")
        book.run(f"SELECT pg_advisory_xact_lock({LOCK})")
        with pytest.raises(DatabaseAway, match="another transaction holds a lock"):
            downgrade(postgres_url, "base")
        book.run("ROLLBACK")


def test_a_current_database_is_recognised_without_the_heavy_imports(postgres_url: str) -> None:
    code = (
        "import sys; from onbook.adapters.database.schema import migrate; migrate(sys.argv[1]);"
        "print([name for name in ('sqlalchemy', 'alembic', 'aiosqlite') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, postgres_url], capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_a_schema_whose_name_needs_quotes_is_one_like_others(postgres: PostgresServer) -> None:
    with postgres.database(migrated=False) as url:
        name = url.rpartition("/")[2]
        postgres.execute('CREATE SCHEMA "Ob ook"', database=name)
        postgres.execute(f'ALTER DATABASE {name} SET search_path = "Ob ook"')
        migrate(url)
        assert postgres_revision(url) == HEAD
