import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from onbook.adapters.database.chain import downgrade, script_config, upgrade
from onbook.adapters.database.errors import DatabaseAway, DatabaseTooNew, DatabaseUnusable
from onbook.adapters.database.schema import HEAD, REVISIONS, current_revision, migrate
from onbook.adapters.database.sqlite_file import sqlite_path, sqlite_url
from onbook.adapters.database.tables import metadata


@pytest.fixture
def path(tmp_path: Path) -> Path:
    # Characters that URLs, URIs and format strings treat in their own ways.
    directory = tmp_path / "ünusual % #dir"
    directory.mkdir()
    return directory / "onbook.db"


def _schema(path: Path) -> set[tuple[str, str]]:
    with closing(sqlite3.connect(path)) as connection:
        return set(
            connection.execute(
                "SELECT name, coalesce(sql, '') FROM sqlite_master WHERE name != 'alembic_version'"
                " AND name NOT LIKE 'sqlite_autoindex_alembic%'"
            )
        )


def test_a_new_database_is_brought_to_the_head(path: Path) -> None:
    migrate(sqlite_url(path))
    assert current_revision(path) == HEAD
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("SELECT epoch FROM template_epoch").fetchone() == (0,)


@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection")
@pytest.mark.filterwarnings("ignore:autogenerate skipping")
def test_the_chain_and_the_tables_describe_one_schema(path: Path, tmp_path: Path) -> None:
    migrate(sqlite_url(path))
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        found = compare_metadata(context, metadata)
    engine.dispose()
    # SQLite numbers the rows of a table without being told in words.
    assert [item for item in found if "Identity" not in str(item)] == []
    # Autogenerate sees neither checks nor expressions in indexes.
    direct = tmp_path / "direct.db"
    engine = create_engine(f"sqlite:///{direct}")
    metadata.create_all(engine)
    engine.dispose()
    made = {name: " ".join(sql.split()) for name, sql in _schema(path)}
    for name, sql in _schema(direct):
        if "CREATE TABLE" in sql:
            assert sorted(_clauses(made[name])) == sorted(_clauses(sql)), name
        else:
            assert made[name] == " ".join(sql.split())


def _clauses(sql: str) -> Iterator[str]:
    body = sql.partition("(")[2].rpartition(")")[0].replace("\n", " ")
    for clause in body.split(", "):
        yield " ".join(clause.split())


def test_migrating_again_changes_nothing(path: Path) -> None:
    migrate(sqlite_url(path))
    before = _schema(path)
    migrate(sqlite_url(path))
    upgrade(sqlite_url(path))
    assert _schema(path) == before


def test_down_and_up_again(path: Path) -> None:
    url = sqlite_url(path)
    migrate(url)
    before = _schema(path)
    downgrade(url, "base")
    assert _schema(path) == set()
    assert current_revision(path) is None
    migrate(url)
    assert _schema(path) == before


def test_the_known_revisions_are_those_of_the_chain() -> None:
    with script_config() as config:
        chain = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    assert tuple(reversed(chain)) == REVISIONS
    assert all(len(revision) <= 32 for revision in REVISIONS)


def test_several_processes_may_start_at_once(path: Path) -> None:
    code = "import sys; from onbook.adapters.database.schema import migrate; migrate(sys.argv[1]);"
    with ThreadPoolExecutor(3) as pool:
        done = list(
            pool.map(
                lambda _: subprocess.run(
                    [sys.executable, "-c", code, sqlite_url(path)],
                    capture_output=True,
                    text=True,
                    check=False,
                ),
                range(3),
            )
        )
    assert [(run.returncode, run.stderr) for run in done] == [(0, "")] * 3
    assert current_revision(path) == HEAD


def test_a_newer_database_is_refused(path: Path) -> None:
    url = sqlite_url(path)
    migrate(url)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '2027_01_01_more'")
    with pytest.raises(DatabaseTooNew, match=r"newer version of Onbook \(revision 2027_01_01_more"):
        migrate(url)


