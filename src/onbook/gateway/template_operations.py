"""What can be done to the book over HTTP, and the scope that each of it takes.

The one table: routes are built from it, and so is their part of the OpenAPI document.
"""

from dataclasses import dataclass
from typing import Final, Literal

TemplateScope = Literal["templates:read", "templates:edit", "templates:activate"]
READ: Final = "templates:read"
# A try-out runs a draft's text on the worker, so it takes the right to write one.
EDIT: Final = "templates:edit"
ACTIVATE: Final = "templates:activate"


@dataclass(frozen=True, slots=True)
class Operation:
    """One route. The id is stable: clients are generated from it."""

    operation_id: str
    method: Literal["GET", "POST", "DELETE"]
    path: str
    scope: TemplateScope
    summary: str


_BOOK: Final = "/v1/templates"
_ONE: Final = "/v1/templates/{name}"
_VERSION: Final = "/v1/templates/{name}/versions/{version}"

OPERATIONS: Final[tuple[Operation, ...]] = (
    Operation("templates_list", "GET", _BOOK, READ, "List templates, active or not"),
    Operation("templates_show", "GET", _ONE, READ, "One template, its split and its drafts"),
    Operation("templates_history", "GET", f"{_ONE}/versions", READ, "Its versions and events"),
    Operation("templates_version", "GET", _VERSION, READ, "One version with its content"),
    Operation("templates_diff", "GET", f"{_ONE}/diff", READ, "Two versions, word by word"),
    Operation("templates_draft", "POST", f"{_ONE}/drafts", EDIT, "Add a version, not served yet"),
    Operation("templates_discard", "DELETE", _VERSION, EDIT, "Delete a draft"),
    Operation("templates_test", "POST", f"{_ONE}/test", EDIT, "Run a version's own test cases"),
    Operation(
        "templates_activate", "POST", f"{_ONE}/activate", ACTIVATE, "Make a version the live one"
    ),
    Operation(
        "templates_roll_back", "POST", f"{_ONE}/rollback", ACTIVATE, "Bring an old version back"
    ),
    Operation(
        "templates_deactivate", "POST", f"{_ONE}/deactivate", ACTIVATE, "Take out of service"
    ),
    Operation(
        "templates_split", "POST", f"{_ONE}/split", ACTIVATE, "Serve a draft to some callers"
    ),
    Operation(
        "templates_split_promote",
        "POST",
        f"{_ONE}/split/promote",
        ACTIVATE,
        "End the split: its candidate becomes the live version",
    ),
    Operation(
        "templates_split_abort",
        "POST",
        f"{_ONE}/split/abort",
        ACTIVATE,
        "End the split: its candidate is retired",
    ),
    Operation("templates_import", "POST", f"{_BOOK}/import", EDIT, "Add drafts from a file's text"),
    Operation("template_events", "GET", "/v1/template-events", READ, "The record of all templates"),
    Operation("gateways", "GET", "/v1/gateways", READ, "Who serves what"),
)
