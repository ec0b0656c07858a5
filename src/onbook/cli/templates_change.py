"""The commands of ``onbook templates`` that change what is served: their options."""

from pathlib import Path
from typing import Annotated

import typer

from onbook.cli.templates_options import (
    MAX_VERSION,
    AuthorOption,
    DataDirOption,
    JsonOption,
    KeyOption,
    NameArgument,
    OverrideOption,
    ReasonOption,
    TimeoutOption,
    UrlOption,
    VersionArgument,
    WaitOption,
)

# What a command needs is imported inside it, so that `onbook --help` does not wait for it.

split = typer.Typer(
    name="split",
    help="Serve a draft to a share of the callers, then promote or abort it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def draft(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A template file; '-' reads standard input.")
    ],
    *,
    reason: ReasonOption = None,
    author: AuthorOption = None,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Store a template file as the next version, not served yet, and show what differs.

    The file's 'version' is the live version that it was made from: somebody else's later change
    is a conflict then, never overwritten.
    """
    from onbook.cli.options import settings_with  # noqa: PLC0415 - keeps --help fast
    from onbook.cli.templates_edit import draft as run  # noqa: PLC0415 - likewise

    run(settings_with(data_dir=data_dir), file, reason=reason, author=author, as_json=as_json)


def discard(
    name: NameArgument,
    version: VersionArgument,
    *,
    reason: ReasonOption = None,
    author: AuthorOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Delete a draft; a version that was ever live is never deleted."""
    from onbook.cli.options import settings_with  # noqa: PLC0415 - keeps --help fast
    from onbook.cli.templates_edit import discard as run  # noqa: PLC0415 - likewise

    run(settings_with(data_dir=data_dir), name, version, reason=reason, author=author)


def run_tests(
    name: NameArgument,
    *,
    version: Annotated[
        int | None,
        typer.Option(
            min=1, max=MAX_VERSION, help="This version [the newest draft, else the live one]."
        ),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="A template file instead of a stored version.")
    ] = None,
    as_json: JsonOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Run a template's own test cases on the real worker; nothing is changed."""
    from onbook.cli.options import settings_with  # noqa: PLC0415 - keeps --help fast
    from onbook.cli.templates_try import try_cases as run  # noqa: PLC0415 - likewise

    settings = settings_with(data_dir=data_dir)
    run(settings, name, version=version, file=file, url=url, key=key, as_json=as_json)


def activate(
    name: NameArgument,
    version: VersionArgument,
    *,
    override: OverrideOption = None,
    reason: ReasonOption = None,
    author: AuthorOption = None,
    wait: WaitOption = True,
    timeout: TimeoutOption = 15.0,
    as_json: JsonOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Make a draft live, once its own tests pass, and wait until every gateway serves it."""
    from onbook.cli.options import settings_with  # noqa: PLC0415 - keeps --help fast
    from onbook.cli.templates_activate import activate as run  # noqa: PLC0415 - likewise

    run(
        settings_with(data_dir=data_dir),
        name,
        version,
        override=override,
        reason=reason,
        author=author,
        wait_s=timeout if wait else 0.0,
        url=url,
        key=key,
        as_json=as_json,
    )


def rollback(
    name: NameArgument,
    *,
    to: Annotated[
        int | None,
        typer.Option(
            "--to", min=1, max=MAX_VERSION, help="This version [the one that was live before]."
        ),
    ] = None,
    reason: ReasonOption = None,
    author: AuthorOption = None,
    wait: WaitOption = True,
    timeout: TimeoutOption = 15.0,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Bring back the content of a version that was live, as a new version."""
    from onbook.cli.options import settings_with  # noqa: PLC0415 - keeps --help fast
    from onbook.cli.templates_edit import rollback as run  # noqa: PLC0415 - likewise

    run(
        settings_with(data_dir=data_dir),
        name,
        to,
        reason=reason,
        author=author,
        wait_s=timeout if wait else 0.0,
        as_json=as_json,
    )


def deactivate(
    name: NameArgument,
    *,
    reason: ReasonOption = None,
    author: AuthorOption = None,
    wait: WaitOption = True,
    timeout: TimeoutOption = 15.0,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Take a template out of service; its versions stay."""
    from onbook.cli.options import settings_with  # noqa: PLC0415 - keeps --help fast
    from onbook.cli.templates_edit import deactivate as run  # noqa: PLC0415 - likewise

    run(
        settings_with(data_dir=data_dir),
        name,
        reason=reason,
        author=author,
        wait_s=timeout if wait else 0.0,
        as_json=as_json,
    )


@split.command()
def start(
    name: NameArgument,
    version: VersionArgument,
    *,
    percent: Annotated[int, typer.Option(min=1, max=99, help="Share of the callers, in percent.")],
    override: OverrideOption = None,
    reason: ReasonOption = None,
    author: AuthorOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Serve a draft to a share of the callers, once its own tests pass; each stays on its side."""
    from onbook.cli.options import settings_with  # noqa: PLC0415 - keeps --help fast
    from onbook.cli.templates_split import start as run  # noqa: PLC0415 - likewise

    run(
        settings_with(data_dir=data_dir),
        name,
        version,
        percent=percent,
        override=override,
        reason=reason,
        author=author,
    )


@split.command()
def status(
    name: NameArgument, *, as_json: JsonOption = False, data_dir: DataDirOption = None
) -> None:
    """Show the running split of a template, and those that ended."""
    from onbook.cli.options import settings_with  # noqa: PLC0415 - keeps --help fast
    from onbook.cli.templates_split import status as run  # noqa: PLC0415 - likewise

    run(settings_with(data_dir=data_dir), name, as_json=as_json)


@split.command()
def promote(
    name: NameArgument,
    *,
    reason: ReasonOption = None,
    author: AuthorOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """End the split: the candidate becomes the live version, for everyone."""
    from onbook.cli.options import settings_with  # noqa: PLC0415 - keeps --help fast
    from onbook.cli.templates_split import end as run  # noqa: PLC0415 - likewise

    run(settings_with(data_dir=data_dir), name, "promoted", reason=reason, author=author)


@split.command()
def abort(
    name: NameArgument,
    *,
    reason: ReasonOption = None,
    author: AuthorOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """End the split: the live version serves everyone again."""
    from onbook.cli.options import settings_with  # noqa: PLC0415 - keeps --help fast
    from onbook.cli.templates_split import end as run  # noqa: PLC0415 - likewise

    run(settings_with(data_dir=data_dir), name, "aborted", reason=reason, author=author)
