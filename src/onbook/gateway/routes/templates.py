"""The routes of the book, built from the table of operations."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from onbook.adapters.telemetry.logs import canonical_fields
from onbook.bootstrap import Service
from onbook.gateway.functions import Call, Function
from onbook.gateway.routes.templates_change import (
    abort_route,
    activate_route,
    deactivate_route,
    discard_route,
    draft_route,
    promote_route,
    roll_back_route,
    split_route,
    test_route,
)
from onbook.gateway.routes.templates_import import import_route
from onbook.gateway.routes.templates_read import (
    diff_route,
    events_route,
    gateways_route,
    history_route,
    list_route,
    show_route,
    version_route,
)
from onbook.gateway.template_operations import OPERATIONS

Handler = Callable[[Call, Service], Awaitable[None]]

_HANDLERS: Final[Mapping[str, Handler]] = {
    "templates_list": list_route,
    "templates_show": show_route,
    "templates_history": history_route,
    "templates_version": version_route,
    "templates_diff": diff_route,
    "templates_draft": draft_route,
    "templates_discard": discard_route,
    "templates_test": test_route,
    "templates_activate": activate_route,
    "templates_roll_back": roll_back_route,
    "templates_deactivate": deactivate_route,
    "templates_split": split_route,
    "templates_split_promote": promote_route,
    "templates_split_abort": abort_route,
    "templates_import": import_route,
    "template_events": events_route,
    "gateways": gateways_route,
}


def template_routes(service: Service) -> dict[str, dict[str, Function]]:
    """Return path to method to application."""
    routes: dict[str, dict[str, Function]] = {}
    for operation in OPERATIONS:
        handler = _noted(_HANDLERS[operation.operation_id])
        function = Function(operation.operation_id, operation.scope, service, handler)
        routes.setdefault(operation.path, {})[operation.method] = function
    return routes


def _noted(handler: Handler) -> Handler:
    """Put the caller into the canonical line, and the template once it turned out to exist."""

    async def noted(call: Call, service: Service) -> None:
        line = canonical_fields.get()
        if line is not None:
            line["caller"] = call.caller.key_id
        await handler(call, service)
        if line is not None and "name" in call.parameters:
            line["template"] = call.parameters["name"]

    return noted
