"""Running ``onbook model`` against a hub of the tests."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from model_hub import Hub
from onbook.cli.main import app
from server import ONBOOK, environment


def arguments(*words: str | Path, hub: Hub | None = None, **options: str) -> dict[str, Any]:
    return {
        "args": [ONBOOK, "model", *map(str, words)],
        "env": environment(
            ONBOOK_WORKER_ENGINE=None, **(hub.environment() if hub else {}), **options
        ),
    }


@dataclass(frozen=True, slots=True)
class Done:
    """What a command in this process wrote."""

    stdout: str
    stderr: str


def run(*words: str | Path, code: int = 0, hub: Hub | None = None, **options: str) -> Done:
    given = arguments(*words, hub=hub, **options)
    env = {name: given["env"].get(name) for name in {*os.environ, *given["env"]}}
    done = CliRunner().invoke(app, given["args"][1:], env=env)
    assert done.exit_code == code, done.output
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return Done(done.stdout, done.stderr)


def pull(hub: Hub, data: Path, *words: str, code: int = 0, **options: str) -> str:
    done = run("pull", *words, "--data-dir", data, hub=hub, code=code, **options)
    return done.stderr.splitlines()[-1] if code else done.stdout
