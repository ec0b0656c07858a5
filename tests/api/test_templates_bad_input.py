"""Wrong requests to the book: each a clear error, and nothing half-written."""

import json
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from onbook.wire.asgi import MAX_BODY_BYTES
from support import ADMIN_KEY, running, settings_for
from support_templates import NAME, BookClient, Json, path_of, refused

HEADERS = {"Authorization": f"Bearer {ADMIN_KEY}"}
# The one that a test drafts.
OTHER = "enhancement_wan_sfw"
POSTS = [
    "drafts",
    "test",
    "activate",
    "rollback",
    "deactivate",
    "split",
    "split/promote",
    "split/abort",
]


# One gateway for all: nothing here may change anything, so each test finds what the last one did.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def book(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[BookClient]:
    async with running(settings_for(tmp_path_factory.mktemp("book"))) as gateway:
        yield BookClient(gateway)


async def unchanged(book: BookClient) -> None:
    history = await book.history()
    assert [row["version"] for row in history["versions"]] == [1]
    assert [event["action"] for event in history["events"]] == ["created"]


@pytest.mark.parametrize("action", [*POSTS, "../import"])
async def test_a_body_that_is_no_object_is_400(book: BookClient, action: str) -> None:
    path = "/v1/templates/import" if action == "../import" else path_of(NAME, action)
    for body in (b"", b"{", b"[]", b"null", b'{"reason": "\xff"}', b"[" * 50_000):
        response = await book.gateway.http.post(path, content=body, headers=HEADERS)
        refused(response, 400, "INVALID_PAYLOAD")
    await unchanged(book)


@pytest.mark.parametrize("action", [*POSTS, "../import"])
async def test_a_body_over_the_limit_is_413(book: BookClient, action: str) -> None:
    path = "/v1/templates/import" if action == "../import" else path_of(NAME, action)
    body = b'{"reason": "' + b"x" * MAX_BODY_BYTES + b'"}'
    response = await book.gateway.http.post(path, content=body, headers=HEADERS)
    refused(response, 413, "PAYLOAD_TOO_LARGE")


@pytest.mark.parametrize(
    ("action", "body", "fields"),
    [
        ("drafts", {}, {"template", "reason"}),
        ("drafts", {"template": 5, "reason": "r"}, {"template"}),
        ("drafts", {"template": {}, "reason": "r", "base_version": -1}, None),
        ("test", {}, {"version"}),
        ("test", {"version": "2"}, {"version"}),
        ("test", {"version": 0}, {"version"}),
        ("test", {"version": 2**31}, {"version"}),
        ("test", {"version": 1, "colour": "red"}, {"colour"}),
        ("activate", {"version": 1}, {"reason"}),
        ("activate", {"version": 1, "reason": ""}, {"reason"}),
        ("activate", {"version": 1, "reason": " \t "}, {"reason"}),
        ("activate", {"version": 1, "reason": "two\nlines"}, {"reason"}),
        ("activate", {"version": 1, "reason": "x" * 501}, {"reason"}),
        ("activate", {"version": 1, "reason": "a\x00b"}, {"reason"}),
        ("activate", {"version": 1, "reason": "r", "wait_s": 61}, {"wait_s"}),
        ("activate", {"version": 1, "reason": "r", "wait_s": -1}, {"wait_s"}),
        ("activate", {"version": 1, "reason": "r", "override_reason": ""}, {"override_reason"}),
        ("activate", {"version": True, "reason": "r"}, {"version"}),
        ("rollback", {"reason": "r", "to_version": 0}, {"to_version"}),
        ("deactivate", {"reason": 5}, {"reason"}),
        ("split", {"version": 2, "percent": 0, "reason": "r"}, {"percent"}),
        ("split", {"version": 2, "percent": 100, "reason": "r"}, {"percent"}),
        ("split", {"version": 2, "percent": 1.5, "reason": "r"}, {"percent"}),
        ("split/promote", {"version": 2}, {"version", "reason"}),
        ("split/abort", {}, {"reason"}),
    ],
)
async def test_every_wrong_field_is_named(
    book: BookClient, action: str, body: Json, fields: set[str] | None
) -> None:
    found = refused(await book.call("POST", path_of(NAME, action), body), 422, "INVALID_PAYLOAD")
    if fields is not None:
        assert set(found["details"]["fields"]) == fields
    await unchanged(book)


