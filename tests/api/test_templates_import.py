"""Files of this and of other systems over HTTP: shown first, then drafted, all or none."""

import json

import pytest

from support import Running
from support_templates import NAME, BookClient, Json, key_with, path_of, refused

IMPORT = "/v1/templates/import"
DEFAULTS = {"model_type": "fox_model", "token_limit": 75, "token_unit": "clip", "max_tokens": 225}


@pytest.fixture
async def book(gateway: Running) -> BookClient:
    """The book for an editor who may read it too."""
    key = await key_with(gateway, "templates:edit", "templates:read", name="ed")
    return BookClient(gateway, key)


async def toml_of(book: BookClient, **changed: str) -> str:
    response = await book.call("GET", path_of(NAME, "versions", 1), format="toml")
    text = response.text
    for old, new in changed.items():
        assert old in text
        text = text.replace(old, new)
    return text


def langfuse(*names: str) -> str:
    prompts = [
        {
            "name": name,
            "version": 3,
            "type": "chat",
            "prompt": [
                {"role": "system", "content": f"You describe a {name} for {{{{season}}}}."},
                {"role": "user", "content": "{{prompt}}"},
            ],
            "config": {"temperature": 0.4, "response_format": "json"},
            "labels": ["production"],
            "tags": [],
        }
        for name in names
    ]
    return json.dumps({"data": prompts})


async def versions(book: BookClient, name: str = NAME) -> list[int]:
    response = await book.call("GET", path_of(name, "versions"))
    if response.status_code == 404:
        return []
    return [row["version"] for row in response.json()["versions"]]


async def test_a_file_that_came_out_goes_back_in_unchanged(book: BookClient) -> None:
    body = {"text": await toml_of(book), "reason": "the same again"}
    (item,) = (await book.post(IMPORT, body))["templates"]
    assert item == {
        "template_name": NAME,
        "outcome": "unchanged",
        "diff": [],
        "warnings": [],
        "version": 1,
    }
    assert await versions(book) == [1]


async def test_a_changed_file_is_shown_then_drafted_once(book: BookClient) -> None:
    text = await toml_of(book, **{"token_limit = 75": "token_limit = 70"})
    body: Json = {"text": text, "file_name": "a.toml", "reason": "shorter"}
    dry = await book.post(IMPORT, {**body, "dry_run": True})
    (item,) = dry["templates"]
    assert (dry["dry_run"], item["outcome"], item["version"]) == (True, "changed", None)
    assert [(diff["field"], diff["change"]) for diff in item["diff"]] == [
        ("token_limit", "changed")
    ]
    assert await versions(book) == [1]

    (item,) = (await book.post(IMPORT, body))["templates"]
    assert (item["outcome"], item["version"]) == ("drafted", 2)
    draft = await book.get(path_of(NAME, "versions", 2))
    assert (draft["version"]["reason"], draft["content"]["token_limit"]) == ("shorter", 70)
    assert draft["version"]["author"].startswith("key:ed (")

    (item,) = (await book.post(IMPORT, body))["templates"]
    assert (item["outcome"], item["version"]) == ("drafted_before", 2)
    assert await versions(book) == [2, 1]


async def test_a_file_from_an_older_version_is_a_conflict_even_in_a_dry_run(
    gateway: Running, book: BookClient
) -> None:
    text = await toml_of(book, **{"token_limit = 75": "token_limit = 70"})
    admin = BookClient(gateway)
    assert (await admin.activate(await admin.draft(description="faster"))).status_code == 200
    for more in ({"dry_run": True}, {"reason": "slower"}):
        refused(await book.call("POST", IMPORT, {"text": text, **more}), 409, "CONFLICT")
    assert await versions(book) == [2, 1]


