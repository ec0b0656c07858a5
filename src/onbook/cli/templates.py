"""``onbook templates``: the book, looked at and changed. What each command does lies elsewhere."""

from typing import Annotated, Literal

import typer

from onbook.cli import templates_change as change
from onbook.cli.templates_files import export, import_files
from onbook.cli.templates_options import MAX_VERSION, DataDirOption, JsonOption, NameArgument

# What a command needs is imported inside it, so that `onbook --help` does not wait for it.

ModeChoice = Literal["sfw", "nsfw"]
UseCaseChoice = Literal["enhancement", "chat", "generation", "playground"]

templates = typer.Typer(
    name="templates",
    help="Look at, edit, test and roll out prompt templates.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@templates.command("list")
def list_templates(
    *,
    model_type: Annotated[str | None, typer.Option(help="Of this model type.")] = None,
    use_case: Annotated[UseCaseChoice | None, typer.Option(help="Of this use case.")] = None,
    content_mode: Annotated[ModeChoice | None, typer.Option(help="Of this content mode.")] = None,
    target: Annotated[
        str | None, typer.Option(help="For this generator; 'universal' for those without one.")
    ] = None,
    active: Annotated[
        bool | None, typer.Option("--active/--inactive", help="In service, or out of it.")
    ] = None,
    search: Annotated[str | None, typer.Option(help="Whose name holds this text.")] = None,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """List the templates, active or not."""
    from onbook.cli.options import settings_with  # noqa: PLC0415 - keeps --help fast
    from onbook.cli.templates_read import list_templates as run  # noqa: PLC0415 - likewise
    from onbook.ports.template_library import TemplateFilter  # noqa: PLC0415 - likewise

    wanted = TemplateFilter(
        model_type=model_type,
        use_case=use_case,
        content_mode=content_mode,
        target="" if target == "universal" else target,
        is_active=active,
        name_contains=search,
    )
    run(settings_with(data_dir=data_dir), wanted, as_json=as_json)


@templates.command()
def show(
    name: NameArgument,
    *,
    version: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_VERSION, help="This version instead of the live one."),
    ] = None,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Show a template: who made it and why, its limits, its texts."""
    from onbook.cli.options import settings_with  # noqa: PLC0415 - keeps --help fast
    from onbook.cli.templates_read import show as run  # noqa: PLC0415 - likewise

    run(settings_with(data_dir=data_dir), name, version, as_json=as_json)


@templates.command()
def history(
    name: NameArgument,
    *,
    limit: Annotated[
        int, typer.Option(min=1, max=10_000, help="Versions and events at most, newest first.")
    ] = 50,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Show every version of a template and what happened to it: when, who, why."""
    from onbook.cli.options import settings_with  # noqa: PLC0415 - keeps --help fast
    from onbook.cli.templates_read import history as run  # noqa: PLC0415 - likewise

    run(settings_with(data_dir=data_dir), name, limit, as_json=as_json)


@templates.command()
def diff(
    name: NameArgument,
    first: Annotated[
        str | None,
        typer.Argument(metavar="[FROM|FILE]", help="A version, or a template file to compare."),
    ] = None,
    second: Annotated[
        int | None,
        typer.Argument(
            metavar="[TO]", min=1, max=MAX_VERSION, help="The version to compare it with."
        ),
    ] = None,
    *,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Show what differs, word by word: from the live version to the newest draft by default.

    One version is compared with the live one; a file with the live version.
    """
    from onbook.cli.options import settings_with  # noqa: PLC0415 - keeps --help fast
    from onbook.cli.templates_diff import diff as run  # noqa: PLC0415 - likewise

    run(settings_with(data_dir=data_dir), name, first, second, as_json=as_json)


@templates.command()
def gateways(*, as_json: JsonOption = False, data_dir: DataDirOption = None) -> None:
    """Show the gateways that serve the book, and whether each has its newest state."""
    from onbook.cli.options import settings_with  # noqa: PLC0415 - keeps --help fast
    from onbook.cli.templates_read import gateways as run  # noqa: PLC0415 - likewise

    run(settings_with(data_dir=data_dir), as_json=as_json)


templates.command()(change.draft)
templates.command()(change.discard)
templates.command("test")(change.run_tests)
templates.command()(change.activate)
templates.command()(change.rollback)
templates.command()(change.deactivate)
templates.command()(export)
templates.command("import")(import_files)
templates.add_typer(change.split)