Change = Callable[[Json], object]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda t: t.pop("token_limit"), "template.token_limit"),
        (lambda t: t.update(colour="red"), "template.colour"),
        (lambda t: t.update(version=7), "template.version"),
        (lambda t: t.update(use_case="secret"), "template.use_case"),
        (lambda t: t.update(token_limit="75"), "template.token_limit"),
        (lambda t: t.update(max_tokens=99_999), "template.max_tokens"),
        (lambda t: t.update(sampling={"temperature": 9}), "template.sampling.temperature"),
        (lambda t: t.update(sampling={"heat": 1}), "template.sampling.heat"),
        (lambda t: t.update(tests=[{"name": "n"}]), "template.tests[0]"),
        (lambda t: t.update(system_prompt="a\x00b"), "template.system_prompt"),
        (lambda t: t.update(system_prompt="x" * 100_001), "template.system_prompt"),
        (lambda t: t.update(template_name="another"), "template.template_name"),
        # Rules that only the domain knows.
        (lambda t: t.update(system_prompt=" ", examples=[], examples_sent=0), "system_prompt"),
        (lambda t: t.update(system_prompt="Hello {{who}}."), "system_prompt"),
        (lambda t: t.update(examples_sent=199), "examples_sent"),
        (lambda t: t.update(grammar='root ::= "'), "grammar"),
    ],
)
async def test_what_is_wrong_in_a_draft_is_named(
    book: BookClient, change: Change, field: str
) -> None:
    template = await book.content()
    change(template)
    body = {"template": template, "reason": "try it"}
    found = refused(await book.call("POST", path_of(NAME, "drafts"), body), 422, "INVALID_PAYLOAD")
    assert found["details"]["fields"] == [field]
    assert "secret" not in json.dumps(found)
    await unchanged(book)


async def test_a_template_whose_own_text_makes_its_limit_impossible_is_refused(
    book: BookClient,
) -> None:
    template = {**await book.content(), "token_limit": 2}
    body = {"template": template, "reason": "shorter than its examples"}
    found = refused(await book.call("POST", path_of(NAME, "drafts"), body), 422, "INVALID_PAYLOAD")
    assert found["details"]["fields"] == ["examples"]
    await unchanged(book)


@pytest.mark.parametrize(
    "version", ["x", "0", "-1", "1.0", "2147483648", "9" * 5000, "%D9%A1", "1 "]
)
async def test_a_version_that_is_no_number_is_422(book: BookClient, version: str) -> None:
    for method in ("GET", "DELETE"):
        response = await book.call(method, f"{path_of(NAME)}/versions/{version}")
        found = refused(response, 422, "INVALID_PAYLOAD")
        assert found["details"]["fields"] == ["version"]


@pytest.mark.parametrize("name", ["nobody", "%00", "x" * 5000, "狐", "%2F", "a%2Fb", "import"])
async def test_a_template_that_is_not_there_is_404(book: BookClient, name: str) -> None:
    path = f"/v1/templates/{name}"
    calls: list[tuple[str, str, Json | None]] = [
        ("GET", "", None),
        ("GET", "/versions", None),
        ("GET", "/versions/1", None),
        ("GET", "/diff", None),
        ("DELETE", "/versions/1", {"reason": "r"}),
        ("POST", "/test", {"version": 1}),
        ("POST", "/activate", {"version": 1, "reason": "r"}),
        ("POST", "/rollback", {"reason": "r"}),
        ("POST", "/deactivate", {"reason": "r"}),
        ("POST", "/split/promote", {"reason": "r"}),
        ("POST", "/split/abort", {"reason": "r"}),
    ]
    for method, rest, body in calls:
        response = await book.call(method, path + rest, body)
        refused(response, 404, "TEMPLATE_NOT_FOUND")


@pytest.mark.parametrize(
    ("action", "body"),
    [
        ("test", {"version": 9}),
        ("activate", {"version": 9, "reason": "r"}),
        ("rollback", {"to_version": 9, "reason": "r"}),
        ("split", {"version": 9, "percent": 5, "reason": "r"}),
    ],
)
async def test_a_version_that_is_not_there_is_404(
    book: BookClient, action: str, body: Json
) -> None:
    refused(await book.call("POST", path_of(NAME, action), body), 404, "TEMPLATE_NOT_FOUND")
    await unchanged(book)


