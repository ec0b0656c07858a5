"""The gateway beside the bare stub: the same load on both, in turn, over loopback."""

import asyncio
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from benchmarks import workload
from benchmarks.data import prepare_data
from benchmarks.load import Slice, run_slice
from benchmarks.process import Server, cores, machine_cpu_seconds
from benchmarks.stub_worker import READY
from onbook.settings import Settings

_WARM_UP_S: Final = 1.0
_ROOT: Final = Path(__file__).resolve().parent.parent


class MeasurementInvalid(Exception):
    """Something was measured that was not the whole way of a request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One load: ``connections`` at once, a worker that takes ``delay_ms``."""

    name: str
    connections: int
    delay_ms: float = 0.0
    receipt: bool = True
    packaged_template: bool = False


SCENARIOS: Final = (
    Scenario(name="one connection", connections=1),
    Scenario(name="16 connections", connections=16),
    Scenario(name="16, worker takes 50 ms", connections=16, delay_ms=50.0),
    Scenario(name="16, packaged template", connections=16, packaged_template=True),
    Scenario(name="16, no receipt", connections=16, receipt=False),
)


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario's figures: medians over the rounds, and the best round where named so.

    ``cpu_us`` is the gateway's CPU time per answer, of all its threads; ``elsewhere`` the cores
    that other programs kept busy meanwhile.
    """

    scenario: str
    rounds: int
    requests: int
    rows: int
    errors: int
    stub_rate: float
    gateway_rate: float
    ratio: float
    ratio_best: float
    stub_p50_ms: float
    gateway_p50_ms: float
    added_p50_ms: float
    added_p50_ms_best: float
    added_p99_ms: float
    added_p99_ms_best: float
    cpu_us: float
    cpu_us_best: float
    elsewhere: float
    resident_mib: float


@dataclass(frozen=True, slots=True)
class _Round:
    stub: Slice
    gateway: Slice
    cpu_us: float
    elsewhere: float

    @property
    def ratio(self) -> float:
        return self.gateway.rate / self.stub.rate if self.stub.rate else 0.0

    def added(self, share: float) -> float:
        return self.gateway.quantile(share) - self.stub.quantile(share)


def measure(scenario: Scenario, *, rounds: int, seconds: float) -> Outcome:
    """Start stub and gateway, load them in turn, and end them.

    Raises:
        MeasurementInvalid: an answer was wrong, or the audit log lacks one.
        ServerFailed: a server did not start.
    """
    gateway_core, load_core = cores()
    with tempfile.TemporaryDirectory(prefix="onbook-bench-") as place:
        directory = Path(place)
        data_dir = directory / "data"
        asyncio.run(prepare_data(Settings(data_dir=data_dir)))
        stub_options = ["--delay-ms", str(scenario.delay_ms)]
        stub_options += ["--receipt"] if scenario.receipt else []
        with (
            Server(
                [sys.executable, "-m", "benchmarks.stub_worker", *stub_options],
                directory=directory,
                name="stub",
                ready=READY,
                core=load_core,
                environment={"PYTHONPATH": _python_path()},
            ) as stub,
            Server(
                [str(Path(sys.executable).with_name("onbook")), "gateway", "--port", "0"],
                directory=directory,
                name="gateway",
                ready="Onbook is ready at ",
                core=gateway_core,
                environment={
                    "ONBOOK_DATA_DIR": str(data_dir),
                    "ONBOOK_WORKER_URL": stub.url,
                    "ONBOOK_BOOTSTRAP_KEY": workload.ACCESS_KEY,
                    "ONBOOK_LOG_FORMAT": "json",
                },
            ) as gateway,
        ):
            warm, measured = uvloop.run(
                _rounds(scenario, stub, gateway, rounds=rounds, seconds=seconds)
            )
            resident = gateway.resident_mib()
        rows = _rows(data_dir / "onbook.db")
    return _checked(_outcome(scenario, warm, measured, rows=rows, resident=resident), warm)


def _python_path() -> str:
    # What is there already comes first: stub and gateway must run the same code.
    there = os.environ.get("PYTHONPATH")
    return os.pathsep.join([*([there] if there else []), str(_ROOT)])


async def _rounds(
    scenario: Scenario, stub: Server, gateway: Server, *, rounds: int, seconds: float
) -> tuple[Slice, list[_Round]]:
    target = None if scenario.packaged_template else workload.TARGET
    integrity = "verified" if scenario.receipt else "unverified"
    load_stub = partial(
        run_slice,
        stub.port,
        workload.worker_requests(),
        connections=scenario.connections,
        check=workload.worker_answered,
    )
    load_gateway = partial(
        run_slice,
        gateway.port,
        workload.gateway_requests(target=target),
        connections=scenario.connections,
        check=partial(workload.went_whole_way, integrity=integrity),
    )
    await load_stub(seconds=_WARM_UP_S / 2)
    warm = await load_gateway(seconds=_WARM_UP_S)
    measured = []
    for _ in range(rounds):
        direct = await load_stub(seconds=seconds / 2)
        used = _cpu_clock(stub, gateway)
        result = await load_gateway(seconds=seconds)
        gateway_s, elsewhere_s = used()
        answers = max(1, len(result.latencies))
        measured.append(
            _Round(
                stub=direct,
                gateway=result,
                cpu_us=gateway_s / answers * 1e6,
                elsewhere=max(0.0, elsewhere_s) / result.seconds,
            )
        )
    return warm, measured


def _cpu_clock(stub: Server, gateway: Server) -> Callable[[], tuple[float, float]]:
    """Start counting; the result returns the gateway's CPU seconds, and everyone else's."""

    def now() -> tuple[float, float]:
        others = machine_cpu_seconds() - stub.cpu_seconds() - time.process_time()
        return gateway.cpu_seconds(), others

    before = now()

    def since() -> tuple[float, float]:
        after = now()
        used = after[0] - before[0]
        return used, after[1] - before[1] - used

    return since


def _rows(database: Path) -> int:
    with closing(sqlite3.connect(database)) as connection:
        (rows,) = connection.execute("SELECT count(*) FROM enhancement_logs").fetchone()
        return int(rows)


def _outcome(
    scenario: Scenario, warm: Slice, rounds: list[_Round], *, rows: int, resident: float
) -> Outcome:
    def median(values: list[float]) -> float:
        return round(statistics.median(values), 4)

    def best_added(share: float) -> float:
        # Each side's quietest round: a difference of two rounds could be flattered by the stub's.
        quietest = min(item.gateway.quantile(share) for item in rounds)
        return round(quietest - min(item.stub.quantile(share) for item in rounds), 4)

    return Outcome(
        scenario=scenario.name,
        rounds=len(rounds),
        requests=len(warm.latencies) + sum(len(item.gateway.latencies) for item in rounds),
        rows=rows,
        errors=warm.errors + sum(item.gateway.errors + item.stub.errors for item in rounds),
        stub_rate=median([item.stub.rate for item in rounds]),
        gateway_rate=median([item.gateway.rate for item in rounds]),
        ratio=median([item.ratio for item in rounds]),
        ratio_best=round(max(item.ratio for item in rounds), 4),
        stub_p50_ms=median([item.stub.quantile(0.5) for item in rounds]),
        gateway_p50_ms=median([item.gateway.quantile(0.5) for item in rounds]),
        added_p50_ms=median([item.added(0.5) for item in rounds]),
        added_p50_ms_best=best_added(0.5),
        added_p99_ms=median([item.added(0.99) for item in rounds]),
        added_p99_ms_best=best_added(0.99),
        cpu_us=median([item.cpu_us for item in rounds]),
        cpu_us_best=round(min(item.cpu_us for item in rounds), 1),
        elsewhere=median([item.elsewhere for item in rounds]),
        resident_mib=round(resident, 1),
    )


def _checked(outcome: Outcome, warm: Slice) -> Outcome:
    if outcome.errors or not warm.latencies:
        raise MeasurementInvalid(
            f"{outcome.scenario}: {outcome.errors} answers were not what they must be."
        )
    if outcome.rows != outcome.requests:
        raise MeasurementInvalid(
            f"{outcome.scenario}: {outcome.requests} answers, but {outcome.rows} audit rows."
        )
    return outcome
