"""``onbook worker``: a pure inference worker on its own."""

from pathlib import Path
from typing import Annotated

import typer

from onbook.cli.options import fail, settings_with


def worker(
    host: Annotated[str | None, typer.Option(help="Address to listen on [127.0.0.1].")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on [8740].")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Directory of the worker's key.")] = None,
    model: Annotated[Path | None, typer.Option(help="GGUF file to run.")] = None,
) -> None:
    """Start a worker: it executes exactly what it is given and signs a receipt for it."""
    settings = settings_with(host=host, port=port, data_dir=data_dir, model_path=model)
    if not settings.on_loopback and settings.worker_key is None:
        fail("a worker beyond loopback needs a key; set ONBOOK_WORKER_KEY.", code=2)
    # Imported here, so that `onbook --help` does not wait for the engine.
    from onbook.cli.process import run_worker  # noqa: PLC0415 - see above

    run_worker(settings)
