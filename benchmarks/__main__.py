"""``python -m benchmarks``: everything, or the parts that are named."""

import argparse
import sys
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.book import BookFigures, measure_book
from benchmarks.gateway import SCENARIOS, MeasurementInvalid, Outcome, measure
from benchmarks.process import ServerFailed
from benchmarks.steps import Step, measure_steps

_STEPS_S: Final = 6.0


class Report(msgspec.Struct, kw_only=True):
    """What ``--json`` writes."""

    rounds: int
    seconds: float
    gateway: list[Outcome]
    steps: list[Step]
    book: BookFigures | None = None


def main() -> int:
    """Run from the command line; the exit status is 1 if a measurement was not valid."""
    options = _options()
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    wanted = [item for item in SCENARIOS if options.only in item.name]
    report = Report(rounds=options.rounds, seconds=options.seconds, gateway=[], steps=[])
    status = 0
    for scenario in wanted if options.part in ("all", "gateway") else []:
        console.print(f"measuring {scenario.name} …", style="dim")
        try:
            outcome = measure(scenario, rounds=options.rounds, seconds=options.seconds)
        except (MeasurementInvalid, ServerFailed, TimeoutError, OSError) as error:
            console.print(f"not valid: {error}", style="red")
            status = 1
        else:
            report.gateway.append(outcome)
    if report.gateway:
        console.print(_gateway_table(report.gateway))
    if options.part in ("all", "steps"):
        report.steps = measure_steps(seconds=_STEPS_S)
        console.print(_steps_table(report.steps))
    if options.part in ("all", "book"):
        console.print("measuring the book …", style="dim")
        try:
            report.book = measure_book(edits=options.edits)
        except (ServerFailed, TimeoutError, OSError) as error:
            console.print(f"not valid: {error}", style="red")
            status = 1
        else:
            _print_book(console, report.book)
    if options.json is not None:
        encoded = msgspec.json.format(msgspec.json.encode(report), indent=2)
        options.json.write_bytes(encoded + b"\n")
    return status


class _Options(argparse.Namespace):
    part: str
    only: str
    rounds: int
    seconds: float
    edits: int
    json: Path | None


def _options() -> _Options:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "part", nargs="?", default="all", choices=("all", "gateway", "steps", "book")
    )
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


def _gateway_table(outcomes: list[Outcome]) -> Table:
    table = Table(title="Gateway beside the bare stub (median of the rounds; best in brackets)")
    table.add_column("scenario")
    for column in (
        "stub req/s",
        "gateway req/s",
        "ratio",
        "added p50 ms",
        "added p99 ms",
        "CPU µs/req",
        "answers = rows",
        "busy elsewhere",
    ):
        table.add_column(column, justify="right")
    for item in outcomes:
        table.add_row(
            item.scenario,
            f"{item.stub_rate:,.0f}",
            f"{item.gateway_rate:,.0f}",
            f"{item.ratio:.3f} ({item.ratio_best:.3f})",
            f"{item.added_p50_ms:.2f} ({item.added_p50_ms_best:.2f})",
            f"{item.added_p99_ms:.2f} ({item.added_p99_ms_best:.2f})",
            f"{item.cpu_us:,.0f} ({item.cpu_us_best:,.0f})",
            f"{item.requests:,}",
            f"{item.elsewhere:.2f} cores",
        )
    return table


def _steps_table(steps: list[Step]) -> Table:
    table = Table(title="CPU time of each step, alone in one process")
    table.add_column("step")
    for column in ("best µs", "median µs", "times baseline"):
        table.add_column(column, justify="right")
    for step in steps:
        table.add_row(
            step.name,
            f"{step.best_us:,.1f}",
            f"{step.median_us:,.1f}",
            f"{step.times_baseline:,.1f}",
        )
    return table


def _print_book(console: Console, figures: BookFigures) -> None:
    resolve = Table(title="A cached resolve, by size of the book")
    for column in ("templates", "best µs", "median µs", "times the smallest"):
        resolve.add_column(column, justify="right")
    for item in figures.resolve:
        resolve.add_row(
            f"{item.templates:,}",
            f"{item.best_us:.2f}",
            f"{item.median_us:.2f}",
            f"{item.ratio:.2f}",
        )
    console.print(resolve)
    served = Table(title="From the commit of an edit until every gateway serves it")
    served.add_column("database")
    for column in ("gateways", "edits", "p50 ms", "p99 ms", "worst ms", "asked every ms"):
        served.add_column(column, justify="right")
    for found in figures.propagation:
        served.add_row(
            found.database,
            str(found.gateways),
            str(found.edits),
            f"{found.p50_ms:.0f}",
            f"{found.p99_ms:.0f}",
            f"{found.worst_ms:.0f}",
            f"{found.poll_ms:.0f}",
        )
    console.print(served)
    for reason in figures.skipped:
        console.print(f"not measured: {reason}", style="yellow")


if __name__ == "__main__":
    sys.exit(main())
