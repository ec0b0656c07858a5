"""The one OpenAPI document: schemas from the wire's own types, errors from the table of codes."""

from functools import cache
from typing import Final

import msgspec

from onbook import __version__
from onbook.gateway.openapi_operations import OPERATION_TYPES, operation_paths
from onbook.gateway.openapi_parts import (
    REFS,
    SECURITY,
    Json,
    any_value,
    body,
    errors,
    one_of,
    ref,
)
from onbook.gateway.openapi_templates import TEMPLATE_TYPES, template_paths
from onbook.wire.gateway_api import DryRunResponse, EnhanceRequest, EnhanceResponse
from onbook.wire.problem import Problem
from onbook.wire.worker_api import (
    InferenceRequest,
    InferenceResponse,
    LegacyRequest,
    LegacyResponse,
    WorkerHealth,
    WorkerInfo,
)

_TYPES: Final = (
    Problem,
    EnhanceRequest,
    EnhanceResponse,
    DryRunResponse,
    InferenceRequest,
    InferenceResponse,
    LegacyRequest,
    LegacyResponse,
    WorkerHealth,
    WorkerInfo,
    *OPERATION_TYPES,
    *TEMPLATE_TYPES,
)
# Each server-sent event; its data is JSON.
_EVENT: Final[Json] = {
    "type": "object",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
}


@cache
def openapi_document() -> Json:
    """Return the document, as plain data."""
    _, components = msgspec.json.schema_components(_TYPES, ref_template=REFS, schema_hook=any_value)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Onbook",
            "version": __version__,
            "description": "Versioned prompt templates, composed by a gateway and executed by "
            "pure inference workers.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {**_gateway_paths(), **operation_paths(), **template_paths(), **_worker_paths()},
        "components": {
            "schemas": components,
            "securitySchemes": {
                "accessKey": {"type": "http", "scheme": "bearer"},
                "apikey": {"type": "apiKey", "in": "header", "name": "apikey"},
                "workerKey": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The worker key; a worker on loopback may be open.",
                },
            },
        },
    }


def _gateway_paths() -> Json:
    enhance: Json = {
        "operationId": "enhance_prompt",
        "summary": "Enhance a prompt for an image or video generator",
        "tags": ["edge functions"],
        "security": SECURITY,
        "requestBody": body("EnhanceRequest"),
        "responses": {
            "200": {
                "description": "The enhancement; with `dry_run` what would be sent; with `stream` "
                "the events `meta` and `done` or `error`.",
                "content": {
                    "application/json": {
                        "schema": {"anyOf": [ref("EnhanceResponse"), ref("DryRunResponse")]}
                    },
                    "text/event-stream": {"schema": _EVENT},
                },
            },
            **errors(400, 401, 403, 404, 413, 422, 500, 502, 503, 504),
        },
    }
    return {
        "/functions/v1/enhance-prompt": {"post": enhance},
        "/healthz": {"get": _plain("healthz", "Whether the process lives")},
        "/readyz": {"get": _plain("readyz", "Whether requests can be served", 503)},
        "/health": {"get": _plain("health", "The same as /readyz", 503)},
        "/metrics": {
            "get": {
                "operationId": "metrics",
                "summary": "Metrics for Prometheus",
                "tags": ["operation"],
                "responses": {
                    "200": {
                        "description": "Exposition format",
                        "content": {"text/plain": {"schema": {"type": "string"}}},
                    },
                    **errors(401, 403, 500),
                },
            }
        },
        "/openapi.json": {"get": _plain("openapi", "This document")},
    }


def _worker_paths() -> Json:
    paths: Json = {}
    for name, summary in (
        ("chat", "Execute messages as a chat"),
        ("enhance", "Execute messages as an enhancement"),
        ("generate", "Complete raw text, or the legacy WAN format"),
    ):
        legacy = name == "generate"
        post: Json = {
            "operationId": f"worker_{name}",
            "summary": summary,
            "tags": ["worker"],
            "security": [{}, {"workerKey": []}],
            "requestBody": body("InferenceRequest", *(("LegacyRequest",) if legacy else ())),
            "responses": {
                "200": _json_answer("InferenceResponse", *(("LegacyResponse",) if legacy else ())),
                **errors(400, 401, 403, 413, 500, 503),
            },
        }
        paths[f"/{name}"] = {"post": post}
    for path, schema in (
        ("/worker/info", "WorkerInfo"),
        ("/model/info", "WorkerInfo"),
        ("/chat/health", "WorkerHealth"),
    ):
        paths[path] = {
            "get": {
                "operationId": "worker" + path.replace("/", "_"),
                "summary": "What runs here" if schema == "WorkerInfo" else "Whether it is healthy",
                "tags": ["worker"],
                "security": [{}, {"workerKey": []}],
                "responses": {"200": _json_answer(schema), **errors(401, 403, 503)},
            }
        }
    return paths


def _json_answer(*names: str) -> Json:
    return {
        "description": "The result",
        "content": {
            "application/json": {"schema": one_of(names)},
            "text/event-stream": {"schema": _EVENT},
        },
    }


def _plain(operation: str, summary: str, *statuses: int) -> Json:
    content: Json = {"application/json": {"schema": {"type": "object"}}}
    return {
        "operationId": operation,
        "summary": summary,
        "tags": ["operation"],
        "responses": {
            str(status): {"description": summary, "content": content} for status in (200, *statuses)
        },
    }
