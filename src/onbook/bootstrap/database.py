"""Making the database ready: schema, packaged templates, the first key."""

import asyncio
from typing import TYPE_CHECKING

from onbook.adapters.clock import SystemClock
from onbook.adapters.database.engine import create_engine
from onbook.adapters.database.errors import DatabaseUnusable
from onbook.adapters.database.schema import migrate
from onbook.adapters.database.template_store import SqlTemplateStore
from onbook.adapters.files.durable import ensure_data_dir
from onbook.adapters.files.packaged import packaged_templates
from onbook.adapters.files.secrets import load_or_create_pepper
from onbook.flows.access_keys import bootstrap_access_key, fixed_key_id, issue_key
from onbook.ports.stores import StoreUnavailable
from onbook.settings import Settings

if TYPE_CHECKING:
    from onbook.bootstrap.service import Service


async def prepare_database(settings: Settings) -> None:
    """Create or upgrade the database and seed it with templates that it does not have.

    Raises:
        DatabaseUnusable: it is the wrong one, or the URL is; the message is one sentence.
        StoreUnavailable: it cannot be used now; likewise.
        OSError: the data directory cannot be made.
    """
    ensure_data_dir(settings.data_dir)
    await asyncio.to_thread(migrate, settings.database)
    engine = create_engine(settings.database)
    store = SqlTemplateStore(engine)
    try:
        await store.seed(packaged_templates(), at=SystemClock().now())
    finally:
        await store.close()
        await engine.dispose()


async def try_to_prepare(settings: Settings) -> str | None:
    """Prepare the database; return why that cannot be done now, in one sentence, or None.

    Raises:
        DatabaseUnusable: waiting would not help.
        OSError: the data directory cannot be made.
    """
    try:
        await prepare_database(settings)
    except DatabaseUnusable:
        raise
    except StoreUnavailable as error:
        return str(error)
    return None


async def ensure_first_key(service: "Service") -> str | None:
    """Make the first admin key if there is none; return it only if it was generated.

    Raises:
        StoreUnavailable: the keys cannot be read or written.
    """
    given = service.settings.bootstrap_key
    store, clock, ids = service.key_store, service.enhance.clock, service.enhance.ids
    if given is not None:
        key = bootstrap_access_key(given.get_secret_value(), pepper=service.pepper, at=clock.now())
        if await store.by_hmac(key.key_hmac) is None:
            try:
                await store.add(key)
            except StoreUnavailable:
                # Another process that starts at the same time may have been faster.
                if await store.by_hmac(key.key_hmac) is None:
                    raise
        return None
    if await _has_admin(service):
        return None
    try:
        plain, _ = await issue_key(
            "first admin key",
            ["admin"],
            store=store,
            pepper=service.pepper,
            clock=clock,
            ids=ids,
            key_id=fixed_key_id("first admin key"),
        )
    except StoreUnavailable:
        # As above: the other process has printed its key.
        if not await _has_admin(service):
            raise
        return None
    return plain


async def _has_admin(service: "Service") -> bool:
    return any("admin" in key.scopes for key in await service.key_store.all())


def pepper_of(settings: Settings) -> bytes:
    """Return the secret that access keys are hashed with; made at the first call.

    Raises:
        SecretUnusable: its file is damaged or cannot be made.
    """
    if settings.key_pepper is not None:
        return settings.key_pepper.get_secret_value().encode()
    return load_or_create_pepper(settings.data_dir)
