"""Reading the book over HTTP: histories, versions, differences, and edits by SQL."""

import asyncio
import threading
import tomllib
from types import ModuleType
from urllib.parse import quote

import pytest
import structlog
from sqlalchemy import text

from onbook.adapters.database import template_reads
from onbook.adapters.database.engine import create_engine
from onbook.adapters.files.packaged import packaged_templates
from onbook.adapters.files.template_toml import from_toml
from onbook.gateway.routes import templates_change, templates_import, templates_read
from support import Running
from support_templates import NAME, BookClient, Json, key_with, path_of, refused

ALL = sorted(item.template_name for item in packaged_templates())


@pytest.fixture
async def book(gateway: Running) -> BookClient:
    """The book for somebody who may read it, and nothing else."""
    return BookClient(gateway, await key_with(gateway, "templates:read"))


@pytest.fixture
def editor(gateway: Running) -> BookClient:
    return BookClient(gateway)


async def raw_sql(gateway: Running, statement: str, **values: object) -> None:
    engine = create_engine(gateway.settings.database)
    async with engine.begin() as connection:
        await connection.execute(text(statement), values)
    await engine.dispose()


def names(found: Json) -> list[str]:
    return [row["template_name"] for row in found["templates"]]


async def test_inactive_templates_are_listed_when_asked_for(
    book: BookClient, editor: BookClient
) -> None:
    await editor.post(path_of(NAME, "deactivate"), {"reason": "under repair"})
    assert names(await book.get("/v1/templates", active="false")) == [NAME]
    assert NAME not in names(await book.get("/v1/templates", active="true"))
    assert NAME in names(await book.get("/v1/templates"))


async def test_no_content_is_ever_logged(gateway: Running, editor: BookClient) -> None:
    secret = "an unmistakable sentence of the draft"
    with structlog.testing.capture_logs() as logs:
        content = await editor.content()
        version = await editor.draft(system_prompt=content["system_prompt"] + "\n" + secret)
        await editor.get(path_of(NAME, "versions", version))
        await editor.get(path_of(NAME, "diff"))
        broken = {"template": {**content, "token_unit": secret}, "reason": secret}
        await editor.call("POST", path_of(NAME, "drafts"), broken)
        await editor.get(path_of(NAME, "versions"))
        await editor.call("GET", path_of(secret))
        lines = [line for line in logs if line["event"] == "request"]
        assert [line["function"] for line in lines] == [
            "templates_show",
            "templates_show",
            "templates_draft",
            "templates_version",
            "templates_diff",
            "templates_draft",
            "templates_history",
            "templates_show",
        ]
        assert [line["status"] for line in lines] == [200, 200, 201, 200, 200, 422, 200, 404]
        assert lines[2]["template"] == NAME
        assert {line["caller"] for line in lines} == {lines[0]["caller"]}
    assert secret not in str(logs)
    assert content["system_prompt"][:40] not in str(logs)
    assert (
        gateway.service.registry.get_sample_value(
            "onbook_requests_total", {"function": "templates_draft", "outcome": "ok"}
        )
        == 1
    )


async def test_a_history_is_paged_in_both_its_lists(book: BookClient, editor: BookClient) -> None:
    for number in range(4):
        await editor.draft(description=str(number))
    whole = await book.get(path_of(NAME, "versions"))
    assert [row["version"] for row in whole["versions"]] == [5, 4, 3, 2, 1]
    assert (whole["next_before"], whole["next_before_event"]) == (None, None)
    versions, events = [], []
    query: dict[str, object] = {"limit": 2}
    while True:
        page = await book.get(path_of(NAME, "versions"), **query)
        versions += page["versions"]
        events += page["events"]
        if page["next_before"] is None:
            assert page["next_before_event"] is None
            break
        query |= {"before": page["next_before"], "before_event": page["next_before_event"]}
    assert (versions, events) == (whole["versions"], whole["events"])


async def test_a_version_is_shown_as_json_and_as_its_file(
    book: BookClient, editor: BookClient
) -> None:
    version = await editor.draft(description="für später")
    shown = await book.get(path_of(NAME, "versions", version))
    assert (shown["version"]["state"], shown["content"]["description"]) == ("draft", "für später")
    response = await book.call("GET", path_of(NAME, "versions", version), format="toml")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.headers["x-request-id"]
    assert tomllib.loads(response.text)["description"] == "für später"
    template = from_toml(response.content, file="a.toml").template
    assert template.content_sha256 == shown["version"]["content_sha256"]


async def test_a_difference_is_told_in_words(book: BookClient, editor: BookClient) -> None:
    before = (await editor.content())["system_prompt"]
    first = await editor.draft(system_prompt=before + " Paint it blue.", token_limit=70)
    second = await editor.draft(system_prompt=before + " Paint it red.", token_limit=70)

    found = await book.get(path_of(NAME, "diff"))
    assert (found["from_version"], found["to_version"]) == (1, second)
    fields = {item["field"]: item for item in found["fields"]}
    assert fields.keys() == {"system_prompt", "token_limit"}
    words = fields["system_prompt"]["words"]
    assert "".join(item["text"] for item in words if item["op"] != "insert") == before
    assert "Paint it red" in "".join(item["text"] for item in words if item["op"] == "insert")
    assert not [item for item in words if item["op"] == "delete" and item["text"].strip(" .")]

    query = {"from": first, "to": second}
    found = await book.get(path_of(NAME, "diff"), **query)
    (field,) = found["fields"]
    assert field["change"] == "changed"
    changed = [(item["op"], item["text"].strip()) for item in field["words"]]
    assert [item for item in changed if item[0] != "equal"] == [
        ("delete", "blue"),
        ("insert", "red"),
    ]

    same = await book.get(path_of(NAME, "diff"), **{"from": first, "to": first})
    assert same["fields"] == []


