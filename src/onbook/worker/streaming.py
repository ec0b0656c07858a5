"""Executions as they go on: to their end, or event by event, and never longer than the caller."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeVar

from onbook.wire.asgi import ClientDisconnectedError, send_event, start_events
from onbook.worker.engines.base import EngineError
from onbook.worker.execution import Executed
from onbook.worker.explain import explain

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from starlette.types import Receive, Send

Steps = AsyncGenerator[str | Executed, None]
T = TypeVar("T")


async def executed(steps: Steps, receive: "Receive") -> Executed:
    """Run ``steps`` to their end and return the result.

    Raises:
        ClientDisconnectedError: the caller went away; the generation has stopped.
        EngineError: the engine gave no result.
    """
    return await _unless_disconnected(_last(steps), receive)


async def stream_events(
    steps: Steps,
    answer: "Callable[[Executed], object]",
    request_id: str,
    receive: "Receive",
    send: "Send",
) -> str:
    """Send each step as an event; return the outcome: ``ok`` or an error code.

    What fails before the first step is raised, since the status is not out yet.

    Args:
        steps: The execution.
        answer: Makes the body of the last event.
        request_id: For an error event.
        receive: Tells when the caller goes away.
        send: Takes the events.

    Raises:
        ClientDisconnectedError: the caller went away; the generation has stopped.
        Exception: whatever the first step raised.
    """

    async def send_step(step: str | Executed) -> None:
        if isinstance(step, str):
            await send_event(send, "delta", {"text": step})
        else:
            await send_event(send, "done", answer(step), last=True)

    async def forward() -> str:
        first = await anext(steps)
        await start_events(send)
        try:
            await send_step(first)
            async for step in steps:
                await send_step(step)
        except Exception as error:  # noqa: BLE001 - the last line before the caller
            # The status is out already: the stream itself must say that it failed.
            body = explain(error, request_id).problem
            await send_event(send, "error", body, last=True)
            return body.error_code
        return "ok"

    async with aclosing(steps):
        return await _unless_disconnected(forward(), receive)


async def _last(steps: Steps) -> Executed:
    async with aclosing(steps):
        async for step in steps:
            if isinstance(step, Executed):
                return step
    raise EngineError("The engine gave no result.")


async def _unless_disconnected(work: "Coroutine[None, None, T]", receive: "Receive") -> T:
    """Run ``work``; stop it as soon as the caller has gone away."""
    working = asyncio.ensure_future(work)
    listening = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({working, listening}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnectedError
    finally:
        for task in (working, listening):
            task.cancel()
        await asyncio.gather(working, listening, return_exceptions=True)


async def _disconnected(receive: "Receive") -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
