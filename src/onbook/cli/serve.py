"""``onbook serve`` and ``onbook gateway``: the service in one process."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onbook.cli.options import fail, settings_with

if TYPE_CHECKING:
    from onbook.settings import Settings

HostOption = Annotated[str | None, typer.Option(help="Address to listen on [127.0.0.1].")]
PortOption = Annotated[int | None, typer.Option(help="Port to listen on [8740]; 0 for any free.")]
DataDirOption = Annotated[
    Path | None, typer.Option(help="Directory of the database and the keys [data].")
]
WorkerUrlOption = Annotated[
    str | None, typer.Option(help="URL of a worker elsewhere, instead of the embedded one.")
]
ModelOption = Annotated[
    Path | None,
    typer.Option(
        help="GGUF file, or the name of a model that 'onbook model pull' installed [packaged]."
    ),
]


def serve(
    host: HostOption = None,
    port: PortOption = None,
    data_dir: DataDirOption = None,
    worker_url: WorkerUrlOption = None,
    model: ModelOption = None,
) -> None:
    """Start everything: database, templates, gateway, and an embedded worker."""
    settings = settings_with(
        host=host, port=port, data_dir=data_dir, worker_url=worker_url, model_path=model
    )
    _run(settings, embedded=settings.worker_url is None)


def gateway(
    host: HostOption = None,
    port: PortOption = None,
    data_dir: DataDirOption = None,
    worker_url: WorkerUrlOption = None,
) -> None:
    """Start a gateway alone, on a worker elsewhere."""
    settings = settings_with(host=host, port=port, data_dir=data_dir, worker_url=worker_url)
    if settings.worker_url is None:
        fail("a gateway needs a worker; give --worker-url or set ONBOOK_WORKER_URL.", code=2)
    _run(settings, embedded=False)


def _run(settings: "Settings", *, embedded: bool) -> None:
    # Imported here, so that `onbook --help` does not wait for all of it.
    from onbook.cli.process import run_service  # noqa: PLC0415 - see above

    run_service(settings, embedded=embedded)
