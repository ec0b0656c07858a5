"""A gateway with its real parts and the echo worker, without a port."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from onbook.adapters.inference.in_process import InProcessWorker
from onbook.admin.pages import pages
from onbook.bootstrap import Service, build_service, prepare_database
from onbook.gateway.app import build_gateway
from onbook.settings import Settings
from onbook.wire.worker_api import WorkerInfo
from onbook.worker.start import Worker, build_worker

KEY = "a-bootstrap-key-that-must-not-show"
PEPPER = "a-pepper-that-must-not-show"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.model_validate(
        {
            "data_dir": tmp_path / "secret-place",
            "worker_engine": "echo",
            "bootstrap_key": KEY,
            "key_pepper": PEPPER,
        }
    )


@pytest.fixture
async def worker(settings: Settings) -> AsyncIterator[Worker]:
    settings.data_dir.mkdir()
    built = await asyncio.to_thread(build_worker, settings, progress=lambda _: None)
    yield built
    await built.close()


@pytest.fixture
async def unprepared(settings: Settings, worker: Worker) -> AsyncIterator[Service]:
    """A service whose database has no tables: for the book, that is a database away."""
    caller = InProcessWorker(worker.app, worker.app.info, key=worker.app.key)
    service = build_service(settings, caller)
    await service.book.refresh()
    service.worker_ready = await service.worker.ready()
    yield service
    await service.close()


@pytest.fixture
async def service(settings: Settings, unprepared: Service) -> Service:
    await prepare_database(settings)
    await unprepared.book.refresh()
    return unprepared


@pytest.fixture
def client_of() -> Callable[[Service, WorkerInfo | None], httpx.AsyncClient]:
    def build(service: Service, info: WorkerInfo | None) -> httpx.AsyncClient:
        app = build_gateway(service, pages=pages(service, info))
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://onbook.test:8740"
        )

    return build
