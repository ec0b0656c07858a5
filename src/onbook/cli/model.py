"""``onbook model``: the models on this machine, and pulling others from a hub."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

DataDirOption = Annotated[Path | None, typer.Option(help="Directory with the models in it [data].")]
AvailableOption = Annotated[
    bool, typer.Option("--available", help="List the short names that can be pulled.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]

model = typer.Typer(
    name="model",
    help="List, pull and verify models.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@model.command("list")
def list_models(
    available: AvailableOption = False,  # noqa: FBT002 - typer's way to declare a flag
    as_json: JsonOption = False,  # noqa: FBT002 - likewise
    data_dir: DataDirOption = None,
) -> None:
    """List the models on this machine; a star marks the one that the settings choose."""
    from onbook.cli.model_list import (  # noqa: PLC0415 - keeps --help fast
        print_catalogue,
        print_models,
    )
    from onbook.cli.options import settings_with  # noqa: PLC0415 - likewise

    if available:
        print_catalogue(as_json=as_json)
    else:
        print_models(settings_with(data_dir=data_dir), as_json=as_json)


@model.command()
def pull(
    name: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Repository on the hub, with its quantisation after a colon "
            "(Qwen/Qwen2.5-0.5B-Instruct-GGUF:q4_k_m), or a short name "
            "('onbook model list --available').",
        ),
    ],
    file: Annotated[
        str | None, typer.Option(help="Path of the file in the repository [by quantisation].")
    ] = None,
    revision: Annotated[str, typer.Option(help="Branch, tag or commit.")] = "main",
    sha256: Annotated[
        str | None, typer.Option(help="SHA-256 that the file must have, besides the hub's word.")
    ] = None,
    as_name: Annotated[
        str | None, typer.Option("--as", help="Name to install it under [that of the file].")
    ] = None,
    force: Annotated[  # noqa: FBT002 - typer's way to declare a flag
        bool, typer.Option("--force", help="Pull it anew, also over what is installed.")
    ] = False,
    data_dir: DataDirOption = None,
) -> None:
    """Pull a GGUF model from the hub; run it again after an interruption, and it goes on."""
    from onbook.adapters.model_hub.errors import PullFailed  # noqa: PLC0415 - keeps --help fast
    from onbook.cli.model_pull import Wish, pull_model  # noqa: PLC0415 - likewise
    from onbook.cli.options import fail, lowered, settings_with  # noqa: PLC0415 - likewise

    settings = settings_with(data_dir=data_dir)
    try:
        pulled = pull_model(
            settings,
            Wish(
                name,
                file=file,
                revision=revision,
                sha256=sha256,
                as_name=as_name,
                force=force,
            ),
        )
    except PullFailed as error:
        fail(lowered(str(error)))
    except KeyboardInterrupt:
        fail("stopped; run the same command again to go on.", code=130)
    typer.echo(pulled.sentence)
    typer.echo(f"Run it:  onbook serve --model {pulled.name}")


@model.command()
def remove(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="Name of a pulled model.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,  # noqa: FBT002 - likewise
    data_dir: DataDirOption = None,
) -> None:
    """Delete a pulled model; asks first on a terminal, and needs --yes elsewhere."""
    from onbook.adapters.model_hub.errors import PullFailed  # noqa: PLC0415 - keeps --help fast
    from onbook.cli.model_remove import removable, remove_model  # noqa: PLC0415 - likewise
    from onbook.cli.options import fail, lowered, settings_with  # noqa: PLC0415 - likewise
    from onbook.worker.models import ModelNotFoundError  # noqa: PLC0415 - likewise

    try:
        meant = removable(settings_with(data_dir=data_dir), name)
    except ModelNotFoundError as error:
        fail(lowered(str(error)), code=2)
    if not yes:
        if not sys.stdin.isatty():
            fail(f"nobody can be asked whether to delete {meant.path}; give --yes.", code=2)
        if not typer.confirm(f"Delete {meant.path}?", err=True):
            fail("nothing was deleted.")
    try:
        remove_model(
            meant,
            waiting=lambda: typer.echo("A pull of this model runs; waiting for it …", err=True),
        )
    except PullFailed as error:
        fail(lowered(str(error)))
    except OSError as error:
        fail(f"{meant.path} cannot be deleted: {error.strerror}.")
    typer.echo(f"Removed {meant.name}.")


@model.command()
def verify(
    name: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="Name or path of a model [all].")
    ] = None,
    as_json: JsonOption = False,  # noqa: FBT002 - typer's way to declare a flag
    data_dir: DataDirOption = None,
) -> None:
    """Hash the models again and read their headers; ends with 1 if one is not as stated."""
    from onbook.cli.model_verify import verified  # noqa: PLC0415 - keeps --help fast
    from onbook.cli.options import fail, lowered, settings_with  # noqa: PLC0415 - likewise
    from onbook.worker.models import ModelNotFoundError  # noqa: PLC0415 - likewise

    try:
        findings = list(verified(settings_with(data_dir=data_dir), name))
    except ModelNotFoundError as error:
        fail(lowered(str(error)), code=2)
    if as_json:
        typer.echo(json.dumps({"models": [one.as_json() for one in findings]}, indent=2))
    else:
        for one in findings:
            typer.echo(f"{one.status:<8}  {one.name}  {one.message}")
        if not findings:
            typer.echo("There is no model on this machine; 'onbook model pull' installs one.")
    if any(one.status != "ok" for one in findings):
        raise typer.Exit(1)
