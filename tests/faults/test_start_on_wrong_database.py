from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from postgres import PostgresServer
from server import ended


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda url: url.replace("postgresql://onbook:", "postgresql://onbook:no"), "password"),
        (lambda url: url + "_that_is_not_there", "does not exist"),
        (lambda _url: "postgresql://onbook:secret-word@/", "names no database"),
        (lambda _url: "mysql://onbook:secret-word@127.0.0.1/onbook", "database URL"),
    ],
)
def test_what_waiting_does_not_mend_ends_the_start_with_one_sentence(
    tmp_path: Path, postgres: PostgresServer, change: Callable[[str], str], told: str
) -> None:
    with postgres.database(migrated=False) as url:
        code, sentence, lines = ended(tmp_path, "--port", "0", ONBOOK_DATABASE_URL=change(url))
    assert (code, len(lines)) == (1, 1)
    assert told in sentence
    assert "secret-word" not in sentence
    assert postgres.password not in sentence


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("CREATE TABLE invoices (id int)", "another program"),
        (
            """CREATE TABLE alembic_version (version_num text);
            INSERT INTO alembic_version VALUES ('2099_01_01_future');
            CREATE TABLE prompt_templates (id int)""",
            "newer version",
        ),
    ],
)
def test_a_database_that_is_not_ours_ends_the_start_and_stays_as_it_is(
    tmp_path: Path, postgres: PostgresServer, statement: str, told: str
) -> None:
    with postgres.database(migrated=False) as url:
        postgres.execute(statement, database=urlsplit(url).path.removeprefix("/"))
        code, sentence, lines = ended(tmp_path, "--port", "0", ONBOOK_DATABASE_URL=url)
    assert (code, len(lines)) == (1, 1)
    assert told in sentence
