"""At 100,000 templates and 1,000,000 log rows, no query of a running gateway reads a whole table.

The statements are those that the stores really send, caught on their way to the database.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import event, text
from sqlalchemy.engine import Connection
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.ext.asyncio import AsyncEngine

from onbook.adapters.database.engine import create_engine, writer
from onbook.adapters.database.schema import migrate
from onbook.adapters.database.sqlite_file import sqlite_url
from onbook.adapters.database.template_library import SqlTemplateLibrary
from onbook.adapters.database.template_store import SqlTemplateStore
from onbook.ports.template_library import TemplateFilter

if TYPE_CHECKING:
    from postgres import PostgresServer

TEMPLATES = 100_000
LOGS = 1_000_000
BIG = (
    "prompt_templates",
    "prompt_template_versions",
    "template_events",
    "enhancement_logs",
    "enhancement_texts",
)
NAME = "template_050000"
CONTENT = (
    "template_name, version, model_type, use_case, content_mode, target, system_prompt,"
    " token_limit, token_unit, max_tokens, sampling, examples, examples_sent, variables,"
    " description, tests"
)
VALUES = (
    "{name}, 1, {name}, 'chat', 'sfw', NULL, 'Describe the scene.', 75, 'model', 200,"
    " '{{}}', '[]', 0, '[]', '', '[]'"
)
# The seed's own query, in each dialect's words for a day ago.
ANALYSIS = (
    "SELECT template_name, AVG(execution_time_ms) as avg_time, COUNT(*) as usage_count,"
    " AVG(fallback_level) as avg_fallback FROM enhancement_logs"
    " WHERE created_at > {day_ago} GROUP BY template_name"
)


@dataclass(frozen=True, slots=True)
class Dialect:
    series: str
    name: str
    uuid: str
    at: str
    day_ago: str
    explain: str


SQLITE = Dialect(
    series="WITH RECURSIVE series(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM series"
    " WHERE i < {count}) INSERT INTO {into} SELECT {values} FROM series",
    name="printf('template_%06d', i)",
    uuid="printf('%036d', i)",
    at=f"strftime('%Y-%m-%dT%H:%M:%f000+00:00', 'now', (i - {LOGS}) || ' seconds')",
    day_ago="strftime('%Y-%m-%dT%H:%M:%f000+00:00', 'now', '-1 day')",
    explain="EXPLAIN QUERY PLAN ",
)
POSTGRES = Dialect(
    series="INSERT INTO {into} SELECT {values} FROM generate_series(1, {count}) AS series(i)",
    name="'template_' || lpad(i::text, 6, '0')",
    uuid="lpad(i::text, 36, '0')",
    at=f"now() - ({LOGS} - i) * interval '1 second'",
    day_ago="NOW() - INTERVAL '24 hours'",
    explain="EXPLAIN ",
)


@pytest.fixture(params=["sqlite", "postgres"], scope="module")
def filled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Dialect]]:
    if request.param == "sqlite":
        path = tmp_path_factory.mktemp("plans") / "onbook.db"
        migrate(sqlite_url(path))
        asyncio.run(_fill(sqlite_url(path), SQLITE))
        yield sqlite_url(path), SQLITE
        path.unlink()
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        with server.database() as url:
            asyncio.run(_fill(url, POSTGRES))
            yield url, POSTGRES


@pytest.fixture
async def big(filled: tuple[str, Dialect]) -> AsyncIterator[tuple[AsyncEngine, Dialect]]:
    url, dialect = filled
    engine = create_engine(url)
    yield engine, dialect
    await engine.dispose()


async def _fill(url: str, dialect: Dialect) -> None:
    """Put in the rows that the triggers would write, without paying for each one's event."""
    engine = create_engine(url, statement_timeout_s=120)
    try:
        await _fill_with(engine, dialect)
    finally:
        await engine.dispose()


