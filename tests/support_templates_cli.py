"""Running ``onbook templates`` in this process, on a real database, and reading what it did."""

import asyncio
import json
import logging
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import structlog
from typer.testing import CliRunner

from onbook.adapters.database.engine import create_engine
from onbook.adapters.database.sqlite_file import sqlite_url
from onbook.adapters.database.template_store import SqlTemplateStore
from onbook.bootstrap import prepare_database
from onbook.cli.main import app
from onbook.settings import Settings

NAME = "enhancement_sdxl_sfw"


@dataclass(frozen=True, slots=True)
class Done:
    """What a command left: its exit code and both outputs, apart."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:  # noqa: ANN401 - a test knows what it asked for
        return json.loads(self.out)


@dataclass(slots=True)
class Shell:
    """A user's shell with settings of its own; the echo engine stands for a model."""

    folder: Path
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def templates(self, *arguments: str | Path, code: int = 0, typed: str | bytes = "") -> Done:
        """Run ``onbook templates`` with ``arguments``; it must end with ``code``."""
        env: dict[str, str | None] = {
            **{name: None for name in os.environ if name.startswith("ONBOOK_")},
            "ONBOOK_DATA_DIR": str(self.data),
            "ONBOOK_WORKER_ENGINE": "echo",
            **self.settings,
        }
        result = CliRunner().invoke(app, ["templates", *map(str, arguments)], env=env, input=typed)
        assert result.exception is None or isinstance(result.exception, SystemExit), (
            result.exception
        )
        assert result.exit_code == code, f"{result.stdout}\n{result.stderr}"
        assert "Traceback" not in result.stderr
        assert "\x1b" not in result.stdout + result.stderr
        return Done(result.exit_code, result.stdout, result.stderr)

    def change(self, *arguments: str | Path, code: int = 0) -> Done:
        """Run a command that records who and why."""
        return self.templates(*arguments, "--reason", "a test", code=code)

    def exported(self, name: str = NAME) -> str:
        """Return a template as the file that an editor starts from."""
        return self.templates("export", name).out

    def file(self, text: str | bytes, name: str = "template.toml") -> Path:
        """Write a template file."""
        path = self.folder / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    def edited(self, old: str, new: str, name: str = NAME) -> Path:
        """Write the file of a template with one text replaced."""
        text = self.exported(name)
        assert old in text
        return self.file(text.replace(old, new), f"{name}.toml")

    def drafted(self, path: Path) -> int:
        """Draft a file and return the version's number."""
        made = self.change("draft", path, "--json").json
        return int(made["version"]["version"])

    def query(self, sql: str) -> list[tuple[object, ...]]:
        """Ask the database itself."""
        with closing(sqlite3.connect(self.data / "onbook.db")) as connection:
            rows = connection.execute(sql).fetchall()
            connection.commit()
        return rows

    def dump(self) -> list[str]:
        """Return everything that the book holds, to see that nothing was written."""
        with closing(sqlite3.connect(self.data / "onbook.db")) as connection:
            return [
                repr(row)
                for table in (
                    "prompt_templates",
                    "prompt_template_versions",
                    "template_events",
                    "template_splits",
                    "template_epoch",
                )
                for row in connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2")  # noqa: S608 - names of tables
            ]


@contextmanager
def logging_restored() -> Iterator[None]:
    """Undo what a command sets up: its log goes to an output that ends with it."""
    handlers, level = logging.root.handlers[:], logging.root.level
    try:
        yield
    finally:
        structlog.reset_defaults()
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with the packaged templates."""
    folder = tmp_path_factory.mktemp("book") / "data"
    asyncio.run(prepare_database(Settings(data_dir=folder)))
    return folder


@pytest.fixture
def shell(prepared: Path, tmp_path: Path) -> Iterator[Shell]:
    """A shell on a book of its own."""
    shutil.copytree(prepared, tmp_path / "data")
    with logging_restored():
        yield Shell(tmp_path)


def acknowledged(shell: Shell, name: str, *, ahead: int) -> None:
    """Report a gateway at ``ahead`` epochs beyond the book's own."""

    async def report() -> None:
        engine = create_engine(sqlite_url(shell.data / "onbook.db"))
        store = SqlTemplateStore(engine)
        try:
            epoch = await store.epoch() + ahead
            await store.acknowledge(f"id-of-{name}", name=name, epoch=epoch, active_sha256="0" * 64)
        finally:
            await store.close()
            await engine.dispose()

    asyncio.run(report())
