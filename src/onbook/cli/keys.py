"""``onbook keys``: issuing, listing and revoking access keys, directly on the database."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from onbook.cli.keys_signing import signing
from onbook.domain.access import SCOPES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from onbook.ports.stores import AccessKey, AccessKeyStore
    from onbook.settings import Settings

_Result = TypeVar("_Result")

DataDirOption = Annotated[
    Path | None, typer.Option(help="Directory of the database and the keys [data].")
]

keys = typer.Typer(
    name="keys",
    help="Issue, list and revoke access keys; list and rotate signing keys.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
keys.add_typer(signing)


@keys.command()
def create(
    name: Annotated[str, typer.Option(help="What the key is for; shown in the list.")],
    scope: Annotated[list[str], typer.Option(help="A scope; repeat it for more.")],
    expires_days: Annotated[
        int | None, typer.Option(min=1, max=36_500, help="Days until the key ends [never].")
    ] = None,
    data_dir: DataDirOption = None,
) -> None:
    """Make a key and print it, this once."""
    from onbook.adapters.clock import SystemClock, SystemIds  # noqa: PLC0415 - keeps --help fast
    from onbook.bootstrap import pepper_of  # noqa: PLC0415 - likewise
    from onbook.cli.options import fail, settings_with  # noqa: PLC0415 - likewise
    from onbook.flows.access_keys import issue_key  # noqa: PLC0415 - likewise

    unknown = sorted(set(scope) - SCOPES.keys())
    if unknown:
        fail(f"there is no scope {', '.join(unknown)}; choose from {', '.join(SCOPES)}.", code=2)
    if not name.strip() or not name.isprintable():
        fail("the name must not be empty and must be printable.", code=2)
    settings = settings_with(data_dir=data_dir)
    clock = SystemClock()
    expires_at = None if expires_days is None else clock.now() + timedelta(days=expires_days)

    async def issue(store: "AccessKeyStore") -> "tuple[str, AccessKey]":
        return await issue_key(
            name.strip(),
            scope,
            store=store,
            pepper=pepper_of(settings),
            clock=clock,
            ids=SystemIds(),
            expires_at=expires_at,
        )

    plain, key = _on_store(settings, issue, create=True)
    until = "" if key.expires_at is None else f", until {_time(key.expires_at)}"
    _say(f"Key {key.key_id} ({key.name}) may: {', '.join(sorted(key.scopes))}{until}.")
    _say("This is the only time that it is shown:")
    typer.echo(plain)


@keys.command("list")
def list_keys(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002 - typer's way to declare a flag
    data_dir: DataDirOption = None,
) -> None:
    """List the keys; the keys themselves are not stored and cannot be shown."""
    from onbook.cli.options import settings_with  # noqa: PLC0415 - keeps --help fast

    found = _on_store(settings_with(data_dir=data_dir), lambda store: store.all())
    now = datetime.now(UTC)
    rows = [_row(key, now) for key in found]
    if as_json:
        typer.echo(json.dumps({"keys": rows}, ensure_ascii=False, indent=2))
    elif rows:
        _print_table(rows)
    else:
        _say("There is no key yet; 'onbook keys create' makes one.")


@keys.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The id from 'onbook keys list'.")],
    data_dir: DataDirOption = None,
) -> None:
    """Revoke a key for good; running servers refuse it within two seconds."""
    from onbook.cli.options import fail, settings_with  # noqa: PLC0415 - keeps --help fast

    now = datetime.now(UTC)

    async def end(store: "AccessKeyStore") -> "tuple[bool, AccessKey | None]":
        done = await store.revoke(key_id, at=now)
        known = {key.key_id: key for key in await store.all()}
        return done, known.get(key_id)

    done, key = _on_store(settings_with(data_dir=data_dir), end)
    if key is None:
        fail("there is no key with this id; 'onbook keys list' shows the ids.")
    if done:
        typer.echo(f"Key {key.key_id} ({key.name}) is revoked.")
    else:
        since = "" if key.revoked_at is None else f" since {_time(key.revoked_at)}"
        typer.echo(f"Key {key.key_id} ({key.name}) was revoked already{since}.")


@keys.command()
def scopes() -> None:
    """List the scopes and what each allows."""
    width = max(map(len, SCOPES))
    for name, meaning in SCOPES.items():
        typer.echo(f"{name.ljust(width)}  {meaning}")


def _on_store(
    settings: "Settings",
    work: "Callable[[AccessKeyStore], Awaitable[_Result]]",
    *,
    create: bool = False,
) -> _Result:
    """Run ``work`` on the key store; ends with one sentence if that cannot be.

    Unless ``create``, a SQLite file that is not there is not made.
    """
    from onbook.adapters.database.postgres_url import is_postgres  # noqa: PLC0415 - see above
    from onbook.adapters.database.sqlite_file import sqlite_path  # noqa: PLC0415 - see above
    from onbook.adapters.files.secrets import SecretUnusable  # noqa: PLC0415 - see above
    from onbook.cli.options import fail  # noqa: PLC0415 - see above
    from onbook.ports.stores import StoreUnavailable  # noqa: PLC0415 - see above

    try:
        if not create and not is_postgres(settings.database):
            path = sqlite_path(settings.database)
            if not path.exists():
                fail(f"there is no database at {path}; check --data-dir, or start 'onbook serve'.")
        return asyncio.run(_with_store(settings, work))
    except (StoreUnavailable, SecretUnusable) as error:
        fail(str(error))
    except OSError as error:
        fail(f"the data directory {settings.data_dir} cannot be used: {error.strerror}.")


async def _with_store(
    settings: "Settings", work: "Callable[[AccessKeyStore], Awaitable[_Result]]"
) -> _Result:
    from onbook.adapters.database.access_key_store import (  # noqa: PLC0415 - keeps --help fast
        SqlAccessKeyStore,
    )
    from onbook.adapters.database.engine import create_engine  # noqa: PLC0415 - likewise
    from onbook.bootstrap import prepare_database  # noqa: PLC0415 - likewise

    await prepare_database(settings)
    engine = create_engine(settings.database)
    try:
        return await work(SqlAccessKeyStore(engine))
    finally:
        await engine.dispose()


def _row(key: "AccessKey", now: datetime) -> dict[str, str | list[str] | None]:
    if key.revoked_at is not None:
        state = "revoked"
    elif key.expires_at is not None and key.expires_at <= now:
        state = "expired"
    else:
        state = "active"
    return {
        "id": key.key_id,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "created_at": _iso(key.created_at),
        "expires_at": _iso(key.expires_at),
        "last_used_at": _iso(key.last_used_at),
        "revoked_at": _iso(key.revoked_at),
        "state": state,
    }


def _print_table(rows: list[dict[str, str | list[str] | None]]) -> None:
    """Print one line per key; wide rather than cut, so that ids can be copied."""
    lines = [("ID", "NAME", "SCOPES", "CREATED (UTC)", "EXPIRES", "LAST USED", "STATE")]
    for row in rows:
        granted = row["scopes"]
        lines.append(
            (
                str(row["id"]),
                str(row["name"]),
                ",".join(granted) if isinstance(granted, list) else "",
                _short(row["created_at"]),
                _short(row["expires_at"]),
                _short(row["last_used_at"]),
                str(row["state"]),
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        typer.echo("  ".join(cells).rstrip())


def _short(value: object) -> str:
    return "never" if value is None else str(value)[:16].replace("T", " ")


def _iso(value: datetime | None) -> str | None:
    return None if value is None else value.astimezone(UTC).isoformat(timespec="seconds")


def _time(value: datetime) -> str:
    return f"{value.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _say(text: str) -> None:
    typer.echo(text, err=True)
