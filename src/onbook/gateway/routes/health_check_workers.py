"""``GET /functions/v1/health-check-workers``: whether each worker is healthy, and trusted.

What is answered is what this gateway knows: no worker is asked for it, so that whoever looks does
not add to the load of one that is in trouble.
"""

from datetime import datetime
from typing import Final

from onbook.bootstrap import Service
from onbook.gateway.functions import Call
from onbook.wire.asgi import send_json
from onbook.wire.signing import key_id_of
from onbook.wire.workers import WorkersResponse, WorkerState

_DECIMALS: Final = 1


async def health_check_workers_route(call: Call, service: Service) -> None:
    """Serve one call."""
    answer = WorkersResponse(request_id=call.request_id, workers=[_state(service)])
    await send_json(call.send, 200, answer, call.headers)


def _state(service: Service) -> WorkerState:
    standing, prompt_ids = service.worker.standing(), service.enhance.prompt_ids
    held = (
        prompt_ids is not None
        and prompt_ids.family is not None
        and prompt_ids.model_sha256 == standing.model_sha256
    )
    quarantine, ends_in_s = standing.quarantine, standing.ends_in_s
    return WorkerState(
        worker_id=standing.worker_id,
        url=service.settings.worker_url,
        model_sha256=standing.model_sha256,
        key_ids=sorted(map(key_id_of, service.worker.public_keys)),
        token_ids="recomputed" if held else "not_checked",
        usable=standing.usable,
        state=standing.state,
        healthy=standing.healthy,
        checked_at=_time(standing.checked_at),
        quarantined=quarantine.in_force,
        quarantined_since=_time(quarantine.since),
        quarantine_ends_in_s=None if ends_in_s is None else round(ends_in_s, _DECIMALS),
        violations=quarantine.violations,
        mismatches=list(quarantine.mismatches),
    )


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="milliseconds")
