"""The doctor's look at a Postgres database; read-only."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from onbook.adapters.database.errors import DatabaseTooNew, DatabaseUnusable, unreachable
from onbook.adapters.database.postgres_connection import FAILURES, PostgresConnection, connect
from onbook.adapters.database.postgres_schema import in_own_loop, postgres_revision
from onbook.adapters.database.postgres_url import place
from onbook.adapters.database.schema import HEAD
from onbook.cli.doctor_checks import LOOK_S, Check, failure, ok, warning, within
from onbook.cli.doctor_findings import ACTIVE_KEYS_SQL, DatabaseFindings, check_templates
from onbook.ports.stores import StoreUnavailable

if TYPE_CHECKING:
    from onbook.settings import Settings

# Name look-ups know no timeout; the steps below have one each.
_ALL_S: Final = 4 * LOOK_S
_CLOCK_S: Final = 5.0
_FEW_CONNECTIONS: Final = 10

_SERVER: Final = """
SELECT current_setting('server_version'), pg_is_in_recovery(),
  current_setting('default_transaction_read_only') = 'on',
  current_setting('fsync') = 'on', clock_timestamp()
"""
_ROOM: Final = """
SELECT current_setting('max_connections')::integer
  - current_setting('superuser_reserved_connections')::integer
  - (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')
"""
_FORBIDDEN: Final = """
SELECT relname::text FROM pg_class
WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())
  AND relname IN ('prompt_templates', 'enhancement_logs', 'enhancement_texts', 'access_keys')
  AND NOT (has_table_privilege(oid, 'SELECT') AND has_table_privilege(oid, 'INSERT'))
ORDER BY relname
"""
# The planner's estimate: counting millions of rows takes longer than a look may.
_ROWS: Final = "SELECT reltuples FROM pg_class WHERE oid = 'enhancement_logs'::regclass"


def look_at_postgres(settings: "Settings") -> DatabaseFindings:
    """Check that the database answers, is current and writable, and has the templates."""
    try:
        return within(_ALL_S, lambda: _look(settings))
    except (StoreUnavailable, TimeoutError) as error:
        told = str(error) or f"The database does not answer within {_ALL_S:.0f} s."
        return DatabaseFindings([failure("database", told, _fix(error))])


def _fix(error: Exception) -> str:
    if isinstance(error, DatabaseTooNew):
        return "start that version, or restore a backup made by this one"
    if isinstance(error, DatabaseUnusable):
        return "correct ONBOOK_DATABASE_URL or what it names"
    return "see that the server runs and that this machine reaches it"


def _look(settings: "Settings") -> DatabaseFindings:
    # Says what is wrong with the address, the sign-in, the version and the encoding.
    revision = postgres_revision(settings.database)
    return in_own_loop(_look_inside(settings, revision))


async def _look_inside(settings: "Settings", revision: str | None) -> DatabaseFindings:
    url = settings.database
    findings = DatabaseFindings()
    connection = await connect(url, connect_timeout_s=LOOK_S, statement_timeout_s=LOOK_S)
    try:
        findings.checks += await _server_checks(connection, place(url), revision)
        if revision is not None:
            findings.checks.append(await _access(connection))
            if findings.checks[-1].status == "ok":
                await _contents(connection, settings, findings)
    except FAILURES as error:
        raise unreachable(place(url), error) from None
    finally:
        connection.terminate()
    return findings


async def _server_checks(
    connection: PostgresConnection, where: str, revision: str | None
) -> list[Check]:
    (found,) = await connection.fetch(_SERVER)
    version, standby, read_only, durable, clock = found
    now = datetime.now(UTC)
    checks = [_state(where, str(version), revision)]
    if standby or read_only:
        checks.append(
            failure(
                "database_writable",
                f"The database {where} is read-only{', as a standby is' if standby else ''}.",
                "name the primary server in ONBOOK_DATABASE_URL, or let this user write",
            )
        )
    else:
        checks.append(ok("database_writable", "The database takes changes."))
    if not durable:
        checks.append(
            warning(
                "database_durable",
                "The server has fsync off: a power cut can damage the database.",
                "set fsync = on in postgresql.conf",
            )
        )
    if isinstance(clock, datetime):
        checks.append(_clocks(clock, now))
    checks.append(_room(await connection.fetchval(_ROOM)))
    return checks


def _state(where: str, version: str, revision: str | None) -> Check:
    # Distributions add their own name in parentheses.
    version = version.partition(" ")[0]
    if revision is None:
        return ok(
            "database",
            f"The database {where} is empty (Postgres {version}); it is set up at the first start.",
        )
    if revision != HEAD:
        return warning(
            "database",
            f"The database {where} is of an older version.",
            "back it up; the next 'onbook serve' brings it up to date",
        )
    return ok("database", f"The database {where} answers and is current (Postgres {version}).")


def _clocks(theirs: datetime, ours: datetime) -> Check:
    apart = (theirs - ours).total_seconds()
    if abs(apart) > _CLOCK_S:
        return warning(
            "database_clock",
            f"The clock of the database is {abs(apart):,.0f} s "
            f"{'ahead of' if apart > 0 else 'behind'} this machine's.",
            "set both clocks, and keep them set with NTP",
        )
    return ok("database_clock", "The clocks of the database and of this machine agree.")


def _room(left: object) -> Check:
    if isinstance(left, int) and left < _FEW_CONNECTIONS:
        return warning(
            "database_connections",
            f"The server has room for {max(left, 0)} more connections.",
            "raise max_connections; each gateway takes about ten",
        )
    return ok("database_connections", f"The server has room for {left} more connections.")


async def _access(connection: PostgresConnection) -> Check:
    forbidden = [str(name) for (name,) in await connection.fetch(_FORBIDDEN)]
    if forbidden:
        return failure(
            "database_access",
            f"This user may not read and write {', '.join(forbidden)}.",
            "make this user the owner of the tables",
        )
    return ok("database_access", "This user may read and write the tables.")


async def _contents(
    connection: PostgresConnection, settings: "Settings", findings: DatabaseFindings
) -> None:
    active = {(mode, target) for mode, target in await connection.fetch(ACTIVE_KEYS_SQL)}
    findings.checks.append(check_templates(active, settings))
    keys = await connection.fetchval("SELECT count(*) FROM access_keys")
    findings.stored_keys = keys if isinstance(keys, int) else 0
    newest = await connection.fetchval("SELECT max(created_at) FROM enhancement_logs")
    findings.newest_row = newest if isinstance(newest, datetime) else None
    rows = await connection.fetchval(_ROWS)
    # Before the first ANALYZE there is no estimate: -1.
    audit = f"about {rows:,.0f}" if isinstance(rows, float) and rows >= 0 else "not yet counted"
    findings.checks.append(
        ok("database_rows", f"Access keys: {findings.stored_keys}; audit rows: {audit}.")
    )
