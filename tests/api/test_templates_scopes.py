"""Who may do what to the book: every documented route with a key of every scope."""

import re
from typing import Any, cast

import pytest

from onbook.domain.access import SCOPES
from onbook.gateway.openapi import openapi_document
from onbook.gateway.template_operations import OPERATIONS
from support import Running
from support_templates import FOX, NAME, BookClient, key_with, path_of, refused

# What is asked for, written out once more: a slip in the table of the code must not pass.
NEEDED = {
    "templates_list": "templates:read",
    "templates_show": "templates:read",
    "templates_history": "templates:read",
    "templates_version": "templates:read",
    "templates_diff": "templates:read",
    "template_events": "templates:read",
    "gateways": "templates:read",
    "templates_draft": "templates:edit",
    "templates_discard": "templates:edit",
    "templates_test": "templates:edit",
    "templates_import": "templates:edit",
    "templates_activate": "templates:activate",
    "templates_roll_back": "templates:activate",
    "templates_deactivate": "templates:activate",
    "templates_split": "templates:activate",
    "templates_split_promote": "templates:activate",
    "templates_split_abort": "templates:activate",
}


def documented() -> dict[str, tuple[str, str]]:
    """Return method and path of every route of the book by its operation."""
    paths = cast("dict[str, dict[str, Any]]", openapi_document()["paths"])
    return {
        call["operationId"]: (method.upper(), path)
        for path, methods in paths.items()
        for method, call in methods.items()
        if path.startswith("/v1/")
    }


def test_the_tables_and_the_document_name_the_same_routes() -> None:
    assert {item.operation_id: item.scope for item in OPERATIONS} == NEEDED
    assert {item.operation_id: (item.method, item.path) for item in OPERATIONS} == documented()


@pytest.mark.parametrize("scope", sorted(SCOPES))
async def test_a_key_may_do_what_its_scope_says_and_nothing_else(
    gateway: Running, scope: str
) -> None:
    client = BookClient(gateway, await key_with(gateway, scope))
    for operation, (method, path) in documented().items():
        filled = re.sub(r"\{version\}", "1", re.sub(r"\{name\}", "nobody", path))
        response = await client.call(method, filled, None if method == "GET" else {})
        if scope in (NEEDED[operation], "admin"):
            # Past the door: what is wrong now is the request.
            assert response.status_code in (200, 404, 422), operation
        else:
            details = refused(response, 403, "FORBIDDEN")["details"]
            assert details == {"scope_required": NEEDED[operation]}, operation


async def test_nobody_comes_in_without_a_key(gateway: Running) -> None:
    for method, path in documented().values():
        response = await gateway.http.request(method, path.replace("{version}", "1"))
        refused(response, 401, "AUTH_REQUIRED")
        assert response.headers["www-authenticate"] == "Bearer"


async def test_a_draft_is_read_by_readers_and_run_by_editors_only(gateway: Running) -> None:
    text = "An unmistakable sentence of the draft."
    version = await BookClient(gateway).draft(system_prompt=text, grammar=None)
    reader = BookClient(gateway, await key_with(gateway, "templates:read", "enhance"))
    editor = BookClient(gateway, await key_with(gateway, "templates:edit", "enhance"))
    path = path_of(NAME, "versions", version)
    assert (await reader.get(path))["content"]["system_prompt"] == text
    assert text in (await reader.call("GET", path, format="toml")).text
    fields = (await reader.get(path_of(NAME, "diff")))["fields"]
    words = next(item["words"] for item in fields if item["field"] == "system_prompt")
    assert "".join(item["text"] for item in words if item["op"] != "delete") == text

    named = {**FOX, "template_name": NAME, "template_version": version}
    for body in (named, {**named, "dry_run": True}):
        response = await gateway.enhance(body, Authorization=f"Bearer {reader.key}")
        refused(response, 404, "TEMPLATE_NOT_FOUND")
    assert (await editor.served(**named))["template_version"] == version
