"""The audit log: what a durable row of the chain costs, and what a receipt costs on its way."""

import asyncio
import json
import os
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Final

import msgspec
import uvloop

from benchmarks.book import durable_postgres  # the tests' own server, with durable commits
from onbook.adapters.clock import SystemIds
from onbook.adapters.database import sqlite_file
from onbook.adapters.database.enhancement_log import enhancement_log
from onbook.adapters.database.log_rows import ROW_COLUMNS, TEXT_COLUMNS, row_values, text_values
from onbook.adapters.database.postgres_connection import connect
from onbook.adapters.database.schema import migrate
from onbook.adapters.database.types import utc_text
from onbook.ports.stores import EnhancementRow, EnhancementTexts
from onbook.wire.receipt import (
    EffectiveSampling,
    Receipt,
    request_sha256,
    signature_valid,
    token_ids_sha256,
)
from onbook.wire.signing import new_ring
from onbook.wire.worker_api import InferenceRequest, Message, ModelInfo
from onbook.worker.receipts import ReceiptSigner

_WRITERS: Final = (1, 32, 128)
_ROUNDS: Final = 3
_FSYNCS: Final = 200
_CALLS: Final = 400
_PROMPT_TOKENS: Final = 400

Record = tuple[EnhancementRow, EnhancementTexts]
Write = Callable[[Record], Awaitable[None]]


class RowCost(msgspec.Struct, frozen=True, kw_only=True):
    """Rows with their texts, by ``writers`` at once, each waiting for its row's commit.

    ``cpu_us`` is the CPU time of this process per row, the writers' own tasks included; on
    Postgres the server's is not. ``wait_fsyncs`` is the median wait for a commit over the median
    time of one fsync on the same disk in the same run. Of three rounds, the median.
    """

    database: str
    way: str
    writers: int
    cpu_us: float
    rows_per_s: float
    wait_ms: float
    wait_fsyncs: float


class ReceiptCost(msgspec.Struct, frozen=True, kw_only=True):
    """CPU time of one step of a receipt, in microseconds per request."""

    step: str
    median_us: float
    best_us: float


class AuditFigures(msgspec.Struct, kw_only=True):
    """What this part measures. ``skipped`` says what could not be."""

    fsync_ms: float
    rows: list[RowCost]
    receipt: list[ReceiptCost]
    skipped: list[str]