async def test_the_record_of_all_templates_is_paged(book: BookClient, editor: BookClient) -> None:
    await editor.draft(description="x")
    newest = (await book.get("/v1/template-events", limit=1))["events"][0]
    assert (newest["template_name"], newest["action"]) == (NAME, "drafted")
    seen: list[str] = []
    query: dict[str, object] = {"limit": 5}
    while True:
        page = await book.get("/v1/template-events", **query)
        seen += [event["event_id"] for event in page["events"]]
        if page["next_before"] is None:
            break
        query["before"] = page["next_before"]
    assert len(seen) == len(set(seen)) == len(ALL) + 1


async def test_an_edit_by_sql_is_in_the_history_and_a_broken_one_says_why(
    book: BookClient, gateway: Running
) -> None:
    await raw_sql(
        gateway,
        "UPDATE prompt_templates SET sampling = :sampling, version = version + 1"
        " WHERE template_name = :name",
        name=NAME,
        sampling='{"temperature": 99}',
    )
    shown = await book.get(path_of(NAME))
    assert (shown["row"]["version"], shown["content"]) == (2, None)
    assert "temperature" in shown["row"]["problem"]
    history = await book.get(path_of(NAME, "versions"))
    assert history["versions"][0]["author"] == history["events"][0]["actor"] == "sql:local"
    version = await book.get(path_of(NAME, "versions", 2))
    assert (version["content"], version["version"]["problem"]) == (None, shown["row"]["problem"])
    file = await book.call("GET", path_of(NAME, "versions", 2), format="toml")
    assert "breaks a rule" in refused(file, 422, "INVALID_PAYLOAD")["error"]
    compared = await book.call("GET", path_of(NAME, "diff"))
    assert refused(compared, 422, "INVALID_PAYLOAD")["details"] == {"fields": ["to"]}


async def test_a_name_from_outside_is_found_percent_encoded(
    book: BookClient, gateway: Running
) -> None:
    name = "Ein Fuchs / 狐 50%"
    # A name from before there was a rule for names.
    await raw_sql(gateway, "DROP TRIGGER prompt_templates_check_insert")
    await raw_sql(
        gateway,
        "INSERT INTO prompt_templates (template_name, model_type, use_case, content_mode,"
        " system_prompt, token_limit) VALUES (:name, 'fox', 'chat', 'sfw', 'Be a fox.', 75)",
        name=name,
    )
    shown = await book.get(path_of(name))
    assert (shown["template_name"], shown["row"]["model_type"]) == (name, "fox")
    response = await book.call("GET", f"/v1/templates/{quote(name)}")
    # Without the encoding of its slash it is another path.
    refused_by_route = response.json()
    assert (response.status_code, refused_by_route["error_code"]) == (404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("module", "function"),
    [
        (templates_change, "template_from"),
        (templates_import, "read_templates"),
        (templates_read, "diff_templates"),
    ],
    ids=["a draft's fields", "a file", "a difference"],
)
async def test_long_texts_are_worked_on_beside_the_loop(
    editor: BookClient, monkeypatch: pytest.MonkeyPatch, module: ModuleType, function: str
) -> None:
    real = getattr(module, function)
    beside_loop: list[bool] = []

    def noting(*given: object, **named: object) -> object:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            beside_loop.append(True)
        else:
            beside_loop.append(False)
        return real(*given, **named)

    monkeypatch.setattr(module, function, noting)
    await editor.draft(description="another")
    await editor.get(path_of(NAME, "diff"))
    text = (await editor.call("GET", path_of(NAME, "versions", 1), format="toml")).text
    await editor.post("/v1/templates/import", {"text": text, "dry_run": True})
    assert beside_loop == [True]


@pytest.mark.parametrize("parse", ["template_version", "stored_template"])
async def test_many_templates_are_read_beside_the_loop(
    book: BookClient, monkeypatch: pytest.MonkeyPatch, parse: str
) -> None:
    real = getattr(template_reads, parse)
    in_loop: list[bool] = []

    def noting(row: object, **more: object) -> object:
        in_loop.append(threading.current_thread() is threading.main_thread())
        return real(row, **more)

    monkeypatch.setattr(template_reads, parse, noting)
    await book.get("/v1/templates")
    in_list, in_loop[:] = list(in_loop), []
    await book.history()
    seen = in_list if parse == "stored_template" else in_loop
    assert seen
    assert not any(seen)


async def test_a_lone_version_has_nothing_to_be_compared_with(book: BookClient) -> None:
    found = refused(await book.call("GET", path_of(NAME, "diff")), 404, "TEMPLATE_NOT_FOUND")
    assert found["details"]["fields"] == ["from"]
    assert found["suggested_action"] == "Name two versions, or draft a second one to compare."


@pytest.mark.parametrize("rest", ["", "/versions", "/diff"])
async def test_of_an_unknown_template_the_list_is_suggested(book: BookClient, rest: str) -> None:
    response = await book.call("GET", path_of("nobody") + rest)
    found = refused(response, 404, "TEMPLATE_NOT_FOUND")
    assert "GET /v1/templates," in found["suggested_action"]
    assert "'onbook templates list'" in found["suggested_action"]


async def test_of_an_unknown_version_the_versions_are_suggested(book: BookClient) -> None:
    for response in (
        await book.call("GET", path_of(NAME, "versions", 9)),
        await book.call("GET", path_of(NAME, "diff"), **{"from": 9}),
    ):
        found = refused(response, 404, "TEMPLATE_NOT_FOUND")
        assert "GET /v1/templates/NAME/versions," in found["suggested_action"]
