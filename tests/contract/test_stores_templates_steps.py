"""What a gateway takes over step by step is what it would read at once; and no adapter differs."""

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text as text_clause
from sqlalchemy.exc import DBAPIError

from onbook.adapters.database.engine import writer
from onbook.adapters.database.schema import migrate
from onbook.adapters.database.sqlite_file import sqlite_url
from onbook.adapters.database.template_store import SqlTemplateStore
from onbook.domain.errors import Conflict, TemplateNotFound
from postgres import PostgresServer
from support_books import Book, Mirror, book_at, book_on

NAMES = ("a", "b")
TARGETS = ("sdxl", "wan", None)


@dataclass(frozen=True)
class Databases:
    """Where an example gets a book of its own."""

    migrated: Path
    server: PostgresServer

    @asynccontextmanager
    async def book(self, kind: str) -> AsyncIterator[Book]:
        if kind == "memory":
            async with book_on(None) as book:
                yield book
            return
        with ExitStack() as stack:
            if kind == "sqlite":
                path = Path(stack.enter_context(TemporaryDirectory())) / "onbook.db"
                shutil.copy(self.migrated, path)
                url = sqlite_url(path)
            else:
                url = stack.enter_context(self.server.database())
            async with book_at(url) as book:
                yield book


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer) -> Databases:
    path = tmp_path_factory.mktemp("books") / "onbook.db"
    migrate(sqlite_url(path))
    return Databases(path, postgres)


async def _version(book: Book, name: str, back: int) -> tuple[int, int]:
    """Return the version that is ``back`` from the newest, and the live one."""
    versions = await book.library.versions(name)
    row = await book.library.find(name)
    number = versions[min(back, len(versions) - 1)].version if versions else 1
    return number, 0 if row is None else row.version


async def _draft(book: Book, name: str, text: int, _back: int, target: str | None) -> object:
    version = await book.draft(f"Text {text}.", template_name=name, target=target)
    return version.version, version.base_version


async def _activate(book: Book, name: str, _text: int, back: int, _target: str | None) -> object:
    number, live = await _version(book, name, back)
    await book.activate(number, live or None, name)
    return None


async def _roll_back(book: Book, name: str, _text: int, back: int, _target: str | None) -> object:
    number, live = await _version(book, name, back)
    version = await book.roll_back(number, live, name)
    return version.version, version.origin_version


async def _deactivate(book: Book, name: str, *_rest: object) -> object:
    await book.library.deactivate(name, author="a", reason="r", at=book.now())
    return None


async def _discard(book: Book, name: str, _text: int, back: int, _target: str | None) -> object:
    number, _ = await _version(book, name, back)
    await book.library.discard(name, number, author="a", reason="r", at=book.now())
    return None


async def _start(book: Book, name: str, _text: int, back: int, _target: str | None) -> object:
    number, live = await _version(book, name, back)
    await book.start_split(number, live, 50, name)
    return None


async def _promote(book: Book, name: str, *_rest: object) -> object:
    split = await book.library.end_split(name, "promoted", author="a", reason="r", at=book.now())
    return split.candidate_version


async def _abort(book: Book, name: str, *_rest: object) -> object:
    split = await book.library.end_split(name, "aborted", author="a", reason="r", at=book.now())
    return split.candidate_version


Step = Callable[[Book, str, int, int, "str | None"], Awaitable[object]]
LIBRARY: tuple[Step, ...] = (
    _draft,
    _activate,
    _activate,
    _roll_back,
    _deactivate,
    _discard,
    _start,
    _promote,
    _abort,
)


def _raw(statement: str) -> Step:
    async def step(book: Book, name: str, text: int, _back: int, target: str | None) -> object:
        values = {"name": name, "text": f"Raw {text}.", "target": target}
        assert book.engine is not None
        async with writer(book.engine).begin() as connection:
            used = {key: value for key, value in values.items() if f":{key}" in statement}
            await connection.execute(text_clause(statement), used)
        return None

    return step


