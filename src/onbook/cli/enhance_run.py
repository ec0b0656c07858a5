"""Where a prompt is enhanced: in this process, or by a running server."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final

import msgspec

from onbook.adapters.clock import SystemIds
from onbook.adapters.files.secrets import SecretUnusable
from onbook.adapters.inference.in_process import InProcessWorker
from onbook.bootstrap import build_service, prepare_database
from onbook.client import (
    AsyncOnbook,
    EnhanceFields,
    OnbookAnswerError,
    OnbookAPIError,
    OnbookConnectionError,
    OnbookTimeoutError,
)
from onbook.domain.enhancement import Caller
from onbook.flows.enhance_prompt import enhance_prompt
from onbook.gateway.errors import as_onbook_error, problem_of
from onbook.gateway.routes.enhance_prompt import command_from, response_from
from onbook.ports.stores import StoreUnavailable
from onbook.wire.gateway_api import EnhanceResponse, read_enhance_request
from onbook.wire.problem import Problem

if TYPE_CHECKING:
    from onbook.bootstrap import Service
    from onbook.settings import Settings
    from onbook.worker.start import Worker

Say = Callable[[str], None]
Enhance = Callable[[str, EnhanceFields], Awaitable[EnhanceResponse]]

# Whoever may run the command may read the database too; the deployment's ceiling still holds.
CALLER: Final = Caller(key_id="cli", scopes=frozenset({"enhance", "nsfw"}))

# What a server needs on top of its worker's time: queueing, composing, the audit row.
_SERVER_MARGIN_S: Final = 30.0
_NO_OTHER_PROMPT: Final = frozenset({"AUTH_REQUIRED", "FORBIDDEN"})


class EnhanceFailed(Exception):
    """One prompt could not be enhanced.

    Args:
        problem: The error body, as a server answers it or would answer it.
        for_all: Whether every other prompt would end the same way.
    """

    def __init__(self, problem: Problem, *, for_all: bool = False) -> None:
        super().__init__(problem.error)
        self.problem = problem
        self.for_all = for_all


@asynccontextmanager
async def in_process(settings: "Settings", say: Say) -> AsyncIterator[Enhance]:
    """Give the flow on this machine's database, with the embedded worker or the one elsewhere.

    Raises:
        EnhanceFailed: the service cannot start.
    """
    async with AsyncExitStack() as last_first:
        service = await _started(settings, say, last_first)

        async def enhance(prompt: str, fields: EnhanceFields) -> EnhanceResponse:
            return await _enhance_here(service, prompt, fields)

        yield enhance


def over_http(
    url: str, key: str | None, *, worker_timeout_s: float
) -> AbstractAsyncContextManager[Enhance]:
    """Return a running server's ``enhance-prompt``.

    Raises:
        ValueError: the URL or the key cannot be used.
    """
    return _over_http(AsyncOnbook(url, key, timeout_s=worker_timeout_s + _SERVER_MARGIN_S))


@asynccontextmanager
async def _over_http(client: AsyncOnbook) -> AsyncIterator[Enhance]:
    async with client:

        async def enhance(prompt: str, fields: EnhanceFields) -> EnhanceResponse:
            return await _enhance_there(client, prompt, fields)

        yield enhance


async def _enhance_here(service: "Service", prompt: str, fields: EnhanceFields) -> EnhanceResponse:
    request_id = service.enhance.ids.request_id()
    try:
        # Through the wire's own reader, so that both ways accept and refuse the same.
        body = {name: value for name, value in fields.items() if value is not None}
        request = read_enhance_request(msgspec.json.encode({"prompt": prompt, **body}))
        command = command_from(request)
        enhancement = await enhance_prompt(command, CALLER, request_id, service.enhance)
    except Exception as error:  # noqa: BLE001 - the last line before the caller, as in a server
        known = as_onbook_error(error, request_id)
        raise EnhanceFailed(problem_of(known, request_id)) from None
    return response_from(enhancement)


async def _enhance_there(
    client: AsyncOnbook, prompt: str, fields: EnhanceFields
) -> EnhanceResponse:
    try:
        return await client.enhance(prompt, **fields)
    except OnbookAPIError as error:
        for_all = error.problem.error_code in _NO_OTHER_PROMPT
        raise EnhanceFailed(error.problem, for_all=for_all) from None
    except OnbookConnectionError as error:
        problem = _problem("SERVER_UNREACHABLE", str(error), "Start the server, or check --url.")
        raise EnhanceFailed(problem, for_all=True) from None
    except OnbookAnswerError as error:
        problem = _problem("SERVER_ANSWER_INVALID", str(error), "Check --url.")
        # A proxy's 5xx passes; a page at the wrong address does not.
        raise EnhanceFailed(problem, for_all=error.status < 500) from None
    except OnbookTimeoutError as error:
        problem = _problem("SERVER_TIMEOUT", str(error), "Try again, or look at the server.")
        raise EnhanceFailed(problem) from None


async def _started(settings: "Settings", say: Say, last_first: AsyncExitStack) -> "Service":
    """Return the started service; ``last_first`` closes it, also if it could not be started."""
    # Imported late: over HTTP, no engine is needed.
    from onbook.worker.engines.base import EngineStartError  # noqa: PLC0415 - see above
    from onbook.worker.identity import IdentityError  # noqa: PLC0415 - see above
    from onbook.worker.start import build_worker  # noqa: PLC0415 - see above

    local: Worker | None = None
    try:
        await prepare_database(settings)
        if settings.worker_url is None:
            local = await asyncio.to_thread(build_worker, settings, progress=say)
            last_first.push_async_callback(local.close)
        worker = (
            None if local is None else InProcessWorker(local.app, local.app.info, key=local.app.key)
        )
        service = build_service(settings, worker)
        last_first.push_async_callback(service.close)
        await service.start()
    except (EngineStartError, IdentityError, SecretUnusable, StoreUnavailable) as error:
        failure = str(error)
    except OSError as error:
        failure = f"The data directory {settings.data_dir} cannot be used: {error.strerror}."
    else:
        return service
    action = "Correct what the error names; 'onbook doctor' checks all of it."
    raise EnhanceFailed(_problem("INTERNAL", failure, action), for_all=True)


def _problem(code: str, error: str, action: str) -> Problem:
    return Problem(
        error=error,
        error_code=code,
        suggested_action=action,
        request_id=SystemIds().request_id(),
    )
