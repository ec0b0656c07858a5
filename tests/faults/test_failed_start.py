"""A service that cannot start lets go of everything, so that its process can end."""

import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from sqlalchemy import text
from starlette.types import Message

from onbook.adapters.database.engine import create_engine
from onbook.adapters.database.schema import migrate
from onbook.adapters.database.sqlite_file import sqlite_url
from onbook.adapters.inference.in_process import InProcessWorker
from onbook.bootstrap import Service, build_service, prepare_database
from onbook.cli.enhance_run import EnhanceFailed, in_process
from onbook.gateway.app import build_gateway
from onbook.ports.stores import StoreUnavailable
from support import embedded_worker, running, settings_for


async def _by_the_gateway(data_dir: Path) -> None:
    settings = settings_for(data_dir)
    await prepare_database(settings)
    local = embedded_worker(settings)
    service = build_service(settings, InProcessWorker(local.app, local.app.info, key=local.app.key))
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(message: Message) -> None:
        sent.append(message)

    try:
        await build_gateway(service)({"type": "lifespan"}, receive, send)
    finally:
        await local.close()
        assert [message["type"] for message in sent] == ["lifespan.startup.failed"]


async def _by_the_command(data_dir: Path) -> None:
    try:
        async with in_process(settings_for(data_dir), lambda _text: None):
            raise AssertionError
    except EnhanceFailed as error:
        raise StoreUnavailable(error.problem.error) from None


async def _by_a_test(data_dir: Path) -> None:
    async with running(settings_for(data_dir)):
        raise AssertionError


@pytest.mark.parametrize("start_by", [_by_the_gateway, _by_the_command, _by_a_test])
async def test_a_start_that_fails_closes_what_was_opened(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    start_by: Callable[[Path], Awaitable[None]],
) -> None:
    closed: list[Service] = []
    start, close = Service.start, Service.close

    async def start_and_fail(service: Service) -> None:
        await start(service)
        raise StoreUnavailable("the start fails")

    async def note_close(service: Service) -> None:
        await close(service)
        closed.append(service)

    monkeypatch.setattr(Service, "start", start_and_fail)
    monkeypatch.setattr(Service, "close", note_close)
    with pytest.raises(StoreUnavailable, match="the start fails"):
        await start_by(tmp_path)
    assert len(closed) == 1


async def test_an_engine_that_nobody_disposed_of_keeps_no_process_alive(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "onbook.db")
    migrate(url)
    before = set(threading.enumerate())
    engine = create_engine(url)
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
        opened = set(threading.enumerate()) - before
    assert opened
    assert all(thread.daemon for thread in opened)
    await engine.dispose()
