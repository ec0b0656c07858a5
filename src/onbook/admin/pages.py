"""Pages for people: what runs here, and a form to try it."""

from typing import TYPE_CHECKING

from onbook.admin.assets import load_assets
from onbook.admin.start_page import StartPage
from onbook.bootstrap import Service
from onbook.wire.worker_api import WorkerInfo

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import ASGIApp


def pages(service: Service, worker_info: WorkerInfo | None) -> "Mapping[str, ASGIApp]":
    """Return the pages and their assets by path.

    Args:
        service: The gateway whose state the pages show.
        worker_info: What the embedded worker says of itself; None for a worker elsewhere.
    """
    assets = load_assets()
    return {"/": StartPage(service, worker_info, assets), **assets.by_path}
