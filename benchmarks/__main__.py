"""``python -m benchmarks``: everything, or the parts that are named."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console

from benchmarks.audit import AuditFigures, measure_audit
from benchmarks.book import BookFigures, measure_book
from benchmarks.gateway import SCENARIOS, MeasurementInvalid, Outcome, measure
from benchmarks.process import ServerFailed
from benchmarks.steps import Step, measure_steps
from benchmarks.tables import gateway_table, print_audit, print_book, steps_table
from benchmarks.worker import WorkerFigures, measure_worker, print_worker

_STEPS_S: Final = 6.0


class Report(msgspec.Struct, kw_only=True):
    """What ``--json`` writes."""

    rounds: int
    seconds: float
    gateway: list[Outcome]
    steps: list[Step]
    book: BookFigures | None = None
    worker: WorkerFigures | None = None
    audit: AuditFigures | None = None


def main() -> int:
    """Run from the command line; the exit status is 1 if a measurement was not valid."""
    options = _options()
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    report = Report(rounds=options.rounds, seconds=options.seconds, gateway=[], steps=[])
    valid = True
    for name, measure_part in PARTS.items():
        if options.part not in ("all", name):
            continue
        console.print(f"measuring: {name} …", style="dim")
        try:
            measure_part(report, options, console)
        except (MeasurementInvalid, ServerFailed, TimeoutError, OSError) as error:
            console.print(f"not valid: {error}", style="red")
            valid = False
    if options.json is not None:
        encoded = msgspec.json.format(msgspec.json.encode(report), indent=2)
        options.json.write_bytes(encoded + b"\n")
    return 0 if valid else 1


class _Options(argparse.Namespace):
    part: str
    only: str
    rounds: int
    seconds: float
    edits: int
    json: Path | None


def _gateway(report: Report, options: _Options, console: Console) -> None:
    failures = []
    for scenario in SCENARIOS:
        if options.only not in scenario.name:
            continue
        console.print(f"  {scenario.name}", style="dim")
        try:
            outcome = measure(scenario, rounds=options.rounds, seconds=options.seconds)
        except (MeasurementInvalid, ServerFailed, TimeoutError, OSError) as error:
            failures.append(f"{scenario.name}: {error}")
        else:
            report.gateway.append(outcome)
    console.print(gateway_table(report.gateway))
    if failures:
        raise MeasurementInvalid("; ".join(failures))


def _steps(report: Report, _options: _Options, console: Console) -> None:
    report.steps = measure_steps(seconds=_STEPS_S)
    console.print(steps_table(report.steps))


def _book(report: Report, options: _Options, console: Console) -> None:
    report.book = measure_book(edits=options.edits)
    print_book(console, report.book)


def _worker(report: Report, options: _Options, console: Console) -> None:
    report.worker = measure_worker(rounds=options.rounds)
    print_worker(console, report.worker)


def _audit(report: Report, _options: _Options, console: Console) -> None:
    report.audit = measure_audit()
    print_audit(console, report.audit)


PARTS: Final[dict[str, Callable[[Report, _Options, Console], None]]] = {
    "gateway": _gateway,
    "steps": _steps,
    "book": _book,
    "worker": _worker,
    "audit": _audit,
}


def _options() -> _Options:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("part", nargs="?", default="all", choices=("all", *PARTS))
    parser.add_argument("--only", default="", help="scenarios whose name contains this")
    parser.add_argument("--rounds", type=_number(int, 1, 100), default=3)
    parser.add_argument(
        "--seconds", type=_number(float, 0.2, 60), default=1.5, help="of load on the gateway"
    )
    parser.add_argument(
        "--edits", type=_number(int, 2, 10_000), default=60, help="of a template, per database"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    return parser.parse_args(namespace=_Options())


def _number(kind: type[int] | type[float], least: float, most: float) -> "_Checked":
    return _Checked(kind, least, most)


class _Checked:
    """A number within bounds, for argparse."""

    def __init__(self, kind: type[int] | type[float], least: float, most: float) -> None:
        self._kind, self._least, self._most = kind, least, most

    def __call__(self, text: str) -> float:
        value = self._kind(text)
        if not self._least <= value <= self._most:
            raise argparse.ArgumentTypeError(f"must be {self._least} to {self._most}")
        return value


if __name__ == "__main__":
    sys.exit(main())
