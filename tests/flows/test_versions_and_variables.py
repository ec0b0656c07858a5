"""Through the whole service: pinned versions, splits and variables, in the answer and the log."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from onbook.domain.templates import Template, Variable
from onbook.flows.access_keys import issue_key
from onbook.flows.manage_templates import activate_template, draft_template
from onbook.flows.split_traffic import start_split
from server import query
from support import FakeWorker, Running, completion, metadata, running, settings_for

PROMPT = "a cat in a garden"
NAME = "enhancement_sdxl_sfw"
FIELDS = {"template_name": NAME}


def worker() -> FakeWorker:
    return FakeWorker(lambda _endpoint, _request: completion(f"{PROMPT}, soft light"))


async def drafted(started: Running, **options: object) -> int:
    service = started.service
    live = service.book.named(NAME, "sfw", ("enhancement",)).template
    changed: Template = replace(live, **options)  # type: ignore[arg-type]  # the fields are given by name
    made = await draft_template(changed, author="ann", reason="new", editing=service.editing)
    return made.version


async def gone_live(started: Running, **options: object) -> int:
    version = await drafted(started, **options)
    service = started.service
    await activate_template(NAME, version, author="ann", reason="new", editing=service.editing)
    await service.book.refresh()
    return version


async def key_with(started: Running, *scopes: str) -> dict[str, str]:
    service = started.service
    plain, _ = await issue_key(
        "test",
        scopes,
        store=service.key_store,
        pepper=service.pepper,
        clock=service.enhance.clock,
        ids=service.enhance.ids,
    )
    return {"Authorization": f"Bearer {plain}"}


async def test_a_named_version_serves_whatever_is_live(tmp_path: Path) -> None:
    writer = worker()
    async with running(settings_for(tmp_path), writer) as started:
        await gone_live(started, system_prompt="Second.", grammar=None)
        draft = await drafted(started, system_prompt="Third.", grammar=None)
        pins = [
            await started.enhance({"prompt": PROMPT, "template_version": number, **FIELDS})
            for number in (1, 2, draft)
        ]
        user = await key_with(started, "enhance")
        hidden = await started.enhance(
            {"prompt": PROMPT, "template_version": draft, **FIELDS}, **user
        )
        missing = await started.enhance({"prompt": PROMPT, "template_version": 99, **FIELDS})
        plain = await started.enhance({"prompt": PROMPT})
    assert [metadata(pin)["template_version"] for pin in (*pins, plain)] == [1, 2, draft, 2]
    systems = [request.messages[0].content for request in writer.requests]
    assert systems[1:] == ["Second.", "Third.", "Second."]
    for refused in (hidden, missing):
        assert (refused.status_code, refused.json()["error_code"]) == (404, "TEMPLATE_NOT_FOUND")


async def test_without_the_database_a_known_version_serves_and_another_does_not(
    tmp_path: Path,
) -> None:
    async with running(settings_for(tmp_path), worker()) as started:
        await gone_live(started, system_prompt="Second.", grammar=None)
        await gone_live(started, system_prompt="Third.", grammar=None)
        await started.enhance({"prompt": PROMPT, "template_version": 1, **FIELDS})
        (tmp_path / "onbook.db").rename(tmp_path / "away.db")
        (tmp_path / "onbook.db").mkdir()
        await started.service.book.refresh()
        known = await started.enhance({"prompt": PROMPT, "template_version": 1, **FIELDS})
        other = await started.enhance({"prompt": PROMPT, "template_version": 2, **FIELDS})
        (tmp_path / "onbook.db").rmdir()
        (tmp_path / "away.db").rename(tmp_path / "onbook.db")
    data = metadata(known)
    assert (data["template_version"], data["template_source"]) == (1, "system_cache")
    assert data["fallback_level"] == 1
    assert data["warnings"]
    assert (other.status_code, other.json()["error_code"]) == (503, "DATABASE_UNAVAILABLE")


async def test_a_split_is_in_the_answer_the_dry_run_and_the_log(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path), worker()) as started:
        service = started.service
        candidate = await drafted(started, system_prompt="Second.", grammar=None)
        await start_split(
            NAME, candidate, percent=50, author="ann", reason="try", editing=service.editing
        )
        await service.book.refresh()
        answers = {
            user: await started.enhance({"prompt": PROMPT, "user_id": user})
            for user in (f"user {number}" for number in range(12))
        }
        again = await started.enhance({"prompt": PROMPT, "user_id": "user 0"})
        pinned = await started.enhance({"prompt": PROMPT, "template_version": 1, **FIELDS})
        dry = await started.enhance({"prompt": PROMPT, "user_id": "user 0", "dry_run": True})
        named = await started.enhance({"prompt": PROMPT, "user_id": "user 0", **FIELDS})
    arms = {}
    for user, answer in answers.items():
        data = metadata(answer)
        split = cast("dict[str, object]", data["template_split"])
        assert (split["candidate_version"], split["percent"]) == (candidate, 50)
        expected = candidate if split["arm"] == "candidate" else 1
        assert data["template_version"] == expected
        arms[user] = split["arm"]
    assert set(arms.values()) == {"candidate", "current"}
    for response in (again, named):
        assert metadata(response)["template_split"] == metadata(answers["user 0"])["template_split"]
    assert dry.json()["template_split"] == metadata(again)["template_split"]
    assert metadata(pinned)["template_split"] is None
    logged = query(
        tmp_path,
        "SELECT user_id, template_split FROM enhancement_logs WHERE user_id <> 'user 0'",
    )
    assert {row[0]: row[1] for row in logged} == {
        user: arm for user, arm in arms.items() if user != "user 0"
    }
    assert query(tmp_path, "SELECT template_split FROM enhancement_logs WHERE user_id IS NULL") == [
        (None,)
    ]


async def test_the_row_of_a_failure_tells_the_side_too(tmp_path: Path) -> None:
    writer = FakeWorker(lambda _endpoint, _request: completion(""))
    async with running(settings_for(tmp_path), writer) as started:
        service = started.service
        candidate = await drafted(started, system_prompt="Second.", grammar=None)
        await start_split(
            NAME, candidate, percent=99, author="ann", reason="try", editing=service.editing
        )
        await service.book.refresh()
        for number in range(3):
            await started.enhance(
                {"prompt": PROMPT, "allow_fallback": False, "user_id": f"u{number}"}
            )
    rows = query(tmp_path, "SELECT template_split, template_version FROM enhancement_logs")
    assert len(rows) == 3
    assert set(rows) <= {("candidate", candidate), ("current", 1)}
    assert ("candidate", candidate) in rows


async def with_variables(started: Running) -> None:
    await gone_live(
        started,
        system_prompt="In the style of {{style}}, {{count}} times.",
        grammar=None,
        variables=(
            Variable("style", required=True),
            Variable("count", "integer", required=False, default=2),
        ),
    )


async def test_variables_fill_the_system_prompt(tmp_path: Path) -> None:
    writer = worker()
    async with running(settings_for(tmp_path), writer) as started:
        await with_variables(started)
        style = "{{count}} old masters"
        await started.enhance({"prompt": PROMPT, "variables": {"style": style, "count": 3}})
        await started.enhance({"prompt": PROMPT, "variables": {"style": "noir"}})
    assert [request.messages[0].content for request in writer.requests] == [
        "In the style of {{count}} old masters, 3 times.",
        "In the style of noir, 2 times.",
    ]


@pytest.mark.parametrize(
    ("variables", "field"),
    [
        ({}, "variables.style"),
        ({"style": "a", "stranger": "b"}, "variables.stranger"),
        ({"style": "a", "count": "three"}, "variables.count"),
        ({"style": "a", "count": True}, "variables.count"),
        ({"style": 5}, "variables.style"),
        ({"style": None}, "variables.style"),
        ({"style": "a" * 2001}, "variables.style"),
        ({"style": "a\x00"}, "variables.style"),
        ({"style": ["a"]}, "variables.style"),
        ({"style": "a", "not a name": "b"}, "variables"),
        ({"style": "a"} | {f"v{n}": n for n in range(50)}, "variables"),
        ("style", "variables"),
    ],
)
async def test_a_variable_that_does_not_fit_is_named(
    tmp_path: Path, variables: object, field: str
) -> None:
    writer = worker()
    async with running(settings_for(tmp_path), writer) as started:
        await with_variables(started)
        for dry_run in (False, True):
            response = await started.enhance(
                {"prompt": PROMPT, "variables": variables, "dry_run": dry_run}
            )
            assert (response.status_code, response.json()["error_code"]) == (422, "INVALID_PAYLOAD")
            assert response.json()["details"]["fields"] == [field]
            assert field in response.json()["error"]
            assert "not a name" not in response.text
    assert writer.requests == []


async def test_what_a_variable_says_decides_the_mode_as_the_prompt_does(tmp_path: Path) -> None:
    writer = worker()
    settings = settings_for(tmp_path, content_ceiling="nsfw")
    async with running(settings, writer) as started:
        await with_variables(started)
        sfw_key = await key_with(started, "enhance")
        bodies = [
            {"prompt": PROMPT, "variables": {"style": "nude bodies"}},
            {"prompt": PROMPT, "variables": {"style": "a nude child"}},
            {"prompt": "a child in a garden", "variables": {"style": "nude photography"}},
            {
                "prompt": "a child in a garden",
                "contentType": "nsfw",
                "variables": {"style": "noir"},
            },
            {
                "prompt": PROMPT,
                "contentType": "nsfw",
                "variables": {"style": "children's books, about a child"},
            },
        ]
        nsfw = await started.enhance(bodies[0], **sfw_key)
        refused = [await started.enhance(body) for body in bodies[1:]]
        # Where nsfw is allowed, such a variable asks for the nsfw template.
        dry = await started.enhance({**bodies[0], "dry_run": True})
    assert (nsfw.status_code, nsfw.json()["error_code"]) == (403, "CONTENT_MODE_NOT_ALLOWED")
    codes = [answer.json().get("error_code") for answer in refused]
    assert codes == ["CONTENT_REFUSED"] * 4
    assert writer.requests == []
    assert dry.json()["details"]["fields"] == ["variables.style"], (
        "the packaged nsfw template declares no variable"
    )
    stored = query(tmp_path, "SELECT original FROM enhancement_texts WHERE original <> ''")
    assert stored == [(PROMPT,)], "the refused ones are not stored"


async def test_a_number_is_judged_with_its_name_and_in_the_words_of_the_template(
    tmp_path: Path,
) -> None:
    writer = worker()
    settings = settings_for(tmp_path, content_ceiling="nsfw")
    # sfw was asked for: the sfw template serves what the user wrote.
    body: dict[str, object] = {"prompt": "a nude person", "contentType": "sfw"}
    async with running(settings, writer) as started:
        for name in ("age", "n"):
            await gone_live(
                started,
                system_prompt=f"The subject is {{{{{name}}}}} years old.",
                grammar=None,
                variables=(Variable(name, "integer", required=True),),
            )
            for dry_run in (False, True):
                for value in (12, 30):
                    answer = await started.enhance(
                        {**body, "variables": {name: value}, "dry_run": dry_run}
                    )
                    if value == 30:
                        assert answer.status_code == 200, answer.text
                    else:
                        assert answer.json()["error_code"] == "CONTENT_REFUSED"
                        assert answer.json()["details"]["categories"] == ["minor", "sexual"]
    assert [request.messages[0].content for request in writer.requests] == [
        "The subject is 30 years old."
    ] * 2
    rows = query(
        tmp_path,
        "SELECT original, json_extract(decision, '$.mode') FROM enhancement_logs JOIN"
        " enhancement_texts USING (request_id) WHERE content_mode = 'refused'",
    )
    assert rows == [("", "refused")] * 2
