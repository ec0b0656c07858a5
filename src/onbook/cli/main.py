"""The ``onbook`` command."""

import typer

from onbook import __version__
from onbook.cli.audit import audit
from onbook.cli.doctor import doctor
from onbook.cli.enhance import enhance
from onbook.cli.keys import keys
from onbook.cli.model import model
from onbook.cli.serve import gateway, serve
from onbook.cli.templates import templates
from onbook.cli.worker import worker

app = typer.Typer(
    name="onbook",
    help="Versioned prompt templates, a gateway that composes, workers that execute exactly that.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(serve)
app.command()(gateway)
app.command()(worker)
app.command()(enhance)
app.add_typer(templates)
app.add_typer(keys)
app.add_typer(audit)
app.add_typer(model)
app.command()(doctor)


def _show_version(show: bool) -> None:  # noqa: FBT001 - typer calls it with the option's value
    if show:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(  # noqa: FBT001 - handled by its callback
        False,  # noqa: FBT003 - typer's way to give a default
        "--version",
        callback=_show_version,
        is_eager=True,
        help="Print the version.",
    ),
) -> None:
    pass


def run() -> None:
    """Run the command line."""
    app()
