"""A gateway that follows the book: what it does without a signal, how often it reports, its end."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from onbook.adapters.database import template_signal
from onbook.adapters.database.sqlite_file import sqlite_url
from onbook.adapters.database.template_store import SqlTemplateStore
from onbook.bootstrap import Service, build_service, prepare_database
from onbook.settings import Settings
from raw_book import Row, edit, raw_book
from support import FakeWorker, completion, settings_for

NAME = "enhancement_sdxl_sfw"
HERE = f"template_name = '{NAME}'"
SOON_S = 30.0
HEARTBEAT_S = 5.0


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without any table."""
    if request.param == "sqlite":
        yield sqlite_url(tmp_path / "onbook.db")
    else:
        with request.getfixturevalue("postgres").database(migrated=False) as url:
            yield url


@dataclass
class Pauses:
    """Time that goes on when the test says so. As a signal it hears nothing at all."""

    now: float = 0.0
    waiting: list[tuple[float, asyncio.Event]] = field(default_factory=list)

    async def wait(self, timeout_s: float) -> None:
        if timeout_s <= 0:
            await asyncio.sleep(0)
            return
        woken = asyncio.Event()
        self.waiting.append((self.now + timeout_s, woken))
        await woken.wait()

    async def close(self) -> None:
        pass

    async def advance(self, seconds: float) -> None:
        """Let ``seconds`` go by, and what was due then come to its next pause."""
        await self.settled()
        self.now = round(self.now + seconds, 6)
        due = [one for one in self.waiting if one[0] <= self.now]
        self.waiting = [one for one in self.waiting if one not in due]
        for _, woken in due:
            woken.set()
        await self.settled()

    async def settled(self) -> None:
        # The look for changes, the heartbeat, and the next checkpoint.
        await until(lambda: len(self.waiting) == 3)


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON_S):
        while not check():  # noqa: ASYNC110 - nobody tells of what is looked at here
            await asyncio.sleep(0)


def settings_on(url: str, place: Path, **options: object) -> Settings:
    return settings_for(place / "data", database_url=url, **options)


@asynccontextmanager
async def started(settings: Settings, pauses: Pauses | None = None) -> AsyncIterator[Service]:
    await prepare_database(settings)
    service = build_service(settings, FakeWorker(lambda _endpoint, _request: completion("x")))
    if pauses is not None:
        assert isinstance(service.store, SqlTemplateStore)
        service.pause, service.store._signal = pauses.wait, pauses
    await service.start()
    try:
        yield service
    finally:
        await service.close()


async def by_hand(url: str, statement: str) -> None:
    def run() -> None:
        with raw_book(url) as book:
            book.run(statement)

    await asyncio.to_thread(run)


async def rows(url: str, query: str) -> list[Row]:
    def read() -> list[Row]:
        with raw_book(url) as book:
            return book.rows(query)

    return await asyncio.to_thread(read)


def text(service: Service) -> str:
    found = service.book.named(NAME, "sfw", ["enhancement"])
    return found.template.system_prompt


@pytest.mark.parametrize("options", [{}, {"template_poll_s": 7.5}], ids=["default", "set"])
async def test_a_lost_notice_heals_within_the_poll(
    url: str, tmp_path: Path, options: dict[str, object]
) -> None:
    pauses, settings = Pauses(), settings_on(url, tmp_path, **options)
    async with started(settings, pauses) as service:
        await pauses.settled()
        for number in range(2):
            await by_hand(url, edit(f"system_prompt = 'Edit {number}.'", where=HERE))
            await pauses.advance(settings.template_poll_s - 0.001)
            assert text(service) != f"Edit {number}."
            await pauses.advance(0.001)
            assert text(service) == f"Edit {number}."
        await by_hand(url, edit("is_active = false", where=HERE))
        await pauses.advance(settings.template_poll_s)
        assert NAME not in service.book.content_hashes()
    assert Settings.model_fields["template_poll_s"].default == 1.0


async def test_a_signal_that_hears_nothing_costs_no_more_than_the_poll(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if NOTIFY were lost, and as if the file's counter of commits stood still.
    monkeypatch.setattr(template_signal.ListenSignal, "_on_notify", lambda *_what: None)
    monkeypatch.setattr(template_signal._FileWatch, "_changed", lambda _self: False)
    async with started(settings_on(url, tmp_path, template_poll_s=0.2)) as service:
        # The first of them may be seen by the look that follows the start.
        for number in range(3):
            await by_hand(url, edit(f"system_prompt = 'Edit {number}.'", where=HERE))
            wanted = f"Edit {number}."
            await until(lambda wanted=wanted: text(service) == wanted)  # type: ignore[misc]  # bound early


async def test_a_gateway_reports_every_five_seconds_though_nothing_changes(
    url: str, tmp_path: Path
) -> None:
    pauses, seen = Pauses(), "SELECT gateway_id, epoch, seen_at FROM gateways"
    async with started(settings_on(url, tmp_path), pauses) as service:
        await pauses.settled()
        ((mine, epoch, first),) = await rows(url, seen)
        assert (mine, epoch) == (service.gateway.gateway_id, service.book.state().epoch)
        await pauses.advance(HEARTBEAT_S - 0.001)
        assert await rows(url, seen) == [(mine, epoch, first)]
        await pauses.advance(0.001)
        ((_, _, second),) = await rows(url, seen)
        assert str(second) > str(first)
        # Also where somebody has taken it off the list.
        await by_hand(url, "DELETE FROM gateways")
        await pauses.advance(HEARTBEAT_S)
        ((again, _, _),) = await rows(url, seen)
        assert again == mine
        live = await service.library.gateways()
        assert [one.gateway_id for one in live] == [mine]
    assert await rows(url, seen) == []


@pytest.mark.parametrize("broken", ["keys", "book", "worker", "log", "store"])
async def test_whatever_fails_at_the_end_the_rest_lets_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    let_go: list[str] = []

    def noting(part: str, method: str, owner: object) -> None:
        really = getattr(owner, method)

        async def end() -> None:
            let_go.append(part)
            await really()
            if part == broken:
                raise RuntimeError(part)

        monkeypatch.setattr(owner, method, end)

    parts = {
        "keys": "note_use",
        "book": "forget",
        "worker": "close",
        "log": "close",
        "store": "close",
    }
    settings = settings_on(sqlite_url(tmp_path / "onbook.db"), tmp_path)
    await prepare_database(settings)
    service = build_service(settings, FakeWorker(lambda _endpoint, _request: completion("x")))
    await service.start()
    for part, method in parts.items():
        noting(part, method, getattr(service, part))
    noting("engine", "dispose", service)
    with pytest.raises(RuntimeError, match=broken):
        await service.close()
    assert let_go == [*parts, "engine"]