@pytest.mark.parametrize(
    ("action", "body"),
    [
        ("activate", {"version": 1, "reason": "r"}),
        ("rollback", {"reason": "r"}),
        ("rollback", {"to_version": 1, "reason": "r"}),
        ("split", {"version": 1, "percent": 5, "reason": "r"}),
        ("split/promote", {"reason": "r"}),
        ("activate", {"version": 1, "reason": "r", "expected_version": 4}),
    ],
)
async def test_what_the_state_does_not_allow_is_409(
    book: BookClient, action: str, body: Json
) -> None:
    refused(await book.call("POST", path_of(NAME, action), body), 409, "CONFLICT")
    await unchanged(book)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/templates?limit=201", {"limit"}),
        ("/v1/templates?limit=0", {"limit"}),
        ("/v1/templates?active=maybe&content_mode=secret", {"active", "content_mode"}),
        ("/v1/templates?colour=red", {"colour"}),
        ("/v1/templates?q=a&q=b", {"q"}),
        ("/v1/templates?q=%00", {"q"}),
        ("/v1/templates?q=%ff", {"query"}),
        (f"/v1/templates/{NAME}?x=1", {"x"}),
        (f"/v1/templates/{NAME}/versions?before=0", {"before"}),
        (f"/v1/templates/{NAME}/versions/1?format=yaml", {"format"}),
        (f"/v1/templates/{NAME}/diff?from=x", {"from"}),
        ("/v1/template-events?limit=-1", {"limit"}),
        ("/v1/gateways?all=1", {"all"}),
    ],
)
async def test_every_wrong_parameter_is_named(
    book: BookClient, path: str, fields: set[str]
) -> None:
    found = refused(await book.call("GET", path), 422, "INVALID_PAYLOAD")
    assert set(found["details"]["fields"]) == fields
    assert "secret" not in json.dumps(found)


async def test_a_reason_for_discarding_is_given_once(book: BookClient) -> None:
    version = await book.draft(OTHER, description="x")
    path = path_of(OTHER, "versions", version)
    responses = [
        await book.call("DELETE", path),
        await book.call("DELETE", path, {}),
        await book.call("DELETE", path, {"reason": "a"}, reason="b"),
        await book.call("DELETE", path, reason=""),
    ]
    for response in responses:
        found = refused(response, 422, "INVALID_PAYLOAD")
        assert found["details"]["fields"] == ["reason"]
    assert (await book.get(path))["version"]["state"] == "draft"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/v1/templates", "GET, OPTIONS"),
        ("POST", f"/v1/templates/{NAME}", "GET, OPTIONS"),
        ("PATCH", f"/v1/templates/{NAME}/versions/1", "DELETE, GET, OPTIONS"),
        ("GET", f"/v1/templates/{NAME}/activate", "OPTIONS, POST"),
        ("DELETE", "/v1/templates/import", "GET, OPTIONS, POST"),
        ("POST", "/v1/gateways", "GET, OPTIONS"),
    ],
)
async def test_another_method_is_405(book: BookClient, method: str, path: str, allow: str) -> None:
    response = await book.call(method, path)
    assert (response.status_code, response.headers["allow"]) == (405, allow)
    assert response.json()["error_code"] == "METHOD_NOT_ALLOWED"


@pytest.mark.parametrize(("action", "more"), [("activate", {}), ("split", {"percent": 5})])
async def test_a_reason_to_override_is_named_as_the_caller_named_it(
    book: BookClient, action: str, more: Json
) -> None:
    body = {"version": 1, "reason": "r", "override_reason": "two\nlines", **more}
    response = await book.call("POST", path_of(NAME, action), body)
    found = refused(response, 422, "INVALID_PAYLOAD")
    assert found["details"]["fields"] == ["override_reason"]
    await unchanged(book)


@pytest.mark.parametrize(
    ("action", "more"),
    [
        ("activate", {"version": 1}),
        ("test", {"version": 1}),
        ("rollback", {}),
        ("deactivate", {}),
        ("split", {"version": 1, "percent": 5}),
        ("split/promote", {}),
        ("split/abort", {}),
    ],
)
async def test_a_change_of_an_unknown_template_suggests_the_list(
    book: BookClient, action: str, more: Json
) -> None:
    reason = {} if action == "test" else {"reason": "r"}
    response = await book.call("POST", path_of("nobody", action), {**reason, **more})
    found = refused(response, 404, "TEMPLATE_NOT_FOUND")
    assert "GET /v1/templates," in found["suggested_action"]
    assert "'onbook templates list'" in found["suggested_action"]
