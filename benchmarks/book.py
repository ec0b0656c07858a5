"""The book: what a cached resolve costs, and how soon an edit is served by four gateways."""

import asyncio
import importlib.util
import sqlite3
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles
from typing import Final

import aiohttp
import asyncpg
import msgspec
from pydantic import SecretStr

from benchmarks.process import Server
from benchmarks.stub_worker import READY
from onbook.adapters.clock import SystemClock
from onbook.adapters.database.postgres_url import connect_arguments
from onbook.adapters.files.packaged import packaged_templates
from onbook.adapters.memory.templates import MemorySnapshots, MemoryTemplateStore
from onbook.bootstrap import prepare_database
from onbook.domain.templates import Template, TemplateKey, checked
from onbook.flows.resolve_template import TemplateBook
from onbook.ports.stores import TemplateChanges
from onbook.settings import Settings

_ROOT: Final = Path(__file__).resolve().parent.parent
_SIZES: Final = (12, 1_000, 100_000)
_SLICES: Final = 40
_LOOPS: Final = 2_000
_GATEWAYS: Final = 4
_EDITED: Final = "enhancement_sdxl_sfw"
_POLL_S: Final = 0.01
_GIVE_UP_S: Final = 20.0
_KEY: Final = "benchmark-admin-key-0123456789"

Edit = Callable[[str], Awaitable[int]]


class Resolve(msgspec.Struct, frozen=True, kw_only=True):
    """A cached resolve in a book of ``templates``; ``ratio`` is to the smallest book's best."""

    templates: int
    best_us: float
    median_us: float
    ratio: float


class Propagation(msgspec.Struct, frozen=True, kw_only=True):
    """Time from an edit's commit until a gateway answers with it, over edits times gateways.

    Times in ms; ``poll_ms`` is how often each gateway was asked, and so the error.
    """

    database: str
    gateways: int
    edits: int
    p50_ms: float
    p99_ms: float
    worst_ms: float
    poll_ms: float


class BookFigures(msgspec.Struct, kw_only=True):
    """What this part measures. ``skipped`` says what could not be."""

    resolve: list[Resolve]
    propagation: list[Propagation]
    skipped: list[str]


def measure_book(*, edits: int) -> BookFigures:
    """Measure both; ``edits`` per database."""
    figures = BookFigures(resolve=asyncio.run(_measure_resolve()), propagation=[], skipped=[])
    with tempfile.TemporaryDirectory() as directory:
        figures.propagation.append(_on_sqlite(Path(directory), edits))
    with ExitStack() as stack:
        url = durable_postgres(stack)
        if url is None:
            figures.skipped.append("edits on Postgres: there are no programs of Postgres here")
        else:
            directory = stack.enter_context(tempfile.TemporaryDirectory())
            figures.propagation.append(_on_postgres(Path(directory), url, edits))
    return figures


class _Store(MemoryTemplateStore):
    """A book that is read once; the shipped one keeps a history that nothing here needs."""

    def __init__(self, templates: Sequence[Template]) -> None:
        super().__init__()
        self._templates = templates

    async def epoch(self) -> int:
        return 1

    async def changes(self, since: int | None) -> TemplateChanges:
        del since
        return TemplateChanges(epoch=1, full=True, active=self._templates)


async def _measure_resolve() -> list[Resolve]:
    books = []
    for size in _SIZES:
        book = TemplateBook(_Store(tuple(_templates(size))), MemorySnapshots(), (), SystemClock())
        await book.refresh()
        books.append(book)
    # In turn, so that every size sees the same machine.
    slices = [[_resolve_us(book) for book in books] for _ in range(_SLICES)]
    by_size = list(zip(*slices, strict=True))
    return [
        Resolve(
            templates=size,
            best_us=min(found),
            median_us=median(found),
            ratio=min(found) / min(by_size[0]),
        )
        for size, found in zip(_SIZES, by_size, strict=True)
    ]


def _resolve_us(book: TemplateBook) -> float:
    key = TemplateKey("qwen_instruct", "enhancement", "sfw", "sdxl")
    started = time.perf_counter_ns()
    for _ in range(_LOOPS):
        book.resolve(key)
    return (time.perf_counter_ns() - started) / _LOOPS / 1000


def _templates(size: int) -> Iterator[Template]:
    packaged = packaged_templates()
    yield from packaged
    pattern = next(item for item in packaged if item.template_name == _EDITED)
    for number in range(size - len(packaged)):
        name = f"filler_{number:06}"
        yield checked(replace(pattern, template_name=name, model_type=name))


