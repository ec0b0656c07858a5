"""Every documented route under requests that fit and do not fit its schema: never a 5xx."""

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    response_schema_conformance,
    status_code_conformance,
)

from onbook.gateway.openapi import openapi_document
from server import ADMIN_KEY, Server, served

TEMPLATE = "enhancement_sdxl_sfw"
schema = schemathesis.openapi.from_dict(openapi_document())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served("serve", tmp_path_factory.mktemp("fuzz")) as started:
        yield started


@schema.parametrize()
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
def test_no_route_fails_on_any_input(
    case: schemathesis.Case,  # type: ignore[type-arg]  # its parameters are the library's own
    server: Server,
) -> None:
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    name = str(case.path_parameters.get("name", "")) if case.path_parameters else ""
    if len(name) % 2:
        # A name that nobody chose is not there, and whatever comes after the look-up not reached.
        case.path_parameters["name"] = TEMPLATE
        sent = case.body.get("template") if isinstance(case.body, dict) else None
        if isinstance(sent, dict):
            sent["template_name"] = TEMPLATE
    case.call_and_validate(
        base_url=server.url,
        headers=headers,
        checks=[not_a_server_error, status_code_conformance, response_schema_conformance],
    )


def test_the_server_is_still_up(server: Server) -> None:
    assert server.process.poll() is None
    assert "gateway.bug" not in server.output
    assert "worker.bug" not in server.output