def test_the_database_of_another_program_is_refused_untouched(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE theirs (id INTEGER)")
    before = path.read_bytes()
    with pytest.raises(DatabaseUnusable, match="another program"):
        migrate(sqlite_url(path))
    assert path.read_bytes() == before


def test_what_is_no_database_is_refused(path: Path) -> None:
    path.write_bytes(b"not a database " * 100)
    with pytest.raises(DatabaseUnusable, match="not a SQLite database"):
        migrate(sqlite_url(path))


def test_a_directory_in_the_place_of_the_file_may_go_again(path: Path) -> None:
    path.mkdir()
    with pytest.raises(DatabaseAway, match="cannot be opened"):
        migrate(sqlite_url(path))


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatabaseAway, match="does not exist; create it"):
        migrate(sqlite_url(tmp_path / "none" / "onbook.db"))


@pytest.mark.parametrize(
    "url",
    [
        "sqlite+aiosqlite://",
        "sqlite:///:memory:",
        "sqlite:////tmp/x.db?mode=ro",
        "postgresql://user:hunter2@host/db",
        "",
    ],
)
def test_other_urls_are_refused_without_repeating_them(url: str) -> None:
    with pytest.raises(DatabaseUnusable, match="must be sqlite") as caught:
        sqlite_path(url)
    assert "hunter2" not in str(caught.value)


def _run(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    return done.stdout


_REFUSED = """
import os, sys
import onbook.adapters.database.chain
from onbook.adapters.database.errors import DatabaseAway
from onbook.adapters.database.schema import migrate
{before}
try:
    migrate(sys.argv[1])
except DatabaseAway as error:
    print(error)
"""


@pytest.mark.parametrize("current", [True, False])
def test_a_read_only_database_is_refused(
    tmp_path: Path,
    current: bool,  # noqa: FBT001 - a param
) -> None:
    warm = sqlite_url(tmp_path / "onbook.db")
    # Of its own: nobody else may look into the directories of the tests.
    place = Path(tempfile.mkdtemp())
    path = place / "onbook.db"
    if current:
        migrate(sqlite_url(path))
    else:
        path.touch()
    path.chmod(0o444)
    place.chmod(0o555)
    # Root may write anywhere, so give that up where it is root that runs the tests, once all
    # that is imported on the way is there: another user may not be able to read it.
    before = f"migrate({warm!r}); os.geteuid() or os.setuid(65534)"
    try:
        out = _run(_REFUSED.format(before=before), sqlite_url(path))
    finally:
        place.chmod(0o700)
        shutil.rmtree(place)
    assert "cannot be used" in out
    assert "read-only" in out or "cannot be opened" in out
    assert "Traceback" not in out


def test_a_full_disk_is_refused_and_leaves_nothing_half_done(tmp_path: Path) -> None:
    path = tmp_path / "onbook.db"
    before = (
        "import resource;"
        "hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1];"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))"
    )
    assert "disk" in _run(_REFUSED.format(before=before), sqlite_url(path))
    migrate(sqlite_url(path))
    assert current_revision(path) == HEAD


def test_a_current_database_is_recognised_without_the_heavy_imports(path: Path) -> None:
    migrate(sqlite_url(path))
    loaded = _run(
        "import sys; from onbook.adapters.database.schema import migrate; migrate(sys.argv[1]);"
        "print([name for name in ('sqlalchemy', 'alembic', 'aiosqlite') if name in sys.modules])",
        sqlite_url(path),
    )
    assert loaded.strip() == "[]"


def test_the_hot_queries_use_their_indexes(path: Path) -> None:
    migrate(sqlite_url(path))
    with closing(sqlite3.connect(path)) as connection:
        for query in (
            "SELECT * FROM enhancement_logs WHERE request_id = 'x'",
            "SELECT * FROM enhancement_logs WHERE created_at > '2026'",
            "SELECT * FROM enhancement_logs WHERE template_name = 'x' AND created_at > '2026'",
            "SELECT * FROM access_keys WHERE key_hmac = 'x'",
            "DELETE FROM enhancement_texts WHERE created_at < '2026'",
        ):
            plan = " ".join(row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + query))
            assert "USING INDEX" in plan, query
            assert "SCAN" not in plan


def test_the_migrations_ship_with_the_package() -> None:
    with script_config() as config:
        location = config.get_main_option("script_location")
    assert location is not None
    assert (Path(location) / "env.py").is_file()
    versions = {file.stem for file in (Path(location) / "versions").glob("*.py")}
    assert versions >= set(REVISIONS)