RAW: tuple[Step, ...] = tuple(
    _raw(statement)
    for statement in (
        "UPDATE prompt_templates SET system_prompt = :text WHERE template_name = :name",
        (
            "UPDATE prompt_templates SET system_prompt = :text, version = version + 1"
            " WHERE template_name = :name"
        ),
        "UPDATE prompt_templates SET system_prompt = '' WHERE template_name = :name",
        "UPDATE prompt_templates SET content_mode = 'nsfw' WHERE template_name = :name",
        "UPDATE prompt_templates SET target = :target WHERE template_name = :name",
        "UPDATE prompt_templates SET is_active = false WHERE template_name = :name",
        "UPDATE prompt_templates SET is_active = true WHERE template_name = :name",
        "UPDATE prompt_templates SET description = 'Nothing that is served.'",
        (
            "INSERT INTO prompt_templates (template_name, model_type, use_case, content_mode,"
            " target, system_prompt, token_limit)"
            " VALUES (:name, 'qwen_instruct', 'enhancement', 'sfw', :target, :text, 75)"
        ),
    )
)


def _steps(of: tuple[Step, ...]) -> st.SearchStrategy[list[tuple[Step, str, int, int, str | None]]]:
    step = st.tuples(
        st.sampled_from(of),
        st.sampled_from(NAMES),
        st.integers(1, 3),
        st.integers(0, 3),
        st.sampled_from(TARGETS),
    )
    return st.lists(step, min_size=4, max_size=14)


async def _outcome(book: Book, step: Step, *given: object) -> object:
    try:
        return await step(book, *given)  # type: ignore[arg-type]  # what the strategy drew
    except (Conflict, TemplateNotFound) as error:
        return str(error), error.suggested_action
    except DBAPIError:
        return "refused"


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=_steps((*LIBRARY, *RAW)), skipped=st.sets(st.integers(0, 13)))
async def test_what_changed_is_the_difference_of_two_full_reads(
    databases: Databases, kind: str, steps: list[tuple[object, ...]], skipped: set[int]
) -> None:
    async with databases.book(kind) as book:
        assert book.engine is not None
        other, mirror, epoch = SqlTemplateStore(book.engine), Mirror(), 0
        for number, (step, *values) in enumerate(steps):
            await _outcome(book, step, *values)  # type: ignore[arg-type]  # what was drawn
            assert await book.store.epoch() >= epoch
            epoch = await book.store.epoch()
            if number in skipped:
                continue
            changes = await book.store.changes(mirror.epoch)
            mirror.take_over(changes)
            everything = await other.changes(None)
            active = {item.template_name: item for item in everything.active}
            assert (mirror.active, mirror.stale) == (active, everything.stale)
            assert changes.splits == everything.splits
            keys = {name: item.key for name, item in mirror.active.items()}
            assert len(set(keys.values())) == len(keys)
            for split in changes.splits:
                # A stand-in has the key of the row that it stands in for; without one there is
                # nobody to split.
                assert split.candidate.key == keys.get(
                    split.split.template_name, split.candidate.key
                )
        await other.close()


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=_steps(LIBRARY))
async def test_no_adapter_differs(databases: Databases, steps: list[tuple[object, ...]]) -> None:
    told = []
    for kind in ("memory", "sqlite", "postgres"):
        async with databases.book(kind) as book:
            outcomes = [
                await _outcome(book, step, *values)  # type: ignore[arg-type]  # what was drawn
                for step, *values in steps
            ]
            versions = [await book.library.versions(name) for name in NAMES]
            rows = [await book.library.find(name) for name in NAMES]
            events = [replace(event, event_id="") for event in await book.library.events(None)]
            splits = [replace(split, split_id="") for split in await book.library.splits()]
            changes = await book.store.changes(None)
            served = [(item.split.percent, item.candidate) for item in changes.splits]
            told.append((outcomes, versions, rows, events, splits, list(changes.active), served))
    assert told[0] == told[1] == told[2]
