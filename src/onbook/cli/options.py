"""Settings from the environment with the command line's options over them."""

import sys
from typing import NoReturn

import typer
from pydantic import ValidationError

from onbook.settings import Settings


def fail(message: str, *, code: int = 1) -> NoReturn:
    """Print one sentence to standard error and end with ``code``."""
    typer.secho(
        f"onbook: {message}", err=True, fg=typer.colors.RED if sys.stderr.isatty() else None
    )
    raise typer.Exit(code)


def settings_with(**options: object) -> Settings:
    """Return the settings; an option that is None leaves the environment's value in force.

    Ends the program with one sentence for each setting that is wrong.
    """
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return Settings(**given)  # type: ignore[arg-type]  # pydantic checks them
    except ValidationError as error:
        # The value is left out: it may be a secret.
        problems = "; ".join(
            f"{_name(item['loc'])} {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors(include_input=False, include_url=False)
        )
        fail(f"the settings are not valid: {problems}.", code=2)


def _name(location: tuple[int | str, ...]) -> str:
    return "ONBOOK_" + "_".join(str(part) for part in location[:1]).upper()
