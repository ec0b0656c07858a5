"""What ``POST /functions/v1/refresh-prompt-cache`` takes and answers."""

from typing import Literal

import msgspec


class RefreshRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An empty object; no body at all means the same."""


class GatewayEpoch(msgspec.Struct, frozen=True, kw_only=True):
    """A live gateway, and whether it serves what was just read; seconds by the database's clock."""

    gateway_id: str
    name: str
    epoch: int
    up_to_date: bool
    seen_s_ago: float


class RefreshResponse(msgspec.Struct, frozen=True, kw_only=True):
    """What reading everything again came to.

    ``changed`` names the templates that are served differently now; the digests name the whole
    served set, so equal ones mean that the gateway was up to date.
    """

    success: bool = True
    request_id: str
    source: Literal["database", "system_cache", "hardcoded"]
    epoch: int
    active: int
    changed: list[str]
    sha256_before: str
    sha256_after: str
    age_seconds: float
    duration_ms: float
    gateway_id: str
    gateways: list[GatewayEpoch]
