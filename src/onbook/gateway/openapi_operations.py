"""The OpenAPI part of what operators call."""

from typing import Final

from onbook.gateway.openapi_parts import SECURITY, Json, body, errors, ref
from onbook.wire.prompt_cache import RefreshRequest, RefreshResponse
from onbook.wire.workers import WorkersResponse

OPERATION_TYPES: Final = (RefreshRequest, RefreshResponse, WorkersResponse)


def operation_paths() -> Json:
    """Return the paths of what operators call."""
    refresh: Json = {
        "operationId": "refresh_prompt_cache",
        "summary": "Read all templates from the database again",
        "description": "Takes the scope `admin`. Changes are followed without it; the answer "
        "shows that they were, on this gateway and on the others.",
        "tags": ["edge functions"],
        "security": SECURITY,
        "requestBody": {**body("RefreshRequest"), "required": False},
        "responses": {
            "200": {
                "description": "What is served now, and what changed by reading it again",
                "content": {"application/json": {"schema": ref("RefreshResponse")}},
            },
            **errors(400, 401, 403, 413, 422, 500, 503),
        },
    }
    workers: Json = {
        "operationId": "health_check_workers",
        "summary": "Whether each worker is healthy, and trusted",
        "description": "Takes the scope `admin`. A worker whose receipt did not match what was "
        "sent is in quarantine: it gets no requests for a while, and then one as a trial.",
        "tags": ["edge functions"],
        "security": SECURITY,
        "responses": {
            "200": {
                "description": "The workers, as this gateway knows them",
                "content": {"application/json": {"schema": ref("WorkersResponse")}},
            },
            **errors(401, 403, 413, 500),
        },
    }
    return {
        "/functions/v1/refresh-prompt-cache": {"post": refresh},
        "/functions/v1/health-check-workers": {"get": workers},
    }
