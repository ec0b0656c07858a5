"""A book for a test, in memory or in a database, seen through both ports and by raw SQL."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from onbook.adapters.database.engine import create_engine, writer
from onbook.adapters.database.tables import (
    prompt_template_versions,
    prompt_templates,
    template_epoch,
    template_events,
    template_splits,
)
from onbook.adapters.database.template_library import SqlTemplateLibrary
from onbook.adapters.database.template_store import SqlTemplateStore
from onbook.adapters.memory.template_book import MemoryBook
from onbook.adapters.memory.template_library import MemoryTemplateLibrary
from onbook.adapters.memory.templates import MemoryTemplateStore
from onbook.domain.template_history import TemplateVersion
from onbook.domain.templates import Template, TemplateTest, Variable, checked
from onbook.ports.stores import TemplateChanges, TemplateStore
from onbook.ports.template_library import TemplateLibrary

NAME = "enhancement_sdxl_sfw"
AT = datetime(2026, 11, 22, 10, 30, tzinfo=UTC)
GATE: Mapping[str, object] = {"passed": True, "cases": [], "override": None}
_TABLES = (
    prompt_templates,
    prompt_template_versions,
    template_events,
    template_splits,
    template_epoch,
)


def template(text: str = "Describe the scene.", **changes: object) -> Template:
    """Return a template; ``text`` is its system prompt."""
    made = Template(
        template_name=NAME,
        version=1,
        model_type="qwen_instruct",
        use_case="enhancement",
        content_mode="sfw",
        target="sdxl",
        system_prompt=text,
        token_limit=75,
        token_unit="clip",
        max_tokens=200,
        variables=(Variable("mood", "string", default="calm"),),
        tests=(TemplateTest(name="a fox", input="a red fox", must_keep=("fox",), seed=3),),
    )
    return checked(replace(made, **changes))  # type: ignore[arg-type]  # a test's own field names


@dataclass
class Book:
    """Both ports of one book, and shorthands for its changes with a time that goes on."""

    library: TemplateLibrary
    store: TemplateStore
    memory: MemoryBook | None
    engine: AsyncEngine | None
    _seconds: int = field(default=0)

    def now(self) -> datetime:
        self._seconds += 1
        return AT + timedelta(seconds=self._seconds)

    def who(self) -> "Who":
        return Who(author="cli:ann", reason="because", at=self.now())

    async def draft(
        self, text: str = "Another text.", base: int | None = None, **changes: object
    ) -> TemplateVersion:
        who = self.who()
        return await self.library.draft(
            template(text, **changes),
            base_version=base,
            author=who.author,
            reason=who.reason,
            at=who.at,
        )

    async def activate(self, version: int, expected: int | None, name: str = NAME) -> int:
        who = self.who()
        return await self.library.activate(
            name,
            version,
            expected_version=expected,
            author=who.author,
            reason=who.reason,
            at=who.at,
            gate=GATE,
        )

    async def roll_back(self, to: int, expected: int, name: str = NAME) -> TemplateVersion:
        who = self.who()
        return await self.library.roll_back(
            name, to, expected_version=expected, author=who.author, reason=who.reason, at=who.at
        )

    async def start_split(
        self, candidate: int, expected: int, percent: int = 20, name: str = NAME
    ) -> str:
        who = self.who()
        split = await self.library.start_split(
            name,
            candidate,
            percent=percent,
            expected_version=expected,
            author=who.author,
            reason=who.reason,
            at=who.at,
            gate=GATE,
        )
        return split.split_id

    async def served(self) -> dict[str, Template]:
        """Return what a gateway that starts now serves, by name."""
        return {item.template_name: item for item in (await self.store.changes(None)).active}

    async def live(self, *texts: str) -> None:
        """Make ``texts`` the live version of ``NAME``, one after the other, from version 1."""
        for number, text in enumerate(texts, start=1):
            await self.draft(text)
            await self.activate(number, number - 1 or None)

    async def sql(self, statement: str) -> None:
        """Run one statement as an administrator does; not in memory."""
        assert self.engine is not None
        async with writer(self.engine).begin() as connection:
            await connection.exec_driver_sql(statement)

    async def state(self) -> object:
        """Return everything that is stored, to compare."""
        if self.memory is not None:
            book = self.memory
            kept = {name: dict(versions) for name, versions in book.kept.items()}
            return book.epoch, dict(book.rows), kept, list(book.record), dict(book.splits)
        assert self.engine is not None
        async with self.engine.connect() as connection:
            return [
                sorted(map(str, (await connection.execute(select(table))).all()))
                for table in _TABLES
            ]


@dataclass(frozen=True)
class Who:
    author: str
    reason: str
    at: datetime


@dataclass
class Mirror:
    """What a gateway knows that only ever takes over changes."""

    epoch: int | None = None
    active: dict[str, Template] = field(default_factory=dict)
    stale: dict[str, int] = field(default_factory=dict)

    def take_over(self, changes: TemplateChanges) -> None:
        if changes.full:
            self.active, self.stale = {}, {}
        for name in (*changes.gone, *(item.template_name for item in changes.active)):
            self.active.pop(name, None)
            self.stale.pop(name, None)
        self.active |= {item.template_name: item for item in changes.active}
        self.stale |= changes.stale
        self.epoch = changes.epoch


@asynccontextmanager
async def book_on(engine: AsyncEngine | None) -> AsyncIterator[Book]:
    """Give the book behind ``engine``; a new one in memory for None."""
    if engine is None:
        memory = MemoryBook()
        store = MemoryTemplateStore(book=memory)
        yield Book(MemoryTemplateLibrary(memory), store, memory, None)
        await store.close()
        return
    sql_store = SqlTemplateStore(engine)
    try:
        yield Book(SqlTemplateLibrary(engine), sql_store, None, engine)
    finally:
        await sql_store.close()


@asynccontextmanager
async def book_at(url: str, **options: float) -> AsyncIterator[Book]:
    """Give the book at ``url``, with an engine of its own."""
    engine = create_engine(url, **options)  # type: ignore[arg-type]  # a test's own options
    try:
        async with book_on(engine) as book:
            yield book
    finally:
        await engine.dispose()
