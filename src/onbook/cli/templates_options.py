"""The options that the commands of ``onbook templates`` share, and what they default to."""

import getpass
import os
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from onbook.cli.options import fail

MAX_REASON_CHARS: Final = 500
# What the databases can hold.
MAX_VERSION: Final = 2**31 - 1

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of the template.")]
VersionArgument = Annotated[
    int,
    typer.Argument(metavar="VERSION", min=1, max=MAX_VERSION, help="Number of the version."),
]
ReasonOption = Annotated[
    str | None,
    typer.Option("--reason", help="Why, in one line; recorded. A terminal asks for it."),
]
AuthorOption = Annotated[
    str | None, typer.Option("--author", help="Who, as it is recorded [cli:<your user name>].")
]
OverrideOption = Annotated[
    str | None,
    typer.Option("--override", help="Go on although tests fail, for this reason; recorded."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DataDirOption = Annotated[
    Path | None, typer.Option("--data-dir", help="Directory of the database and the keys [data].")
]
UrlOption = Annotated[
    str | None,
    typer.Option("--url", envvar="ONBOOK_URL", help="Have the server at this URL do it."),
]
KeyOption = Annotated[
    str | None,
    typer.Option(
        "--key",
        envvar="ONBOOK_KEY",
        help="Access key for --url; better set it in the environment.",
    ),
]
WaitOption = Annotated[
    bool,
    typer.Option("--wait/--no-wait", help="Wait until every live gateway serves the change."),
]
TimeoutOption = Annotated[
    float, typer.Option("--timeout", min=0.1, max=60, help="Seconds to wait at most.")
]


def reason_of(given: str | None) -> str:
    """Return the reason to record; a terminal is asked, and without one it must be given."""
    if given is None:
        if not sys.stdin.isatty():
            fail("give --reason: it is recorded with the change.", code=2)
        given = str(typer.prompt("Reason", err=True))
    reason = given.strip()
    if not 1 <= len(reason) <= MAX_REASON_CHARS or not reason.isprintable():
        fail(
            f"the reason must be one line of 1 to {MAX_REASON_CHARS} printable characters.", code=2
        )
    return reason


def author_of(given: str | None) -> str:
    """Return who is recorded as the author: ``given``, or the user of the operating system."""
    if given is None:
        return f"cli:{_user_name()}"
    author = given.strip()
    if not author or not author.isprintable():
        fail("the author must not be empty and must be printable.", code=2)
    return author


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container may run under a number that no name belongs to.
        return f"uid-{os.getuid()}"