async def test_prompts_of_another_tool_become_drafts(book: BookClient) -> None:
    body = {
        "text": langfuse("fox", "owl"),
        "file_name": "prompts.json",
        "defaults": DEFAULTS,
        "reason": "from the old system",
    }
    found = (await book.post(IMPORT, body))["templates"]
    assert [(item["template_name"], item["outcome"], item["version"]) for item in found] == [
        ("fox", "drafted", 1),
        ("owl", "drafted", 1),
    ]
    assert "response_format" in str(found[0]["warnings"])
    assert {diff["change"] for diff in found[0]["diff"]} == {"added"}
    content = (await book.get(path_of("owl", "versions", 1)))["content"]
    assert content["system_prompt"] == "You describe a owl for {{season}}."
    assert content["variables"] == [
        {"name": "season", "type": "string", "required": True, "default": None}
    ]
    assert (content["model_type"], content["sampling"]["temperature"]) == ("fox_model", 0.4)


async def test_of_several_prompts_all_or_none_are_drafted(book: BookClient) -> None:
    prompts = json.loads(langfuse("fox", "owl"))
    prompts["data"][1]["prompt"][0]["content"] = "{{prompt}} and {{prompt}}"
    body: Json = {"text": json.dumps(prompts), "defaults": DEFAULTS, "reason": "r"}
    refused(await book.call("POST", IMPORT, body), 422, "INVALID_PAYLOAD")
    # Two names there, one name here.
    body["text"] = langfuse("fox", "fox/two", "fox_two")
    found = refused(await book.call("POST", IMPORT, body), 422, "INVALID_PAYLOAD")
    assert found["details"]["fields"] == ["text"]
    # The second keeps the rules, but its own example breaks its limit.
    prompts = json.loads(langfuse("fox", "owl"))
    pair = [
        {"role": "user", "content": "an owl"},
        {"role": "assistant", "content": "owl " * 100},
    ]
    prompts["data"][1]["prompt"][1:1] = pair
    body = {"text": json.dumps(prompts), "defaults": DEFAULTS, "reason": "r"}
    found = refused(await book.call("POST", IMPORT, body), 422, "INVALID_PAYLOAD")
    assert found["details"]["fields"] == ["examples"]
    assert await versions(book, "fox") == []


@pytest.mark.parametrize(
    ("text", "file_name", "says"),
    [
        ("template_name = 'a'\nmodel_type = \n", "a.toml", "a.toml, line 2"),
        ("template_name = 'a'\ncolour = 'red'\n", "a.toml", "line 2: colour"),
        ("{", "a.json", "a.json"),
        ("[1, 2]", "a.json", "a.json"),
        ("anything at all", "notes.txt", "none of the formats"),
        ("[" * 100_000, "a.json", "a.json"),
        ("---\nmodel: [\n---\n{{prompt}}", "a.prompt", "a.prompt"),
    ],
)
async def test_a_bad_file_is_told_by_name_and_place(
    book: BookClient, text: str, file_name: str, says: str
) -> None:
    body = {"text": text, "file_name": file_name, "defaults": DEFAULTS, "reason": "r"}
    found = refused(await book.call("POST", IMPORT, body), 422, "INVALID_PAYLOAD")
    assert says in found["error"]


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"text"}),
        ({"text": "a", "file_name": "a.toml"}, {"reason"}),
        ({"text": "", "reason": "r"}, {"text"}),
        ({"text": "a", "reason": "r", "format": "yaml"}, {"format"}),
        ({"text": "a", "reason": "r", "defaults": {}}, None),
        ({"text": "a", "reason": "r", "defaults": {**DEFAULTS, "x": 1}}, {"defaults.x"}),
        ({"text": "a", "reason": "r", "dry_run": "yes"}, {"dry_run"}),
    ],
)
async def test_every_wrong_field_is_named(
    book: BookClient, body: Json, fields: set[str] | None
) -> None:
    found = refused(await book.call("POST", IMPORT, body), 422, "INVALID_PAYLOAD")
    needed = {f"defaults.{field}" for field in DEFAULTS}
    assert set(found["details"]["fields"]) == (needed if fields is None else fields)
