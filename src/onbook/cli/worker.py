"""``onbook worker``: a pure inference worker on its own."""

import asyncio
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onbook.cli.options import fail, settings_with
from onbook.cli.server import listen, run_server, url_of
from onbook.worker.engines.base import EngineStartError
from onbook.worker.identity import IdentityError
from onbook.worker.start import build_worker

if TYPE_CHECKING:
    from onbook.settings import Settings


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
    listener = listen(settings.host, settings.port)
    try:
        asyncio.run(_run(settings, listener))
    except KeyboardInterrupt:
        typer.echo("Stopped.")
    except (EngineStartError, IdentityError) as error:
        fail(str(error))
    finally:
        listener.close()


async def _run(settings: "Settings", listener: socket.socket) -> None:
    started = await asyncio.to_thread(build_worker, settings, progress=typer.echo)

    info = started.app.info

    def welcome() -> None:
        typer.echo(f"Worker {info.worker_id} is ready at {url_of(settings.host, listener)}")
        typer.echo(f"  model  {info.model.name}")
        typer.echo(f"  key    {info.public_key}  (public, for ONBOOK_WORKER_PUBLIC_KEY)")

    try:
        await run_server(started.app, listener, grace_s=settings.shutdown_grace_s, on_ready=welcome)
    finally:
        await started.close()
