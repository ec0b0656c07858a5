"""Running ``onbook enhance`` as a user does, and reading what it leaves."""

import json
import socket
import subprocess
from pathlib import Path

import msgspec

from onbook.wire.gateway_api import EnhanceResponse
from server import ONBOOK, environment


def enhance(
    data_dir: Path,
    *arguments: str | bytes | Path,
    code: int = 0,
    typed: bytes = b"",
    **options: str | None,
) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(
        [ONBOOK, "enhance", *arguments],
        env=environment(ONBOOK_BOOTSTRAP_KEY=None, ONBOOK_DATA_DIR=str(data_dir), **options),
        input=typed,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == code, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    return done


def answer(done: subprocess.CompletedProcess[bytes]) -> EnhanceResponse:
    return msgspec.json.decode(done.stdout, type=EnhanceResponse)


def records(path: Path) -> list[dict[str, object]]:
    assert path.read_bytes().endswith(b"\n")
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def done_lines(path: Path) -> list[object]:
    return sorted(record["line"] for record in records(path) if record["success"])  # type: ignore[type-var]  # lines are numbers


def free_url() -> str:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"http://127.0.0.1:{probe.getsockname()[1]}"