async def _fill_with(engine: AsyncEngine, dialect: Dialect) -> None:
    values = VALUES.format(name=dialect.name)
    logs = (
        "enhancement_logs (id, request_id, created_at, function, caller, template_name,"
        " content_mode, attempts, execution_time_ms, fallback_level, integrity_status,"
        " prompt_sha256)"
    )
    log_values = (
        f"{dialect.uuid}, {dialect.uuid}, {dialect.at}, 'enhance-prompt', 'key',"
        " 'template_' || (i % 12), 'sfw', 1, 10.5, 0, 'verified', ''"
    )
    statements = [
        dialect.series.format(
            into=f"prompt_templates ({CONTENT}, id, changed_epoch)",
            values=f"{values}, {dialect.uuid}, i",
            count=TEMPLATES,
        ),
        dialect.series.format(
            into=f"prompt_template_versions ({CONTENT}, author)",
            values=f"{values}, 'seed'",
            count=TEMPLATES,
        ),
        dialect.series.format(
            into="template_events (event_id, template_name, action, actor, to_version)",
            values=f"{dialect.uuid}, {dialect.name}, 'created', 'seed', 1",
            count=TEMPLATES,
        ),
        dialect.series.format(into=logs, values=log_values, count=LOGS),
        "UPDATE template_epoch SET epoch = (SELECT max(changed_epoch) FROM prompt_templates)",
    ]
    async with writer(engine).begin() as connection:
        run = connection.exec_driver_sql
        if dialect is POSTGRES:
            await run("SET LOCAL session_replication_role = replica")
            triggers: list[tuple[str, str]] = []
        else:
            found = await connection.execute(
                text("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
            )
            triggers = [(str(row["name"]), str(row["sql"])) for row in found.mappings()]
        for name, _ in triggers:
            await run(f"DROP TRIGGER {name}")
        for statement in statements:
            await run(statement)
        for _, sql in triggers:
            await run(sql)
    async with writer(engine).begin() as connection:
        await connection.exec_driver_sql("ANALYZE")


@contextmanager
def _caught(engine: AsyncEngine) -> Iterator[list[tuple[str, object]]]:
    statements: list[tuple[str, object]] = []

    def catch(
        _connection: Connection,
        _cursor: DBAPICursor,
        statement: str,
        parameters: object,
        _context: object,
        _many: bool,  # noqa: FBT001 - SQLAlchemy calls it so
    ) -> None:
        if statement.lstrip().startswith(("SELECT", "UPDATE", "DELETE", "WITH")):
            statements.append((statement, parameters))

    event.listen(engine.sync_engine, "before_cursor_execute", catch)
    try:
        yield statements
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", catch)


async def _plan(engine: AsyncEngine, dialect: Dialect, statement: str, given: object) -> str:
    async with engine.connect() as connection:
        found = await connection.exec_driver_sql(
            dialect.explain + statement,
            given,  # type: ignore[arg-type]  # the parameters that were caught, as they were
        )
        return "\n".join(" ".join(map(str, row)) for row in found.all())


def _whole_tables(plan: str) -> list[str]:
    lines = [line for line in plan.splitlines() if "Seq Scan on" in line or "SCAN " in line]
    if "SCAN template_events" in plan and "TEMP B-TREE" not in plan:
        # SQLite names no index for the order of its own row ids, in which a LIMIT ends early.
        lines = [line for line in lines if "template_events" not in line]
    return [
        line
        for line in lines
        if any(f" {table}" in line for table in BIG) and " USING " not in line
    ]


Operation = Callable[[SqlTemplateStore, SqlTemplateLibrary], Awaitable[object]]
OPERATIONS: dict[str, Operation] = {
    "epoch": lambda store, _: store.epoch(),
    "changes": lambda store, _: store.changes(TEMPLATES - 3),
    "pinned": lambda store, _: store.pinned(NAME, 1),
    "find": lambda _, library: library.find(NAME),
    "version": lambda _, library: library.version(NAME, 1),
    "versions": lambda _, library: library.versions(NAME),
    "events of one": lambda _, library: library.events(NAME),
    "events of all": lambda _, library: library.events(None, limit=50),
    "list": lambda _, library: library.list(TemplateFilter(), after="template_050000", limit=50),
    "splits": lambda _, library: library.splits(NAME),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_no_operation_reads_a_whole_table(
    big: tuple[AsyncEngine, Dialect], operation: str
) -> None:
    engine, dialect = big
    store, library = SqlTemplateStore(engine), SqlTemplateLibrary(engine)
    try:
        with _caught(engine) as statements:
            result = await OPERATIONS[operation](store, library)
        assert statements
        assert result is not None
        for statement, given in statements:
            plan = await _plan(engine, dialect, statement, given)
            assert _whole_tables(plan) == [], f"{statement}\n{plan}"
    finally:
        await store.close()


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM enhancement_logs WHERE request_id = '{request_id}'",
        (
            "SELECT * FROM enhancement_logs WHERE template_name = 'template_3'"
            " ORDER BY created_at DESC LIMIT 50"
        ),
        "SELECT * FROM enhancement_logs ORDER BY created_at DESC LIMIT 50",
        ANALYSIS,
    ],
)
async def test_the_logs_are_found_by_index(
    big: tuple[AsyncEngine, Dialect], statement: str
) -> None:
    engine, dialect = big
    sql = statement.format(day_ago=dialect.day_ago, request_id=f"{500_000:036}")
    plan = await _plan(engine, dialect, sql, None)
    assert _whole_tables(plan) == [], plan
    async with engine.connect() as connection:
        assert (await connection.execute(text(sql))).all()


@pytest.mark.timeout(300)
async def test_a_whole_table_would_be_noticed(big: tuple[AsyncEngine, Dialect]) -> None:
    engine, dialect = big
    sql = "SELECT * FROM prompt_templates WHERE system_prompt = 'x'"
    assert _whole_tables(await _plan(engine, dialect, sql, None)), "the check is blind"
