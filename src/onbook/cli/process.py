"""The process behind ``onbook serve`` and ``onbook gateway``: preparing, serving, stopping."""

import asyncio
import secrets
import socket
from typing import TYPE_CHECKING

import typer
from pydantic import SecretStr

from onbook.adapters.files.secrets import SecretUnusable
from onbook.adapters.files.signing_keys import FollowedRing
from onbook.adapters.inference.in_process import InProcessWorker
from onbook.adapters.telemetry.logs import configure_logging
from onbook.adapters.tokenizers.gguf_vocabulary import VocabularyUnreadable
from onbook.admin.pages import pages
from onbook.bootstrap import (
    Service,
    build_service,
    ensure_first_key,
    followed_gateway_ring,
    try_to_prepare,
)
from onbook.cli.options import fail
from onbook.cli.server import listen, run, run_server, url_of
from onbook.domain.templates import TOKEN_UNITS
from onbook.gateway.app import build_gateway
from onbook.ports.stores import StoreUnavailable
from onbook.settings import SAFE_KEY_CHARS, SHORT_WORKER_KEY, Settings

if TYPE_CHECKING:
    from onbook.worker.start import Worker


def run_service(settings: Settings, *, embedded: bool) -> None:
    """Serve until a signal; ends the program with one sentence if it cannot start."""
    configure_logging(settings.log_level, settings.log_format)
    # The port first: to learn after a minute of loading that it is taken would be a nuisance.
    listener = listen(settings.host, settings.port)
    try:
        run(_run(settings, listener, embedded=embedded))
    except KeyboardInterrupt:
        # The server has drained by now, and raises the signal again for whoever asks.
        say("Stopped.")
    except (StoreUnavailable, SecretUnusable, VocabularyUnreadable) as error:
        fail(str(error))
    except OSError as error:
        fail(f"the data directory {settings.data_dir} cannot be used: {error.strerror}.")
    finally:
        listener.close()


async def _run(settings: Settings, listener: socket.socket, *, embedded: bool) -> None:
    say("Preparing the database …")
    away = await try_to_prepare(settings)
    if embedded and not settings.on_loopback and settings.worker_key is None:
        # The embedded worker answers on the same port: beyond loopback it needs a key, and only
        # the gateway in this process has to know it.
        key = SecretStr(secrets.token_urlsafe(32))
        settings = settings.model_copy(update={"worker_key": key})
    signing = followed_gateway_ring(settings)
    local = await asyncio.to_thread(_local_worker, settings, signing) if embedded else None
    in_process = None if local is None else _caller(local, signing)
    service = await asyncio.to_thread(
        build_service,
        settings,
        in_process,
        name=f"{socket.gethostname()}:{listener.getsockname()[1]}",
        context_size=None if local is None else local.app.info.model.context_size,
        model_file=None if local is None else local.model_file,
    )
    if local is not None:
        service.registry.register(local.registry)
    for unit in TOKEN_UNITS:
        # Loading a vocabulary belongs here, not in the first request.
        await asyncio.to_thread(service.enhance.counters[unit].count, "warm")
    first_key = await _first_key(service, away)

    def welcome() -> None:
        _welcome(service, listener, first_key, local)

    try:
        app = build_gateway(
            service,
            worker_app=local.app if local and settings.expose_worker else None,
            pages=pages(service, local.app.info if local else None),
        )
        await run_server(app, listener, grace_s=settings.shutdown_grace_s, on_ready=welcome)
    finally:
        if local is not None:
            await local.close()


async def _first_key(service: Service, away: str | None) -> str | None:
    """Return the first admin key if one was made; arrange for it where the database is away."""
    if away is None:
        try:
            return await ensure_first_key(service)
        except StoreUnavailable as error:
            # It went away in the moment since it was prepared.
            away = str(error)
    service.prepare_later(away, tell_key=_say_key)
    return None


def _caller(local: "Worker", signing: FollowedRing) -> InProcessWorker:
    return InProcessWorker(local.app, local.app.info, key=local.app.key, signer=signing.signer)


def _local_worker(settings: Settings, signing: FollowedRing) -> "Worker":
    # Imported here, because a gateway alone needs no engine.
    from onbook.worker import engines, identity, start  # noqa: PLC0415 - see above

    others = frozenset(settings.worker_trust_keys)

    def trusted() -> frozenset[str]:
        # The gateway in this process signs as any other does, and need not be named.
        return others | {key.public_key for key in signing.ring.published}

    try:
        return start.build_worker(settings, progress=say, trusted=trusted if others else None)
    except (engines.EngineStartError, identity.IdentityError) as error:
        fail(str(error))


def _welcome(
    service: Service,
    listener: socket.socket,
    first_key: str | None,
    local: "Worker | None",
) -> None:
    settings = service.settings
    url = url_of(settings.host, listener)
    say(f"\nOnbook is ready at {url}")
    say(f"  data      {settings.data_dir.resolve()}")
    model = local.app.info.model.name if local else f"worker at {settings.worker_url}"
    say(f"  model     {model}")
    say(f"  content   {settings.content_ceiling}")
    if service.prepared.away is not None:
        say(f"  warning   {_away_words(service)}")
    if first_key is not None:
        _say_key(first_key)
    key = "$ONBOOK_KEY" if first_key is None else first_key
    given = settings.bootstrap_key
    if given is not None:
        key = "$ONBOOK_BOOTSTRAP_KEY"
        if len(given.get_secret_value()) < SAFE_KEY_CHARS:
            say(
                "  warning   ONBOOK_BOOTSTRAP_KEY is short; "
                f"take {SAFE_KEY_CHARS} characters or more"
            )
    if local is not None and settings.worker_key_is_short:
        say(f"  warning   {SHORT_WORKER_KEY}")
    say(
        "\nTry it:\n"
        f"  curl -s {url}/functions/v1/enhance-prompt \\\n"
        f"    -H 'Content-Type: application/json' -H \"Authorization: Bearer {key}\" \\\n"
        '    -d \'{"prompt":"a cat in a garden","jobType":"sdxl_image","quality":"high"}\'\n'
        "\nStop it with Ctrl-C."
    )


def _away_words(service: Service) -> str:
    """Return one line: why the database is away, what serves meanwhile, and what comes next."""
    state = service.book.state()
    if state.source == "system_cache" and state.templates:
        serving = f"the last good templates, {state.age_seconds:.0f} s old, are served"
    else:
        serving = "the packaged templates are served"
    reason = service.prepared.away
    again_s = service.settings.database_retry_s
    return f"{reason} Meanwhile {serving}; trying again every {again_s:g} s."


def _say_key(plain: str) -> None:
    say(f"\n  Your first admin key, shown this once:\n\n    {plain}\n")
    say("  Keep it; 'onbook keys create' makes others.")


def say(text: str) -> None:
    """Tell the person at the terminal; logs go elsewhere."""
    typer.echo(text)
