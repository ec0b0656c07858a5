import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from onbook.adapters.database.sqlite_file import sqlite_url
from onbook.bootstrap import Service, build_service, ensure_first_key, prepare_database
from onbook.domain.access import key_hmac
from server import query
from support import ADMIN_KEY, metadata, running, settings_for

PEPPER = "the-same-pepper-for-both"


@asynccontextmanager
async def two_services(place: Path, bootstrap_key: str | None) -> AsyncIterator[list[Service]]:
    """Give two processes' services on one database, each with a data directory of its own."""
    services = []
    for name in ("one", "two"):
        settings = settings_for(
            place / name,
            database_url=sqlite_url(place / "onbook.db"),
            key_pepper=PEPPER,
            bootstrap_key=bootstrap_key,
            worker_url="http://127.0.0.1:9",
        )
        await prepare_database(settings)
        services.append(build_service(settings))
    try:
        yield services
    finally:
        for service in services:
            await service.close()


async def test_of_two_processes_that_start_at_once_one_makes_the_first_key(tmp_path: Path) -> None:
    async with two_services(tmp_path, None) as services:
        made = await asyncio.gather(*(ensure_first_key(service) for service in services))
        keys = await services[0].key_store.all()
    shown = [plain for plain in made if plain is not None]
    assert len(shown) == 1
    # The key that was shown is the one that works.
    assert [key.key_hmac for key in keys] == [key_hmac(shown[0], PEPPER.encode())]


async def test_of_two_processes_with_one_bootstrap_key_one_stores_it(tmp_path: Path) -> None:
    async with two_services(tmp_path, ADMIN_KEY) as services:
        made = await asyncio.gather(*(ensure_first_key(service) for service in services))
        keys = await services[0].key_store.all()
    assert made == [None, None]
    assert [key.name for key in keys] == ["bootstrap"]


async def test_no_row_goes_into_a_database_that_is_not_prepared(tmp_path: Path) -> None:
    # There, but perhaps not yet brought up to date: it could refuse a row for good.
    async with running(settings_for(tmp_path)) as started:
        service = started.service
        service.prepare_later("It was away.", tell_key=lambda _plain: None)
        answer = await started.enhance({"prompt": "a cat"})
        waiting = service.log.pending
        before = query(tmp_path, "SELECT count(*) FROM enhancement_logs")
        service.prepared.away = None
        await service.log.drain()
        after = query(tmp_path, "SELECT count(*) FROM enhancement_logs")
    assert metadata(answer)
    assert (waiting, before, after) == (1, [(0,)], [(1,)])
