"""``onbook doctor``: what is wrong here, and how to mend it."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from onbook.cli.doctor_checks import Check
    from onbook.settings import Settings

_MARKS = {"ok": ("✓", "ok"), "warning": ("!", "!"), "failure": ("✗", "x")}
_COLOURS = {"ok": "green", "warning": "yellow", "failure": "red"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002 - typer's way to declare a flag
    data_dir: Annotated[
        Path | None, typer.Option(help="Directory of the database and the keys [data].")
    ] = None,
) -> None:
    """Check this installation; changes nothing. Ends with 1 if something does not work."""
    from onbook.cli.options import settings_with  # noqa: PLC0415 - keeps --help fast

    checks = examine(settings_with(data_dir=data_dir))
    failed = any(check.status == "failure" for check in checks)
    if as_json:
        findings = [
            {
                "name": check.name,
                "status": check.status,
                "message": check.message,
                "fix": check.fix,
            }
            for check in checks
        ]
        typer.echo(json.dumps({"ok": not failed, "checks": findings}, indent=2))
    else:
        _print(checks)
    if failed:
        raise typer.Exit(1)


def examine(settings: "Settings") -> "list[Check]":
    """Run every check; none takes longer than some seconds, and none changes anything."""
    from onbook.cli import doctor_checks as checks  # noqa: PLC0415 - keeps --help fast
    from onbook.cli.doctor_database import look_at_database  # noqa: PLC0415 - likewise
    from onbook.cli.doctor_keys import check_signing_keys  # noqa: PLC0415 - likewise
    from onbook.cli.doctor_network import check_port, check_worker  # noqa: PLC0415 - likewise

    database = look_at_database(settings)
    worker = check_worker(settings)
    installed = checks.check_installed(settings)
    return [
        checks.check_python(),
        checks.check_data_dir(settings),
        checks.check_disk(settings),
        *database.checks,
        *checks.check_secrets(settings, stored_keys=database.stored_keys),
        *check_signing_keys(settings),
        checks.check_spool(settings),
        checks.check_clock(database.newest_row),
        checks.check_runtime(settings),
        checks.check_model(settings),
        *([] if installed is None else [installed]),
        *([] if worker is None else [worker]),
        check_port(settings),
    ]


def _print(checks: "list[Check]") -> None:
    fancy = "utf" in (sys.stdout.encoding or "").lower()
    for check in checks:
        mark = _MARKS[check.status][0 if fancy else 1]
        colour = _COLOURS[check.status] if sys.stdout.isatty() else None
        typer.echo(f"{typer.style(mark, fg=colour) if colour else mark} {check.message}")
        if check.fix is not None:
            typer.echo(f"  fix: {check.fix}")
