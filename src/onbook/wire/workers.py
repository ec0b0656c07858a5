"""What ``GET /functions/v1/health-check-workers`` answers."""

from typing import Literal

import msgspec


class WorkerState(msgspec.Struct, frozen=True, kw_only=True):
    """A worker, as this gateway knows it. Times are RFC 3339 in UTC; None is not known.

    ``state`` is what stands between a request and an answer of this worker, in one word, and
    ``usable`` is true where that is nothing. ``healthy`` is only what the worker said of itself
    when it was last asked, at ``checked_at``: it stays true in quarantine.
    ``violations`` counts the receipts that did not match since the gateway's start;
    ``mismatches`` names what was wrong with the last one. ``token_ids`` tells whether the gateway
    holds the tokenizer of this worker's model, and recomputes what its receipts state.
    """

    worker_id: str | None
    url: str | None
    model_sha256: str | None
    key_ids: list[str]
    token_ids: Literal["recomputed", "not_checked"]
    usable: bool
    state: Literal["ok", "unavailable", "refused", "untrusted", "quarantined"]
    healthy: bool
    checked_at: str | None
    quarantined: bool
    quarantined_since: str | None
    quarantine_ends_in_s: float | None
    violations: int
    mismatches: list[str]


class WorkersResponse(msgspec.Struct, frozen=True, kw_only=True):
    """All workers of this gateway."""

    success: bool = True
    request_id: str
    workers: list[WorkerState]
