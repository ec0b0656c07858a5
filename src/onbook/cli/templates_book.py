"""The book of this machine's settings, opened for one command, and what can be wrong with it."""

import asyncio
import difflib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final, NoReturn, TypeVar

from onbook.adapters.clock import SystemClock
from onbook.adapters.database.engine import create_engine
from onbook.adapters.database.errors import DatabaseUnusable
from onbook.adapters.database.postgres_url import is_postgres, place
from onbook.adapters.database.schema import HEAD, current_revision
from onbook.adapters.database.sqlite_file import sqlite_path
from onbook.adapters.database.template_library import SqlTemplateLibrary
from onbook.adapters.database.template_store import SqlTemplateStore
from onbook.adapters.files.secrets import SecretUnusable
from onbook.adapters.telemetry.logs import configure_logging
from onbook.adapters.tokenizers import counters
from onbook.bootstrap import prepare_database
from onbook.cli import templates_output as output
from onbook.cli.options import fail
from onbook.cli.templates_server import ServerRefused
from onbook.cli.terminal import visible_line
from onbook.domain.errors import (
    Conflict,
    DatabaseUnavailable,
    GateFailed,
    InvalidPayload,
    OnbookError,
    TemplateNotFound,
)
from onbook.domain.template_lifecycle import LIST_VERSIONS
from onbook.flows.template_editing import TemplateEditing
from onbook.ports.stores import StoreUnavailable
from onbook.ports.template_library import TemplateFilter, TemplateLibrary

if TYPE_CHECKING:
    from onbook.domain.templates import Template
    from onbook.settings import Settings

Result = TypeVar("Result")

# Enough to find a slip of the pen; a larger book is not read for a suggestion.
_NAMES_COMPARED: Final = 2_000


def on_book(
    settings: "Settings",
    work: Callable[[TemplateEditing], Awaitable[Result]],
    *,
    name: str | None = None,
    create: bool = False,
    reads: bool = False,
    as_json: bool = False,
) -> Result:
    """Run ``work`` on the book; ends the program with one sentence if that cannot be.

    ``name`` is the template that it is about: of one that does not exist, the closest name is
    suggested. Unless ``create``, a database file that is not there is not made;
    with ``reads`` a database that is up to date is not written to at all.
    """
    with told(name=name, as_json=as_json):
        quiet(settings)
        check_exists(settings, create=create)
        return asyncio.run(_on_book(settings, work, name, reads=reads))


@contextmanager
def told(*, name: str | None = None, as_json: bool = False) -> Iterator[None]:
    """End the program with one sentence, and what to do next, for whatever goes wrong inside."""
    try:
        yield
    except OnbookError as error:
        _fail(error, name, as_json=as_json)
    except (StoreUnavailable, SecretUnusable) as error:
        fail(f"{str(error).rstrip('.')}; 'onbook doctor' checks the database.")
    except BrokenPipeError:
        # Whoever read the output has seen enough; the command line ends quietly then.
        raise
    except OSError as error:
        fail(f"a file cannot be used: {error.strerror or type(error).__name__}.")
    except KeyboardInterrupt:
        fail("stopped.", code=130)


def check_exists(settings: "Settings", *, create: bool) -> None:
    """End the program if the database is a file that is not there and may not be made."""
    if create or not settings.database.startswith("sqlite"):
        return
    path = sqlite_path(settings.database)
    if not path.exists():
        fail(f"there is no database at {path}; check --data-dir, or start 'onbook serve'.")


def quiet(settings: "Settings") -> None:
    """Log errors only: what a command has to say, it says itself."""
    chosen = "log_level" in settings.model_fields_set
    configure_logging(settings.log_level if chosen else "error", settings.log_format)


@asynccontextmanager
async def opened(settings: "Settings", *, reads: bool = False) -> AsyncIterator[TemplateEditing]:
    """Give the book, created or upgraded first where that is needed.

    With ``reads`` nothing is written where the database is current, and a Postgres database that
    is not is refused: to look at it is no reason to upgrade it under the gateways.

    Raises:
        StoreUnavailable: the database cannot be used.
    """
    try:
        if not reads or not await asyncio.to_thread(_is_current, settings.database):
            await prepare_database(settings)
    except OSError as error:
        raise StoreUnavailable(
            f"The data directory {settings.data_dir} cannot be used: {error.strerror}."
        ) from None
    engine = create_engine(settings.database)
    store = SqlTemplateStore(engine)
    # Only of the embedded worker is the context known from here.
    context_size = settings.context_size if settings.worker_url is None else None
    try:
        yield TemplateEditing(
            library=SqlTemplateLibrary(engine),
            epoch=store.epoch,
            counters=counters(),
            clock=SystemClock(),
            context_size=lambda: context_size,
            ceiling=settings.content_ceiling,
        )
    finally:
        await store.close()
        await engine.dispose()


