"""Settings from the environment with the command line's options over them."""

import sys
from collections.abc import Collection
from typing import Final, NoReturn

import typer
from pydantic import ValidationError

from onbook.settings import Settings

# Options that are called otherwise than the setting that they stand for.
_OPTIONS: Final = {"worker_engine": "--engine", "model_path": "--model"}
# These keep their capital.
_NAMES: Final = frozenset({"Onbook", "Python"})


def lowered(sentence: str) -> str:
    """Return the sentence as it goes on after the program's name and a colon."""
    word = sentence.split(" ", 1)[0]
    # A name keeps its capitals, as in Qwen/Qwen2.5, and so does an abbreviation.
    if not word.isalpha() or word in _NAMES or word[1:] != word[1:].lower():
        return sentence
    return sentence[0].lower() + sentence[1:]


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
            f"{_name(item['loc'], given)} {_said(item['msg'])}"
            for item in error.errors(include_input=False, include_url=False)
        )
        fail(f"the settings are not valid: {problems}.", code=2)


def _name(location: tuple[int | str, ...], given: Collection[str]) -> str:
    """Return the name that the person knows it by: the option's if it was typed."""
    field = "_".join(str(part) for part in location[:1])
    if field in given:
        return _OPTIONS.get(field, "--" + field.replace("_", "-"))
    return f"ONBOOK_{field.upper()}"


def _said(message: str) -> str:
    message = message.removeprefix("Value error, ")
    if message.startswith("Input should be "):
        return f"must be {message.removeprefix('Input should be ')}"
    return message
