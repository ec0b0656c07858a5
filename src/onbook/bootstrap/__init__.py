"""The only place that builds adapters and hands them to flows."""

from onbook.bootstrap.build import build_evaluator, build_service, followed_gateway_ring
from onbook.bootstrap.database import (
    ensure_first_key,
    pepper_of,
    prepare_database,
    try_to_prepare,
)
from onbook.bootstrap.service import Gateway, Service

__all__ = [
    "Gateway",
    "Service",
    "build_evaluator",
    "build_service",
    "ensure_first_key",
    "followed_gateway_ring",
    "pepper_of",
    "prepare_database",
    "try_to_prepare",
]
