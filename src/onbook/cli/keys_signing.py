"""``onbook keys signing``: the Ed25519 keys that gateways and workers sign with."""

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

if TYPE_CHECKING:
    from onbook.wire.signing import KeyRing

Role = Literal["gateway", "worker"]

_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
# At most eight digits: no text can make a number that a date does not hold.
_DURATION: Final = re.compile(r"([0-9]{1,8})([smhd])", re.ASCII)
_LONGEST: Final = timedelta(days=3_650)
# Whoever runs notices a rotated ring within seconds: until then it may begin with the old one.
_TOO_LATE_TO_CHANGE: Final = timedelta(minutes=1)

RoleOption = Annotated[
    Role,
    typer.Option(
        help="Whose keys: the gateway's sign the audit log and requests to workers, the "
        "worker's sign receipts."
    ),
]
DataDirOption = Annotated[
    Path | None, typer.Option(help="Directory of the database and the keys [data].")
]

signing = typer.Typer(
    name="signing",
    help="List and rotate the Ed25519 keys that gateways and workers sign with.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@signing.command("list")
def list_signing_keys(
    role: RoleOption = "gateway",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002 - typer's way to declare a flag
    data_dir: DataDirOption = None,
) -> None:
    """List the public keys, from when each is used, and which one is in use now."""
    ring = _ring(_path(role, data_dir), role)
    _show(ring, as_json=as_json)


@signing.command()
def rotate(
    role: RoleOption = "gateway",
    after: Annotated[
        str,
        typer.Option(
            help="When the new key comes into use: 30m, 24h, 7d; 0s is at once. Sooner than a key "
            "that waits already, it takes that one's place."
        ),
    ] = "24h",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002 - typer's way to declare a flag
    data_dir: DataDirOption = None,
) -> None:
    """Add a new key, endorsed by the one before it, that comes into use after a while.

    Until then the old key signs and the new one is already shown, so that whoever trusts the old
    one learns the new one in time. Keys that are no longer in use stay in the ring: what they
    have signed can be checked for ever. Gateways and workers that run take up their rotated ring
    within seconds.

    The default is 24 hours. Where a new key is waiting already, a sooner time replaces it by one
    that comes into use then; a later time is refused.
    """
    from onbook.adapters.files.secrets import SecretUnusable  # noqa: PLC0415 - keeps --help fast
    from onbook.adapters.files.signing_keys import save_ring  # noqa: PLC0415 - likewise
    from onbook.cli.options import fail  # noqa: PLC0415 - likewise

    delay = _duration(after)
    path = _path(role, data_dir)
    _ring(path, role)
    try:
        with _alone(path):
            # What another rotation wrote meanwhile counts.
            rotated = _rotated(_ring(path, role), delay)
            save_ring(path, rotated)
    except SecretUnusable as error:
        fail(str(error))
    except OSError as error:
        fail(f"the keys at {path} cannot be locked: {error.strerror}.")
    typer.echo(
        f"The new key comes into use at {_when(rotated.published[-1].not_before)} UTC "
        f"({after.strip()} from now; --after sets the time, 24h by default).",
        err=True,
    )
    _show(rotated, as_json=as_json)


def _rotated(ring: "KeyRing", delay: timedelta) -> "KeyRing":
    from onbook.cli.options import fail  # noqa: PLC0415 - keeps --help fast

    now = datetime.now(UTC)
    newest = datetime.fromisoformat(ring.published[-1].not_before)
    if newest <= now or len(ring.keys) == 1:
        return ring.rotated(not_before=now + delay)
    if newest <= now + max(delay, _TOO_LATE_TO_CHANGE):
        fail(
            f"a new key waits already and comes into use at {_when(newest.isoformat())} UTC; "
            "a sooner --after brings that forward, else rotate again after that."
        )
    # Not the same key with another time: whoever has stored the key has stored its time. Nothing
    # was ever signed with it.
    return type(ring)(owner=ring.owner, keys=ring.keys[:-1]).rotated(not_before=now + delay)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep others from rotating the ring in ``path`` meanwhile; wait for one that does."""
    descriptor = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _path(role: Role, data_dir: Path | None) -> Path:
    from onbook.adapters.files.signing_keys import (  # noqa: PLC0415 - keeps --help fast
        GATEWAY_KEYS_FILE,
        WORKER_KEYS_FILE,
    )
    from onbook.cli.options import settings_with  # noqa: PLC0415 - likewise

    directory = settings_with(data_dir=data_dir).data_dir
    return directory / (GATEWAY_KEYS_FILE if role == "gateway" else WORKER_KEYS_FILE)


def _ring(path: Path, role: Role) -> "KeyRing":
    from onbook.adapters.files.secrets import SecretUnusable  # noqa: PLC0415 - keeps --help fast
    from onbook.adapters.files.signing_keys import load_ring  # noqa: PLC0415 - likewise
    from onbook.cli.options import fail  # noqa: PLC0415 - likewise

    try:
        ring = load_ring(path)
    except SecretUnusable as error:
        fail(str(error))
    if ring is None:
        command = "serve" if role == "gateway" else "worker"
        fail(f"there are no keys at {path}; the first start of 'onbook {command}' makes them.")
    return ring


def _show(ring: "KeyRing", *, as_json: bool) -> None:
    from onbook.wire.signing import key_id_of  # noqa: PLC0415 - keeps --help fast

    in_use = ring.signer(datetime.now(UTC)).public_key
    place = [key.public_key for key in ring.published].index(in_use)
    states = ["past"] * place + ["in use"] + ["future"] * (len(ring.keys) - place - 1)
    rows = [
        {
            "key_id": key_id_of(key.public_key),
            "public_key": key.public_key,
            "not_before": key.not_before,
            "endorsed_by": None if key.endorsed_by is None else key_id_of(key.endorsed_by),
            "state": state,
        }
        for key, state in zip(ring.published, states, strict=True)
    ]
    if as_json:
        typer.echo(json.dumps({"owner": ring.owner, "keys": rows}, indent=2))
        return
    typer.echo(f"{ring.owner}", err=True)
    lines = [("KEY ID", "PUBLIC KEY", "FROM (UTC)", "STATE")] + [
        (
            str(row["key_id"]),
            str(row["public_key"]),
            _when(str(row["not_before"])),
            str(row["state"]),
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        typer.echo("  ".join(cells).rstrip())


def _duration(text: str) -> timedelta:
    from onbook.cli.options import fail  # noqa: PLC0415 - keeps --help fast

    found = _DURATION.fullmatch(text.strip())
    delay = None if found is None else int(found[1]) * _UNITS[found[2]]
    if delay is None or delay > _LONGEST.total_seconds():
        fail(f"--after takes a time such as 30m, 24h or 7d, up to {_LONGEST.days}d.", code=2)
    return timedelta(seconds=delay)


def _when(moment: str) -> str:
    return f"{datetime.fromisoformat(moment).astimezone(UTC):%Y-%m-%d %H:%M:%S}"
