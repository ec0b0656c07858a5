"""An administrator's three statements, and the database's own program that runs them."""

import shutil
import sqlite3
import subprocess
from contextlib import closing
from typing import Final

import pytest

from onbook.adapters.database.postgres_url import is_postgres
from onbook.adapters.database.sqlite_file import sqlite_path
from postgres import PostgresServer

VIEW: Final = "SELECT * FROM prompt_templates WHERE is_active = true ORDER BY version DESC;"
UPDATE: Final = (
    "UPDATE prompt_templates \n"
    "SET system_prompt = 'New system prompt', version = version + 1 \n"
    "WHERE template_name = 'enhancement_sdxl_sfw';\n"
)
DEACTIVATE: Final = (
    "UPDATE prompt_templates SET is_active = false WHERE template_name = 'old_template';"
)


def administer(url: str, statement: str, *, server: PostgresServer | None) -> str:
    """Run ``statement`` as it is, by psql or sqlite3; return what the program prints."""
    if is_postgres(url):
        assert server is not None
        if server.psql is None:
            pytest.skip("no psql program")
        done = server.run_psql(url, statement)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout
    program = shutil.which("sqlite3")
    if program is None:
        with closing(sqlite3.connect(sqlite_path(url))) as connection, connection:
            return "\n".join(str(row) for row in connection.execute(statement))
    shell = subprocess.run(
        [program, "-bail", "-cmd", ".timeout 10000", str(sqlite_path(url))],
        input=statement,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (shell.returncode, shell.stderr) == (0, "")
    return shell.stdout
