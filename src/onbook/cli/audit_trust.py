"""What the audit commands work with: the log, the keys in the data directory, and named keys."""

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from onbook.adapters.database.audit_reader import create_reader
from onbook.adapters.database.audit_trail import SqlAuditTrail
from onbook.adapters.database.engine import create_engine
from onbook.adapters.database.errors import DatabaseUnusable
from onbook.adapters.database.postgres_url import is_postgres
from onbook.adapters.database.sqlite_file import sqlite_path
from onbook.adapters.files.secrets import SecretUnusable
from onbook.adapters.files.signing_keys import GATEWAY_KEYS_FILE, WORKER_KEYS_FILE, load_ring
from onbook.cli.options import fail
from onbook.flows.audit_findings import TrustRoots
from onbook.ports.audit import Role, SigningKey
from onbook.ports.stores import StoreUnavailable
from onbook.settings import Settings
from onbook.wire.signing import KeyRing

Result = TypeVar("Result")

# A batch of a walk takes milliseconds; the sort of many rows from before the chain takes longer.
_STATEMENT_S: Final = 300.0


def on_trail(
    settings: Settings,
    work: Callable[[SqlAuditTrail], Awaitable[Result]],
    *,
    writes: bool = False,
) -> Result:
    """Run ``work`` on the log of ``settings``; ends with 2 and one sentence if it cannot be read.

    A SQLite file that is not there is not made, and no schema is brought up to date. Unless
    ``writes``, nothing is changed at all.
    """
    try:
        if not is_postgres(settings.database):
            path = sqlite_path(settings.database)
            if not path.exists():
                fail(f"there is no database at {path}; check --data-dir or --database-url.", code=2)
        return asyncio.run(_with_trail(settings, work, writes=writes))
    except (StoreUnavailable, DatabaseUnusable) as error:
        fail(str(error), code=2)
    except OSError as error:
        fail(f"the data directory {settings.data_dir} cannot be used: {error.strerror}.", code=2)


async def _with_trail(
    settings: Settings, work: Callable[[SqlAuditTrail], Awaitable[Result]], *, writes: bool
) -> Result:
    create = create_engine if writes else create_reader
    engine = create(settings.database, statement_timeout_s=_STATEMENT_S)
    try:
        return await work(SqlAuditTrail(engine))
    finally:
        await engine.dispose()


def own_ring(settings: Settings) -> KeyRing:
    """Return the gateway's keys in the data directory; ends with 2 where there are none."""
    try:
        ring = load_ring(settings.data_dir / GATEWAY_KEYS_FILE)
    except SecretUnusable as error:
        fail(str(error), code=2)
    if ring is None:
        fail(
            f"there are no gateway's keys in {settings.data_dir}; name the gateway's directory "
            "with --data-dir.",
            code=2,
        )
    return ring


def trust_roots(settings: Settings, trust: Sequence[str], workers: Sequence[str]) -> TrustRoots:
    """Return the rings in the data directory, where they are, and the keys that were named."""
    published: list[SigningKey] = []
    roles: tuple[tuple[Role, str], ...] = (
        ("gateway", GATEWAY_KEYS_FILE),
        ("worker", WORKER_KEYS_FILE),
    )
    for role, name in roles:
        try:
            ring = load_ring(settings.data_dir / name)
        except SecretUnusable as error:
            fail(str(error), code=2)
        if ring is not None:
            published += [
                SigningKey(role=role, owner=ring.owner, published=key) for key in ring.published
            ]
    return TrustRoots(
        published=published,
        gateways=public_keys(trust, "--trust"),
        workers=[*public_keys(workers, "--trust-worker"), *settings.worker_public_key],
    )


def public_keys(named: Sequence[str], option: str) -> list[str]:
    """Return the keys that were named; ends with 2 if one is no key."""
    for key in named:
        try:
            raw = base64.b64decode(key, validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        if len(raw) != 32:
            fail(
                f"{option} wants a public key, 44 characters of base64; 'onbook keys signing "
                "list' shows the keys.",
                code=2,
            )
    return list(named)
