"""The one OpenAPI document: schemas from the wire's own types, errors from the table of codes."""

from functools import cache
from typing import Final

import msgspec

from onbook import __version__
from onbook.wire.gateway_api import DryRunResponse, EnhanceRequest, EnhanceResponse
from onbook.wire.problem import ERROR_CODES, Problem
from onbook.wire.worker_api import (
    InferenceRequest,
    InferenceResponse,
    LegacyRequest,
    LegacyResponse,
    WorkerHealth,
    WorkerInfo,
)

Json = dict[str, object]

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
)
# Each server-sent event; its data is JSON.
_EVENT: Final[Json] = {
    "type": "object",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
}
_SECURITY: Final[list[dict[str, list[str]]]] = [{"accessKey": []}, {"apikey": []}]


@cache
def openapi_document() -> Json:
    """Return the document, as plain data."""
    _, components = msgspec.json.schema_components(
        _TYPES, ref_template="#/components/schemas/{name}", schema_hook=_any_value
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Onbook",
            "version": __version__,
            "description": "Versioned prompt templates, composed by a gateway and executed by "
            "pure inference workers.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {**_gateway_paths(), **_worker_paths()},
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


def _any_value(_type: type) -> Json:
    """Return the schema of `object`: an error's details hold whatever explains it."""
    return {"description": "Any JSON value"}


def _gateway_paths() -> Json:
    enhance: Json = {
        "operationId": "enhance_prompt",
        "summary": "Enhance a prompt for an image or video generator",
        "tags": ["edge functions"],
        "security": _SECURITY,
        "requestBody": _body("EnhanceRequest"),
        "responses": {
            "200": {
                "description": "The enhancement; with `dry_run` what would be sent; with `stream` "
                "the events `meta` and `done` or `error`.",
                "content": {
                    "application/json": {
                        "schema": {"anyOf": [_ref("EnhanceResponse"), _ref("DryRunResponse")]}
                    },
                    "text/event-stream": {"schema": _EVENT},
                },
            },
            **_errors(400, 401, 403, 404, 413, 422, 500, 502, 503, 504),
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
                    **_errors(401, 403, 500),
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
            "requestBody": _body("InferenceRequest", *(("LegacyRequest",) if legacy else ())),
            "responses": {
                "200": _json_answer("InferenceResponse", *(("LegacyResponse",) if legacy else ())),
                **_errors(400, 401, 403, 413, 500, 503),
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
                "responses": {"200": _json_answer(schema), **_errors(401, 403, 503)},
            }
        }
    return paths


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _schema(names: tuple[str, ...]) -> Json:
    return _ref(names[0]) if len(names) == 1 else {"anyOf": [_ref(name) for name in names]}


def _body(*names: str) -> Json:
    return {"required": True, "content": {"application/json": {"schema": _schema(names)}}}


def _json_answer(*names: str) -> Json:
    return {
        "description": "The result",
        "content": {
            "application/json": {"schema": _schema(names)},
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


def _errors(*statuses: int) -> Json:
    answers: Json = {}
    for status in statuses:
        codes = [row for row in ERROR_CODES if status in row.statuses]
        answers[str(status)] = {
            "description": "; ".join(f"{row.code}: {row.when}" for row in codes) or "An error",
            "content": {"application/json": {"schema": _ref("Problem")}},
        }
    return answers
