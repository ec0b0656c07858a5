"""The book's part of the OpenAPI document, from the table of operations and the wire's types."""

from dataclasses import dataclass
from typing import Final, cast

import msgspec

from onbook.gateway.openapi_parts import SECURITY, Json, body, errors, query_parameters, ref
from onbook.gateway.template_operations import OPERATIONS, Operation
from onbook.wire import templates_answers as answers
from onbook.wire import templates_api as api

_READ_ERRORS: Final = (401, 403, 413, 422, 500, 503)
_NAMED: Final = (*_READ_ERRORS, 404)
_CHANGED: Final = (*_NAMED, 400, 409)
# Whatever asks the worker: it may be away, too slow, or break its promise.
_ON_THE_WORKER: Final = (*_CHANGED, 502, 504)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Contract:
    """What goes in and out of an operation."""

    answer: type[msgspec.Struct]
    errors: tuple[int, ...]
    query: type[msgspec.Struct] = api.NoQuery
    body: type[msgspec.Struct] | None = None
    status: int = 200


_CONTRACTS: Final[dict[str, _Contract]] = {
    "templates_list": _Contract(
        query=api.TemplateListQuery, answer=answers.TemplateListAnswer, errors=_READ_ERRORS
    ),
    "templates_show": _Contract(answer=answers.TemplateAnswer, errors=_NAMED),
    "templates_history": _Contract(
        query=api.HistoryQuery, answer=answers.TemplateHistoryAnswer, errors=_NAMED
    ),
    "templates_version": _Contract(
        query=api.VersionQuery, answer=answers.TemplateVersionAnswer, errors=_NAMED
    ),
    "templates_diff": _Contract(
        query=api.DiffQuery, answer=answers.TemplateDiffAnswer, errors=_NAMED
    ),
    "templates_draft": _Contract(
        body=api.TemplateDraftRequest,
        answer=answers.TemplateDraftedAnswer,
        errors=_CHANGED,
        status=201,
    ),
    "templates_discard": _Contract(
        query=api.DiscardQuery,
        body=api.TemplateReasonRequest,
        answer=answers.TemplateDiscardedAnswer,
        errors=_CHANGED,
    ),
    "templates_test": _Contract(
        body=api.TemplateTestRequest, answer=answers.TemplateTestAnswer, errors=_ON_THE_WORKER
    ),
    "templates_activate": _Contract(
        body=api.TemplateActivateRequest,
        answer=answers.TemplateActivatedAnswer,
        errors=_ON_THE_WORKER,
    ),
    "templates_roll_back": _Contract(
        body=api.TemplateRollBackRequest, answer=answers.TemplateRolledBackAnswer, errors=_CHANGED
    ),
    "templates_deactivate": _Contract(
        body=api.TemplateChangeRequest, answer=answers.TemplateDeactivatedAnswer, errors=_CHANGED
    ),
    "templates_split": _Contract(
        body=api.TemplateSplitRequest, answer=answers.TemplateSplitAnswer, errors=_ON_THE_WORKER
    ),
    "templates_split_promote": _Contract(
        body=api.TemplateChangeRequest, answer=answers.TemplateSplitAnswer, errors=_CHANGED
    ),
    "templates_split_abort": _Contract(
        body=api.TemplateChangeRequest, answer=answers.TemplateSplitAnswer, errors=_CHANGED
    ),
    "templates_import": _Contract(
        body=api.TemplateImportRequest, answer=answers.TemplateImportAnswer, errors=_CHANGED
    ),
    "template_events": _Contract(
        query=api.EventsQuery, answer=answers.TemplateEventsAnswer, errors=_READ_ERRORS
    ),
    "gateways": _Contract(answer=answers.GatewaysAnswer, errors=_READ_ERRORS),
}
TEMPLATE_TYPES: Final = tuple(
    dict.fromkeys(
        kind
        for contract in _CONTRACTS.values()
        for kind in (contract.answer, contract.body)
        if kind is not None
    )
)
_PATH_PARAMETERS: Final[dict[str, Json]] = {
    "name": {"type": "string", "minLength": 1, "maxLength": 200},
    "version": {"type": "integer", "minimum": 1, "maximum": api.MAX_VERSION},
}


def template_paths() -> Json:
    """Return the paths of the book."""
    paths: dict[str, Json] = {}
    for operation in OPERATIONS:
        methods = paths.setdefault(operation.path, {})
        methods[operation.method.lower()] = _described(operation)
    return cast("Json", paths)


def _described(operation: Operation) -> Json:
    contract = _CONTRACTS[operation.operation_id]
    content: Json = {"application/json": {"schema": ref(contract.answer.__name__)}}
    if operation.operation_id == "templates_version":
        content["text/plain"] = {"schema": {"type": "string"}}
    described: Json = {
        "operationId": operation.operation_id,
        "summary": operation.summary,
        "description": f"Takes the scope `{operation.scope}`.",
        "tags": ["templates"],
        "security": SECURITY,
        "parameters": [*_path_parameters(operation.path), *query_parameters(contract.query)],
        "responses": {
            str(contract.status): {"description": "The result", "content": content},
            **errors(*sorted(contract.errors)),
        },
    }
    if contract.body is not None:
        described["requestBody"] = body(contract.body.__name__)
        if operation.method == "DELETE":
            # The reason may be in the query instead.
            described["requestBody"] = {**body(contract.body.__name__), "required": False}
    return described


def _path_parameters(path: str) -> list[Json]:
    return [
        {"name": name, "in": "path", "required": True, "schema": schema}
        for name, schema in _PATH_PARAMETERS.items()
        if f"{{{name}}}" in path
    ]