def _is_current(url: str) -> bool:
    """Tell whether the database of ``url`` can be read as it is; a SQLite file may be upgraded.

    Raises:
        StoreUnavailable: it cannot be used, or it is a Postgres database that is not current.
    """
    if not is_postgres(url):
        return current_revision(sqlite_path(url)) == HEAD
    # The driver is not needed where the database is SQLite.
    from onbook.adapters.database.postgres_schema import (  # noqa: PLC0415 - see above
        postgres_revision,
    )

    if postgres_revision(url) != HEAD:
        raise DatabaseUnusable(
            f"The database {place(url)} is not that of this version; start a gateway of this "
            "version first."
        )
    return True


async def live_template(
    name: str, editing: TemplateEditing
) -> "tuple[int | None, Template | None]":
    """Return the version that the row of a template holds, and its content if it keeps the rules.

    Both are None for a template without a row.
    """
    row = await editing.library.find(name)
    return (None, None) if row is None else (row.version, row.template)


async def _on_book(
    settings: "Settings",
    work: Callable[[TemplateEditing], Awaitable[Result]],
    name: str | None,
    *,
    reads: bool,
) -> Result:
    async with opened(settings, reads=reads) as editing:
        try:
            return await work(editing)
        except TemplateNotFound as error:
            raise await _helpful(error, name, editing.library) from None


async def _helpful(
    error: TemplateNotFound, name: str | None, library: TemplateLibrary
) -> TemplateNotFound:
    """Return ``error`` with the name that was probably meant, or where to find the versions."""
    said = (error.details or {}).get("template_name")
    name = said if isinstance(said, str) else name
    if name is None:
        return error
    if await library.versions(name, limit=1):
        if error.suggested_action != LIST_VERSIONS:
            return error
        return TemplateNotFound(
            error.message,
            details=error.details,
            suggested_action=f"'onbook templates history {name}' shows its versions.",
        )
    rows = await library.list(TemplateFilter(), limit=_NAMES_COMPARED)
    close = difflib.get_close_matches(name, [row.template_name for row in rows], 1)
    return TemplateNotFound(
        f"There is no template {name}.",
        details=error.details,
        suggested_action=f"Did you mean {close[0]}?"
        if close
        else "'onbook templates list' shows the names.",
    )


def _fail(error: OnbookError, name: str | None, *, as_json: bool) -> NoReturn:
    code = error.error_code if isinstance(error, ServerRefused) else error.code
    next_step = _next_step(error, name)
    if as_json:
        output.as_json(
            {
                "success": False,
                "error": error.message,
                "error_code": code,
                "suggested_action": next_step,
                "details": error.details,
            }
        )
    elif code == GateFailed.code:
        output.gate_cases((error.details or {}).get("cases"))
    fail(visible_line(f"{_sentence(error)} {next_step}"))


def _sentence(error: OnbookError) -> str:
    # What the database itself said is the more useful sentence, and holds no request data.
    cause = error.__cause__
    if isinstance(error, DatabaseUnavailable) and isinstance(cause, StoreUnavailable):
        return str(cause)
    return error.message


def _next_step(error: OnbookError, name: str | None) -> str:
    """Return what to do next in the words of the command line, not of the HTTP API."""
    if error.suggested_action != error.default_action:
        return error.suggested_action
    shown = name or (error.details or {}).get("template_name") or "NAME"
    steps = {
        Conflict.code: f"'onbook templates history {shown}' shows what happened; try again then.",
        TemplateNotFound.code: "'onbook templates list' shows the names.",
        GateFailed.code: "Correct the draft, or go on with --override and the reason for that.",
        InvalidPayload.code: "Correct it and try again.",
        DatabaseUnavailable.code: "'onbook doctor' checks the database.",
    }
    return steps.get(error.code, error.suggested_action)