def _on_sqlite(directory: Path, edits: int) -> Propagation:
    settings = _settings(directory, None)
    asyncio.run(prepare_database(settings))
    path = directory / "onbook.db"

    def write(text: str) -> int:
        with closing(sqlite3.connect(path, timeout=10)) as connection:
            connection.execute(
                "UPDATE prompt_templates SET system_prompt = ?, version = version + 1 "
                "WHERE template_name = ?",
                (text, _EDITED),
            )
            connection.commit()
            (version,) = connection.execute(
                "SELECT version FROM prompt_templates WHERE template_name = ?", (_EDITED,)
            ).fetchone()
        return int(version)

    async def edit(text: str) -> int:
        return await asyncio.to_thread(write, text)

    async def measure(urls: Sequence[str]) -> Propagation:
        return await _propagation("SQLite", urls, edit, edits)

    with _gateways(settings, directory) as urls:
        return asyncio.run(measure(urls))


def _on_postgres(directory: Path, url: str, edits: int) -> Propagation:
    settings = _settings(directory, url)
    asyncio.run(prepare_database(settings))

    async def measure(urls: Sequence[str]) -> Propagation:
        connection = await asyncpg.connect(**connect_arguments(url))

        async def edit(text: str) -> int:
            return int(
                await connection.fetchval(
                    "UPDATE prompt_templates SET system_prompt = $1, version = version + 1 "
                    "WHERE template_name = $2 RETURNING version",
                    text,
                    _EDITED,
                )
            )

        try:
            return await _propagation("Postgres", urls, edit, edits)
        finally:
            await connection.close()

    with _gateways(settings, directory) as urls:
        return asyncio.run(measure(urls))


async def _propagation(database: str, urls: Sequence[str], edit: Edit, edits: int) -> Propagation:
    times: list[float] = []
    headers = {"Authorization": f"Bearer {_KEY}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        for number in range(edits):
            version = await edit(f"Describe the scene, for the {number}th time.")
            committed = time.perf_counter()
            times += await asyncio.gather(
                *(_served(session, url, version, committed) for url in urls)
            )
            # Between the polls of the gateways, so that edits meet every phase of them.
            await asyncio.sleep(0.037 * (number % 10))
    return Propagation(
        database=database,
        gateways=len(urls),
        edits=edits,
        p50_ms=median(times) * 1000,
        p99_ms=quantiles(times, n=100)[98] * 1000,
        worst_ms=max(times) * 1000,
        poll_ms=_POLL_S * 1000,
    )


async def _served(
    session: aiohttp.ClientSession, url: str, version: int, committed: float
) -> float:
    """Return the seconds until a dry run on the gateway composes with ``version``."""
    body = {"prompt": "a cat", "template_name": _EDITED, "dry_run": True}
    while (now := time.perf_counter()) - committed < _GIVE_UP_S:
        async with session.post(f"{url}/functions/v1/enhance-prompt", json=body) as answer:
            served = (await answer.json())["template_version"]
        if served >= version:
            # The answer's arrival, so that the asking itself counts too.
            return time.perf_counter() - committed
        await asyncio.sleep(max(0.0, _POLL_S - (time.perf_counter() - now)))
    raise TimeoutError(f"{url} did not serve the edit within {_GIVE_UP_S:.0f} s")


@contextmanager
def _gateways(settings: Settings, directory: Path) -> Iterator[list[str]]:
    with ExitStack() as stack:
        stub = stack.enter_context(
            Server(
                [sys.executable, "-m", "benchmarks.stub_worker"],
                directory=directory,
                name="stub",
                ready=READY,
                core=None,
                environment={"PYTHONPATH": str(_ROOT)},
            )
        )
        environment = {"ONBOOK_BOOTSTRAP_KEY": _KEY}
        if settings.database_url is not None:
            environment["ONBOOK_DATABASE_URL"] = settings.database_url
        command = [str(Path(sys.executable).with_name("onbook")), "gateway", "--port", "0"]
        urls = []
        for number in range(_GATEWAYS):
            server = Server(
                [*command, "--data-dir", str(settings.data_dir), "--worker-url", stub.url],
                directory=directory,
                name=f"gateway{number}",
                ready="ready at ",
                core=None,
                environment=environment,
            )
            urls.append(stack.enter_context(server).url)
        yield urls


def _settings(directory: Path, database_url: str | None) -> Settings:
    return Settings(data_dir=directory, database_url=database_url, bootstrap_key=SecretStr(_KEY))


def durable_postgres(stack: ExitStack) -> str | None:
    """Start the tests' own Postgres, with durable commits; None where there is none."""
    spec = importlib.util.spec_from_file_location("postgres", _ROOT / "tests" / "postgres.py")
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    sys.modules["postgres"] = module
    spec.loader.exec_module(module)
    try:
        server = stack.enter_context(module.postgres_server(fsync=True))
    except module.NoPostgres:
        return None
    return str(stack.enter_context(server.database(migrated=False)))
