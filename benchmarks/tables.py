"""The tables that a run prints."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.audit import AuditFigures
from benchmarks.book import BookFigures
from benchmarks.gateway import Outcome
from benchmarks.steps import Step


def gateway_table(outcomes: Sequence[Outcome]) -> Table:
    """Return the table of the gateway beside the stub."""
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


def steps_table(steps: Sequence[Step]) -> Table:
    """Return the table of the steps."""
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


def print_book(console: Console, figures: BookFigures) -> None:
    """Print the tables of the book."""
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


def print_audit(console: Console, figures: AuditFigures) -> None:
    """Print the tables of the audit log and of receipts."""
    rows = Table(title=f"Durable audit rows (one fsync: {figures.fsync_ms:.2f} ms)")
    rows.add_column("database")
    rows.add_column("way")
    for column in ("writers", "CPU µs/row", "rows/s", "wait ms", "wait in fsyncs"):
        rows.add_column(column, justify="right")
    for item in figures.rows:
        rows.add_row(
            item.database,
            item.way,
            str(item.writers),
            f"{item.cpu_us:,.0f}",
            f"{item.rows_per_s:,.0f}",
            f"{item.wait_ms:.1f}",
            f"{item.wait_fsyncs:.1f}",
        )
    console.print(rows)
    receipt = Table(title="A receipt, in CPU time per request")
    receipt.add_column("step")
    for column in ("best µs", "median µs"):
        receipt.add_column(column, justify="right")
    for cost in figures.receipt:
        receipt.add_row(cost.step, f"{cost.best_us:,.1f}", f"{cost.median_us:,.1f}")
    console.print(receipt)
    for reason in figures.skipped:
        console.print(f"not measured: {reason}", style="yellow")
