"""``onbook worker``: a pure inference worker on its own."""

from pathlib import Path
from typing import Annotated

import typer

from onbook.cli.options import fail, settings_with


def worker(
    host: Annotated[str | None, typer.Option(help="Address to listen on [127.0.0.1].")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on [8740]; 0 for any.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Directory of the worker's keys and models [data].")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="llama_cpp, openai_upstream or echo [llama_cpp].")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            help="GGUF file, or the name of a model that 'onbook model pull' installed [packaged]."
        ),
    ] = None,
    upstream_url: Annotated[
        str | None,
        typer.Option(help="Server that runs the model; takes the engine openai_upstream."),
    ] = None,
) -> None:
    """Start a worker: it executes exactly what it is given and signs a receipt for it."""
    if engine is None and upstream_url is not None:
        engine = "openai_upstream"
    settings = settings_with(
        host=host,
        port=port,
        data_dir=data_dir,
        worker_engine=engine,
        model_path=model,
        upstream_url=upstream_url,
    )
    if settings.worker_engine == "openai_upstream" and settings.upstream_url is None:
        fail("the engine openai_upstream needs a server; give --upstream-url.", code=2)
    if settings.worker_engine != "openai_upstream" and upstream_url is not None:
        fail(f"the engine {settings.worker_engine} takes no --upstream-url.", code=2)
    if settings.worker_engine != "llama_cpp" and model is not None:
        fail(f"the engine {settings.worker_engine} takes no --model.", code=2)
    if not settings.on_loopback and settings.worker_key is None:
        fail("a worker beyond loopback needs a key; set ONBOOK_WORKER_KEY.", code=2)
    # Imported here, so that `onbook --help` does not wait for the engine.
    from onbook.cli.worker_process import run_worker  # noqa: PLC0415 - see above

    run_worker(settings)