def measure_audit(*, rows_per_writer: int = 60) -> AuditFigures:
    """Measure both; each writer writes at least ``rows_per_writer`` rows."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        figures = AuditFigures(
            fsync_ms=_fsync_ms(directory), rows=[], receipt=_receipt_costs(), skipped=[]
        )
        url = sqlite_file.sqlite_url(directory / "onbook.db")
        migrate(url)
        figures.rows += _on("SQLite", url, figures.fsync_ms, rows_per_writer)
        postgres = durable_postgres(stack)
        if postgres is None:
            figures.skipped.append("rows on Postgres: there are no programs of Postgres here")
        else:
            migrate(postgres)
            figures.rows += _on("Postgres", postgres, figures.fsync_ms, rows_per_writer)
    return figures


def _on(database: str, url: str, fsync_ms: float, rows_per_writer: int) -> Iterator[RowCost]:
    ways: dict[str, Callable[[str, int, int], tuple[float, float, float]]] = {
        "chained, signed": _chained,
        "a commit per row, no chain": _singly_sqlite if database == "SQLite" else _singly_postgres,
    }
    for writers in _WRITERS:
        count = max(300, writers * rows_per_writer)
        for way, measure in ways.items():
            if way != "chained, signed":
                count = min(count, 600)
            rounds = [measure(url, writers, count) for _ in range(_ROUNDS)]
            cpu_us, rows_per_s, wait_ms = (median(found) for found in zip(*rounds, strict=True))
            yield RowCost(
                database=database,
                way=way,
                writers=writers,
                cpu_us=cpu_us,
                rows_per_s=rows_per_s,
                wait_ms=wait_ms,
                wait_fsyncs=wait_ms / fsync_ms,
            )
        if database == "SQLite":
            found = [_unchained_sqlite(url, writers, count) for _ in range(_ROUNDS)]
            yield RowCost(
                database=database,
                way="bare executemany of as many, no chain, nobody waits",
                writers=writers,
                cpu_us=median(cpu for cpu, _, _ in found),
                rows_per_s=median(rate for _, rate, _ in found),
                wait_ms=median(wait for _, _, wait in found),
                wait_fsyncs=median(wait for _, _, wait in found) / fsync_ms,
            )


def _chained(url: str, writers: int, count: int) -> tuple[float, float, float]:
    key = new_ring("gateway", at=datetime.now(UTC)).signer(datetime.now(UTC))

    async def measure() -> tuple[float, float, float]:
        log = enhancement_log(url, signer=lambda: key)
        try:
            return await _timed(lambda record: log.record(*record), writers, count)
        finally:
            await log.close()

    return uvloop.run(measure())


def _singly_sqlite(url: str, writers: int, count: int) -> tuple[float, float, float]:
    path = sqlite_file.sqlite_path(url)

    async def measure() -> tuple[float, float, float]:
        with closing(_connected(path)) as connection:
            lock = asyncio.Lock()

            async def write(record: Record) -> None:
                async with lock:
                    await asyncio.to_thread(_insert_sqlite, connection, [record])

            return await _timed(write, writers, count)

    return uvloop.run(measure())


def _singly_postgres(url: str, writers: int, count: int) -> tuple[float, float, float]:
    names = ", ".join(ROW_COLUMNS)
    places = ", ".join(f"${number}" for number in range(1, len(ROW_COLUMNS) + 1))
    sql = f"INSERT INTO enhancement_logs ({names}) VALUES ({places})"  # noqa: S608 - names of ours

    async def measure() -> tuple[float, float, float]:
        connection = await connect(url, synchronous_commit="on")
        lock = asyncio.Lock()

        async def write(record: Record) -> None:
            async with lock:
                await connection.execute(sql, *row_values(record[0]))

        try:
            return await _timed(write, writers, count)
        finally:
            await connection.close()

    return uvloop.run(measure())


def _unchained_sqlite(url: str, writers: int, count: int) -> tuple[float, float, float]:
    """Write groups of ``writers`` rows in one thread: the floor that the database itself sets."""
    records = _records(count)
    with closing(_connected(sqlite_file.sqlite_path(url))) as connection:
        waits = []
        cpu, started = time.process_time(), time.perf_counter()
        for group in _batches(records, writers):
            before = time.perf_counter()
            _insert_sqlite(connection, group)
            waits.append(time.perf_counter() - before)
        cpu, elapsed = time.process_time() - cpu, time.perf_counter() - started
    return cpu / count * 1e6, count / elapsed, median(waits) * 1000


async def _timed(write: Write, writers: int, count: int) -> tuple[float, float, float]:
    """Return CPU µs per row, rows per second and the median wait in ms."""
    await write(_records(1)[0])
    records = iter(_records(count))
    waits: list[float] = []

    async def writer() -> None:
        for record in records:
            before = time.perf_counter()
            await write(record)
            waits.append(time.perf_counter() - before)

    cpu, started = time.process_time(), time.perf_counter()
    await asyncio.gather(*(writer() for _ in range(writers)))
    cpu, elapsed = time.process_time() - cpu, time.perf_counter() - started
    return cpu / count * 1e6, count / elapsed, median(waits) * 1000


def _connected(path: Path) -> sqlite3.Connection:
    uri = sqlite_file.file_uri(path)
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    for pragma in sqlite_file.PRAGMAS:
        connection.execute(pragma)
    return connection


def _insert_sqlite(connection: sqlite3.Connection, records: Sequence[Record]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for table, names, rows in (
        ("enhancement_logs", ROW_COLUMNS, [row_values(row) for row, _ in records]),
        ("enhancement_texts", TEXT_COLUMNS, [text_values(texts) for _, texts in records]),
    ):
        at = names.index("created_at")
        connection.executemany(
            f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})",  # noqa: S608 - names of ours
            [(*row[:at], utc_text(row[at]), *row[at + 1 :]) for row in rows],  # type: ignore[arg-type]  # the column is created_at
        )
    connection.execute("COMMIT")


def _batches(records: Sequence[Record], size: int) -> Iterator[Sequence[Record]]:
    for start in range(0, len(records), size):
        yield records[start : start + size]


def _records(count: int) -> list[Record]:
    receipt = msgspec.json.encode(_receipt()).decode()
    row = EnhancementRow(
        id="",
        request_id="",
        created_at=datetime.now(UTC),
        function="enhance-prompt",
        caller="0f2c6a",
        user_id="user-1",
        job_type="sdxl_image_high",
        template_name="enhancement_sdxl_sfw",
        template_version=3,
        template_sha256="a" * 64,
        template_source="database",
        content_mode="sfw",
        target="sdxl",
        model_type="qwen_instruct",
        model_used="qwen2.5-0.5b-instruct-q4_k_m",
        worker_id="worker-0123456789ab",
        strategy="template",
        fallback_level=0,
        cache_hit=True,
        attempts=1,
        execution_time_ms=812.345,
        worker_response_time_ms=801.2,
        token_count=70,
        token_limit=75,
        tokens_before_compression=90,
        tokenizer="clip",
        compression_applied=True,
        finish_reason="stop",
        integrity_status="verified",
        prompt_sha256="b" * 64,
        messages_sha256="c" * 64,
        output_sha256="d" * 64,
        seed=1234567,
        receipt=receipt,
        decision=json.dumps({"mode": "sfw", "score": 0.0312, "reason": "below the threshold"}),
        output_steps=json.dumps(
            [{"step": "clean", "before_sha256": "e" * 64, "after_sha256": "d" * 64}] * 3
        ),
    )
    texts = EnhancementTexts(
        request_id="",
        created_at=row.created_at,
        salt="0" * 32,
        original="a fox in the snow at dusk",
        messages=json.dumps([{"role": "system", "content": "Describe the scene. " * 40}]),
        raw_output="a fox in the snow at dusk, soft light, long shadows, detailed fur " * 3,
        enhanced="a fox in the snow at dusk, soft light, long shadows, detailed fur",
    )
    made = []
    new_id = SystemIds().request_id
    for _ in range(count):
        name = new_id()
        made.append((replace(row, id=new_id(), request_id=name), replace(texts, request_id=name)))
    return made


def _request() -> tuple[InferenceRequest, EffectiveSampling]:
    messages = [Message("system", "Describe the scene. " * 40), Message("user", "a fox at dusk")]
    sampling = EffectiveSampling(
        max_tokens=256,
        temperature=0.7,
        top_p=0.9,
        top_k=40,
        min_p=0.05,
        repetition_penalty=1.0,
        frequency_penalty=0.0,
        presence_penalty=0.0,
        dry_multiplier=0.0,
        seed=1234567,
        stop=[],
        grammar_sha256=None,
    )
    return InferenceRequest(messages=messages, nonce="0123456789abcdef" * 2), sampling


def _receipt() -> Receipt:
    return _make_receipt(*_request())


_TOKEN_IDS: Final = [1000 + 37 * number % 150_000 for number in range(_PROMPT_TOKENS)]
_KEY: Final = new_ring("worker", at=datetime.now(UTC)).signer(datetime.now(UTC))
_SIGNER: Final = ReceiptSigner(
    "worker-0123456789ab",
    lambda: _KEY,
    ModelInfo(
        name="qwen2.5-0.5b-instruct-q4_k_m",
        file_sha256="1" * 64,
        chat_template_sha256="2" * 64,
        engine="llama.cpp",
    ),
)


def _make_receipt(request: InferenceRequest, sampling: EffectiveSampling) -> Receipt:
    return _SIGNER.receipt(
        request,
        sampling=sampling,
        rendering="chatml",
        prompt_tokens=_PROMPT_TOKENS,
        token_ids=_TOKEN_IDS,
        finish_reason="stop",
        output="a fox in the snow at dusk, soft light, long shadows, detailed fur " * 3,
    )


def _receipt_costs() -> list[ReceiptCost]:
    request, sampling = _request()
    receipt = _receipt()
    nonce = request.nonce or ""

    def gateway() -> None:
        if not signature_valid(receipt, _KEY.public_key):
            raise AssertionError("the benchmark's own receipt is not valid")
        request_sha256(request.messages, sampling, nonce)
        token_ids_sha256(_TOKEN_IDS)

    def both() -> None:
        _make_receipt(request, sampling)
        gateway()

    steps: dict[str, Callable[[], object]] = {
        "worker: make and sign": lambda: _make_receipt(request, sampling),
        "gateway: check signature": lambda: signature_valid(receipt, _KEY.public_key),
        "gateway: digest of the request": lambda: request_sha256(request.messages, sampling, nonce),
        f"gateway: digest of {_PROMPT_TOKENS} token ids": lambda: token_ids_sha256(_TOKEN_IDS),
        "all of it": both,
    }
    return [_cost(step, call) for step, call in steps.items()]


def _cost(step: str, call: Callable[[], object]) -> ReceiptCost:
    found = []
    for _ in range(20):
        started = time.process_time_ns()
        for _ in range(_CALLS // 20):
            call()
        found.append((time.process_time_ns() - started) / (_CALLS // 20) / 1000)
    return ReceiptCost(step=step, median_us=median(found), best_us=min(found))


def _fsync_ms(directory: Path) -> float:
    """Return the median time of writing 4 KiB behind a file and syncing it, in milliseconds."""
    times = []
    with (directory / "fsync").open("wb", buffering=0) as file:
        for _ in range(_FSYNCS):
            started = time.perf_counter()
            file.write(b"x" * 4096)
            os.fsync(file.fileno())
            times.append(time.perf_counter() - started)
    return median(times) * 1000
