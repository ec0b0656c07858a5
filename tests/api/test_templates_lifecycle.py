"""A template's life over HTTP: drafted, tested, live, served, rolled back, all on record."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support import Running, running, settings_for
from support_templates import NAME, BookClient, answer, key_with, path_of, refused

CASE = {"name": "keeps the fox", "input": "a red fox", "must_keep": ["red fox"], "seed": 7}
FAILING = {**CASE, "name": "wants a zeppelin", "must_keep": ["zeppelin"]}


@pytest.fixture
def book(gateway: Running) -> BookClient:
    return BookClient(gateway)


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> dict[str, object]:
    """The settings of either database. Not async: starting a server takes a loop of its own."""
    if request.param == "sqlite":
        return {}
    return {"database_url": request.getfixturevalue("postgres_url")}


@pytest.fixture
async def either(database: dict[str, object], tmp_path: Path) -> AsyncIterator[BookClient]:
    async with running(settings_for(tmp_path, **database)) as gateway:
        yield BookClient(gateway)


async def test_from_a_draft_to_served_and_back_again(either: BookClient) -> None:
    editor = BookClient(either.gateway, await key_with(either.gateway, "templates:edit", name="ed"))
    before = await either.content()
    assert (await either.served())["template_version"] == 1

    template = {**before, "system_prompt": before["system_prompt"] + "\nBe brief.", "tests": [CASE]}
    body = {"template": template, "base_version": 1, "reason": "make it brief"}
    drafted = (await editor.post(path_of(NAME, "drafts"), body, 201))["version"]
    assert (drafted["version"], drafted["state"], drafted["base_version"]) == (2, "draft", 1)
    assert (await either.served())["template_version"] == 1

    tested = await editor.post(path_of(NAME, "test"), {"version": 2})
    assert (tested["version"], tested["passed"]) == (2, True)
    (case,) = tested["cases"]
    assert (case["name"], case["passed"], case["failures"]) == ("keeps the fox", True, [])
    assert "red fox" in case["output"]
    assert case["tokens"] > 0

    done = answer(await either.activate(2))
    assert (done["from_version"], done["to_version"]) == (1, 2)
    assert done["gate"] == {
        "passed": True,
        "cases": [{"name": "keeps the fox", "passed": True, "failures": []}],
        "override": None,
    }
    assert [gateway["acknowledged"] for gateway in done["gateways"]] == [True]
    served = await either.served()
    assert (served["template_version"], served["template_source"]) == (2, "database")
    assert await either.content() == template

    body = {"reason": "too brief", "wait_s": 20}
    back = await either.post(path_of(NAME, "rollback"), body)
    assert back["from_version"] == 2
    assert (back["version"]["version"], back["version"]["origin_version"]) == (3, 1)
    assert back["epoch"] > done["epoch"]
    assert (await either.served())["template_version"] == 3
    assert await either.content() == before

    history = await either.history()
    editor_is, admin_is = (event["actor"] for event in history["events"][2:0:-1])
    assert editor_is.startswith("key:ed (")
    assert admin_is.startswith("key:bootstrap (")
    assert [
        (row["version"], row["state"], row["author"], row["reason"]) for row in history["versions"]
    ] == [
        (3, "live", admin_is, "too brief"),
        (2, "retired", editor_is, "make it brief"),
        (1, "retired", "seed", "packaged template"),
    ]
    assert [
        (
            event["action"],
            event["actor"],
            event["reason"],
            event["from_version"],
            event["to_version"],
        )
        for event in history["events"]
    ] == [
        ("rolled_back", admin_is, "too brief", 2, 3),
        ("activated", admin_is, "it reads better", 1, 2),
        ("drafted", editor_is, "make it brief", 1, 2),
        ("created", "seed", "packaged template", None, 1),
    ]
    assert history["events"][1]["gate"] == done["gate"]


async def test_of_two_activations_at_once_one_wins(either: BookClient) -> None:
    versions = [await either.draft(description="one"), await either.draft(description="two")]
    answers = await asyncio.gather(*(either.activate(version) for version in versions))
    assert sorted(item.status_code for item in answers) == [200, 409]
    lost = next(item for item in answers if item.status_code == 409)
    refused(lost, 409, "CONFLICT")
    won = next(item for item in answers if item.status_code == 200).json()
    shown = await either.get(path_of(NAME))
    assert shown["row"]["version"] == won["to_version"]
    activated = [e for e in (await either.history())["events"] if e["action"] == "activated"]
    assert [event["to_version"] for event in activated] == [won["to_version"]]
    assert (await either.served())["template_version"] == won["to_version"]


async def test_a_failing_gate_refuses_and_an_override_is_recorded(book: BookClient) -> None:
    version = await book.draft(tests=[CASE, FAILING])
    tested = await book.post(path_of(NAME, "test"), {"version": version})
    assert [case["passed"] for case in tested["cases"]] == [True, False]
    assert tested["passed"] is False

    body = refused(await book.activate(version), 422, "GATE_FAILED")
    cases = {case["name"]: case for case in body["details"]["cases"]}
    assert cases["keeps the fox"]["passed"] is True
    assert cases["wants a zeppelin"]["passed"] is False
    assert cases["wants a zeppelin"]["failures"]
    assert "output" not in cases["wants a zeppelin"]
    assert "a red fox" not in str(body)
    assert (await book.get(path_of(NAME)))["row"]["version"] == 1
    assert (await book.history())["events"][0]["action"] == "drafted"

    done = answer(await book.activate(version, override_reason="the test is out of date"))
    assert done["gate"] == {"passed": False, "cases": [], "override": "the test is out of date"}
    event = (await book.history())["events"][0]
    assert (event["action"], event["gate"]) == ("activated", done["gate"])


async def test_a_split_is_visible_in_answers_and_ends_by_promotion(book: BookClient) -> None:
    assert (await book.served())["template_split"] is None
    version = await book.draft(description="the candidate")
    body = {"version": version, "percent": 50, "reason": "try it on half", "wait_s": 20}
    started = await book.post(path_of(NAME, "split"), body)
    assert [item["acknowledged"] for item in started["gateways"]] == [True]
    assert started["split"]["ended_at"] is None
    assert (await book.get(path_of(NAME)))["split"] == started["split"]

    arms: dict[str, int] = {}
    for user in range(24):
        served = await book.served(user_id=f"user {user}")
        split = served["template_split"]
        assert (split["candidate_version"], split["percent"]) == (version, 50)
        arms[split["arm"]] = served["template_version"]
    assert arms == {"candidate": version, "current": 1}

    refused(
        await book.call("POST", path_of(NAME, "split"), {**body, "percent": 10}), 409, "CONFLICT"
    )
    body = {"reason": "it is better", "wait_s": 20}
    ended = await book.post(path_of(NAME, "split/promote"), body)
    assert ended["split"]["outcome"] == "promoted"
    served = await book.served()
    assert (served["template_version"], served["template_split"]) == (version, None)
    actions = [event["action"] for event in (await book.history())["events"]]
    assert actions[:3] == ["split_promoted", "split_started", "drafted"]


async def test_an_aborted_split_leaves_everything_as_it_was(book: BookClient) -> None:
    version = await book.draft(description="the candidate")
    body = {"version": version, "percent": 99, "reason": "nearly all", "wait_s": 20}
    await book.post(path_of(NAME, "split"), body)
    body = {"reason": "it is worse", "wait_s": 20}
    ended = await book.post(path_of(NAME, "split/abort"), body)
    assert (ended["split"]["outcome"], ended["gate"]) == ("aborted", None)
    served = await book.served()
    assert (served["template_version"], served["template_split"]) == (1, None)
    refused(await book.call("POST", path_of(NAME, "split/abort"), body), 409, "CONFLICT")


async def test_a_deactivated_template_is_not_served_and_can_come_back(book: BookClient) -> None:
    body = {"reason": "under repair", "wait_s": 20}
    done = await book.post(path_of(NAME, "deactivate"), body)
    assert [item["acknowledged"] for item in done["gateways"]] == [True]
    assert (await book.served())["template_source"] == "hardcoded"
    refused(await book.call("POST", path_of(NAME, "deactivate"), body), 409, "CONFLICT")
    back = answer(await book.activate(1))
    assert back["epoch"] > done["epoch"]
    assert (await book.served())["template_source"] == "database"


async def test_a_discarded_draft_is_gone_but_not_its_events(book: BookClient) -> None:
    first, second = await book.draft(description="1"), await book.draft(description="2")
    in_body = await book.call("DELETE", path_of(NAME, "versions", first), {"reason": "a slip"})
    assert answer(in_body)["version"] == first
    in_query = await book.call("DELETE", path_of(NAME, "versions", second), reason="a slip too")
    assert answer(in_query)["version"] == second
    history = await book.history()
    assert [row["version"] for row in history["versions"]] == [1]
    assert [(event["action"], event["reason"]) for event in history["events"][:2]] == [
        ("discarded", "a slip too"),
        ("discarded", "a slip"),
    ]
    refused(
        await book.call("DELETE", path_of(NAME, "versions", 1), reason="no more"), 409, "CONFLICT"
    )


async def test_a_draft_from_an_older_version_is_a_conflict(book: BookClient) -> None:
    template = await book.content()
    answer(await book.activate(await book.draft(description="faster")))
    body = {"template": template, "base_version": 1, "reason": "slower"}
    refused(await book.call("POST", path_of(NAME, "drafts"), body), 409, "CONFLICT")
    refused(
        await book.activate(await book.draft(description="x"), expected_version=1), 409, "CONFLICT"
    )
    for action, more in (("rollback", {"to_version": 1}), ("split", {"version": 3, "percent": 5})):
        body = {"reason": "too late", "expected_version": 1, **more}
        refused(await book.call("POST", path_of(NAME, action), body), 409, "CONFLICT")
    assert [row["version"] for row in (await book.history())["versions"]] == [3, 2, 1]
    assert (await book.get(path_of(NAME)))["split"] is None


async def test_a_name_that_no_database_can_hold_is_404(either: BookClient) -> None:
    for method, rest, body in (
        ("GET", "", None),
        ("GET", "/versions", None),
        ("POST", "/deactivate", {"reason": "r"}),
    ):
        response = await either.call(method, f"/v1/templates/a%00b{rest}", body)
        refused(response, 404, "TEMPLATE_NOT_FOUND")


async def test_a_new_template_is_drafted_activated_and_served_by_name(book: BookClient) -> None:
    name = "fox.of-its_own"
    content = {**await book.content(), "template_name": name, "model_type": "fox_model"}
    body = {"template": content, "base_version": 0, "reason": "a fox of its own"}
    await book.post(path_of(name, "drafts"), body, 201)
    shown = await book.get(path_of(name))
    assert (shown["template_name"], shown["row"], shown["content"]) == (name, None, None)
    assert [draft["version"] for draft in shown["drafts"]] == [1]
    assert answer(await book.activate(1, name))["from_version"] is None
    served = await book.served(template_name=name)
    assert (served["template_name"], served["template_version"]) == (name, 1)


async def test_the_gateway_that_made_a_change_serves_it_with_its_answer(gateway: Running) -> None:
    book = BookClient(gateway)
    version = await book.draft(system_prompt="Describe the picture.")
    answered = await book.activate(version, wait_s=0)
    assert answered.status_code == 200
    assert (await book.served())["template_version"] == version
