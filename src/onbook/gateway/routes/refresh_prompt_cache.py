"""``POST /functions/v1/refresh-prompt-cache``: read the whole book again, and tell what came of it.

Gateways follow the book by themselves; this is for whoever does not want to take that on trust.
"""

from onbook.bootstrap import Service
from onbook.domain.errors import DatabaseUnavailable
from onbook.flows.await_gateways import LIVE_S
from onbook.flows.template_editing import database
from onbook.gateway.functions import Call
from onbook.wire.asgi import send_json
from onbook.wire.decoding import read_struct
from onbook.wire.prompt_cache import GatewayEpoch, RefreshRequest, RefreshResponse


async def refresh_prompt_cache_route(call: Call, service: Service) -> None:
    """Serve one call."""
    if call.body:
        read_struct(call.body, RefreshRequest)
    await send_json(call.send, 200, await _refreshed(call, service), call.headers)


async def _refreshed(call: Call, service: Service) -> RefreshResponse:
    book, clock = service.book, service.enhance.clock
    began = clock.monotonic()
    before, sha256_before = book.content_hashes(), book.active_sha256()
    await service.read_again()
    state = book.state()
    if not state.reachable or state.epoch is None:
        raise DatabaseUnavailable(
            "The templates could not be read again: the database cannot be reached.",
            details={
                "source": state.source,
                "active": state.templates,
                "sha256": state.active_sha256,
                "epoch": state.epoch,
                "age_seconds": round(state.age_seconds, 1),
                "gateway_id": service.gateway.gateway_id,
            },
        )
    after = book.content_hashes()
    duration_ms = (clock.monotonic() - began) * 1000
    with database("list the gateways"):
        gateways = await service.library.gateways()
    return RefreshResponse(
        request_id=call.request_id,
        source=state.source,
        epoch=state.epoch,
        active=state.templates,
        changed=sorted(
            name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
        ),
        sha256_before=sha256_before,
        sha256_after=state.active_sha256,
        age_seconds=round(state.age_seconds, 1),
        duration_ms=round(duration_ms, 2),
        gateway_id=service.gateway.gateway_id,
        gateways=[
            GatewayEpoch(
                gateway_id=seen.gateway_id,
                name=seen.name,
                epoch=seen.epoch,
                up_to_date=seen.epoch >= state.epoch,
                seen_s_ago=round(seen.seen_s_ago, 3),
            )
            for seen in gateways
            if seen.seen_s_ago <= LIVE_S
        ],
    )
