"""What every store is tested with. A further adapter is one more param of each fixture."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from onbook.adapters.database.access_key_store import SqlAccessKeyStore
from onbook.adapters.database.engine import create_engine
from onbook.adapters.database.enhancement_log import SqliteEnhancementLog
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
def url(tmp_path: Path) -> str:
    url = sqlite_url(tmp_path / "onbook.db")
    migrate(url)
    return url


@pytest.fixture
async def engine(url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(url)
    yield engine
    await engine.dispose()


@pytest.fixture(params=["memory", "sqlite"])
def template_store(request: pytest.FixtureRequest, engine: AsyncEngine) -> TemplateStore:
    if request.param == "memory":
        return MemoryTemplateStore()
    return SqlTemplateStore(engine)


@pytest.fixture(params=["memory", "sqlite"])
def access_key_store(request: pytest.FixtureRequest, engine: AsyncEngine) -> AccessKeyStore:
    if request.param == "memory":
        return MemoryAccessKeyStore()
    return SqlAccessKeyStore(engine)


@pytest.fixture(params=["memory", "sqlite"])
async def log(request: pytest.FixtureRequest, url: str) -> AsyncIterator[EnhancementLog]:
    memory = request.param == "memory"
    log: EnhancementLog = MemoryEnhancementLog() if memory else SqliteEnhancementLog(url)
    yield log
    await log.close()


@pytest.fixture
async def sqlite_log(url: str) -> AsyncIterator[SqliteEnhancementLog]:
    log = SqliteEnhancementLog(url)
    yield log
    await log.close()


@pytest.fixture
def recorded(engine: AsyncEngine) -> "Recorded":
    return Recorded(engine)


class Recorded:
    """Reads a log's rows and texts back, beside the log itself."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def rows(self, log: EnhancementLog) -> Sequence[EnhancementRow]:
        if isinstance(log, MemoryEnhancementLog):
            return log.rows
        async with self._engine.connect() as connection:
            found = await connection.execute(select(enhancement_logs))
            return [EnhancementRow(**row) for row in found.mappings()]

    async def texts(self, log: EnhancementLog) -> dict[str, EnhancementTexts]:
        if isinstance(log, MemoryEnhancementLog):
            return log.texts
        async with self._engine.connect() as connection:
            found = await connection.execute(select(enhancement_texts))
            return {row["request_id"]: EnhancementTexts(**row) for row in found.mappings()}
