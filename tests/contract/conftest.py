"""What every store is tested with. A further adapter is one more param of each fixture."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import RowMapping, Table, select
from sqlalchemy.ext.asyncio import AsyncEngine

from onbook.adapters.database.access_key_store import SqlAccessKeyStore
from onbook.adapters.database.engine import create_engine
from onbook.adapters.database.enhancement_log import SqliteEnhancementLog, enhancement_log
from onbook.adapters.database.log_rows import ROW_COLUMNS
from onbook.adapters.database.schema import migrate
from onbook.adapters.database.sqlite_file import sqlite_url
from onbook.adapters.database.tables import enhancement_logs, enhancement_texts
from onbook.adapters.database.template_store import SqlTemplateStore
from onbook.adapters.memory.access_keys import MemoryAccessKeyStore
from onbook.adapters.memory.enhancement_log import MemoryEnhancementLog
from onbook.adapters.memory.templates import MemoryTemplateStore
from onbook.domain.templates import Example, Template, TemplateSampling, Variable, checked
from onbook.ports.stores import (
    AccessKeyStore,
    EnhancementLog,
    EnhancementRow,
    EnhancementTexts,
    TemplateStore,
)

AT = datetime(2026, 11, 22, 10, 30, 0, 123456, tzinfo=UTC)

RowMaker = Callable[..., EnhancementRow]
TextsMaker = Callable[..., EnhancementTexts]
TemplateMaker = Callable[..., Template]


def _row(**changes: object) -> EnhancementRow:
    row = EnhancementRow(
        id=str(uuid4()),
        request_id=str(uuid4()),
        created_at=AT,
        function="enhance-prompt",
        caller="key-1",
        user_id=None,
        job_type="sdxl_image_high",
        template_name="enhancement_sdxl_sfw",
        template_version=3,
        template_sha256="a" * 64,
        template_source="database",
        content_mode="sfw",
        target="sdxl",
        model_type="qwen_instruct",
        model_used="qwen",
        worker_id="w1",
        strategy="template",
        fallback_level=0,
        cache_hit=True,
        attempts=1,
        execution_time_ms=12.25,
        worker_response_time_ms=10.5,
        token_count=70,
        token_limit=75,
        tokens_before_compression=80,
        tokenizer="clip",
        compression_applied=True,
        finish_reason="stop",
        error_code=None,
        integrity_status="verified",
        prompt_sha256="b" * 64,
        messages_sha256="c" * 64,
        output_sha256="d" * 64,
        seed=0,
        receipt='{"a":1}',
        decision=None,
    )
    return replace(row, **changes)  # type: ignore[arg-type]  # a test's own field names


def _texts(row: EnhancementRow, **changes: object) -> EnhancementTexts:
    texts = EnhancementTexts(
        request_id=row.request_id,
        created_at=row.created_at,
        salt="00ff",
        original="a red fox",
        messages="[]",
        raw_output=None,
        enhanced="a red fox in snow",
    )
    return replace(texts, **changes)  # type: ignore[arg-type]  # a test's own field names


def _template(**changes: object) -> Template:
    template = Template(
        template_name="enhancement_sdxl_sfw",
        version=1,
        model_type="qwen_instruct",
        use_case="enhancement",
        content_mode="sfw",
        target="sdxl",
        system_prompt="Describe the scene.",
        token_limit=75,
        token_unit="clip",
        max_tokens=200,
        sampling=TemplateSampling(temperature=0.4, top_k=40, stop=("\n",)),
        examples=(Example("ein Fuchs", "a fox 🦊"), Example("cat", "a cat")),
        examples_sent=1,
        grammar='root ::= "x"',
        variables=(Variable("mood", "string", default="calm"),),
        negative_prompt="blurry",
        description="For SDXL.",
    )
    return checked(replace(template, **changes))  # type: ignore[arg-type]  # a test's own names


@pytest.fixture
def make_row() -> RowMaker:
    return _row


@pytest.fixture
def make_texts() -> TextsMaker:
    return _texts


@pytest.fixture
def make_template() -> TemplateMaker:
    return _template


@pytest.fixture
def sqlite_file(tmp_path: Path) -> str:
    """The URL of an empty book in a SQLite file."""
    url = sqlite_url(tmp_path / "onbook.db")
    migrate(url)
    return url


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty book, on each database in turn."""
    return _url(request, request.param)


@pytest.fixture
async def engine(url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(url)
    yield engine
    await engine.dispose()


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def store_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def store_url(request: pytest.FixtureRequest, store_kind: str) -> str | None:
    """The URL of an empty book; None for the adapter in memory."""
    return None if store_kind == "memory" else _url(request, store_kind)


@pytest.fixture
async def store_engine(store_url: str | None) -> AsyncIterator[AsyncEngine | None]:
    if store_url is None:
        yield None
        return
    engine = create_engine(store_url)
    yield engine
    await engine.dispose()


@pytest.fixture
def template_store(store_engine: AsyncEngine | None) -> TemplateStore:
    return MemoryTemplateStore() if store_engine is None else SqlTemplateStore(store_engine)


@pytest.fixture
def access_key_store(store_engine: AsyncEngine | None) -> AccessKeyStore:
    return MemoryAccessKeyStore() if store_engine is None else SqlAccessKeyStore(store_engine)


@pytest.fixture
async def log(store_url: str | None) -> AsyncIterator[EnhancementLog]:
    log = MemoryEnhancementLog() if store_url is None else enhancement_log(store_url)
    yield log
    await log.close()


@pytest.fixture
def recorded(store_engine: AsyncEngine | None) -> "Recorded":
    return Recorded(store_engine)


@pytest.fixture
async def sqlite_log(sqlite_file: str) -> AsyncIterator[SqliteEnhancementLog]:
    log = SqliteEnhancementLog(sqlite_file)
    yield log
    await log.close()


class Recorded:
    """Reads a log's rows and texts back, beside the log itself."""

    def __init__(self, engine: AsyncEngine | None) -> None:
        self._engine = engine

    async def rows(self, log: EnhancementLog) -> Sequence[EnhancementRow]:
        if isinstance(log, MemoryEnhancementLog):
            return log.rows
        return [
            EnhancementRow(**{name: row[name] for name in ROW_COLUMNS})
            for row in await self._all(enhancement_logs)
        ]

    async def texts(self, log: EnhancementLog) -> dict[str, EnhancementTexts]:
        if isinstance(log, MemoryEnhancementLog):
            return log.texts
        return {
            row["request_id"]: EnhancementTexts(**row) for row in await self._all(enhancement_texts)
        }

    async def _all(self, table: Table) -> Sequence[RowMapping]:
        assert self._engine is not None
        async with self._engine.connect() as connection:
            return (await connection.execute(select(table))).mappings().all()


def _url(request: pytest.FixtureRequest, kind: str) -> str:
    return str(request.getfixturevalue("sqlite_file" if kind == "sqlite" else "postgres_url"))
