from pathlib import Path

import httpx

from onbook.flows.access_keys import issue_key
from server import query
from support import ADMIN_KEY, Running, running, settings_for

ROUTE = "/functions/v1/refresh-prompt-cache"
EDIT = (
    "UPDATE prompt_templates SET system_prompt = system_prompt || ' Edited.', "
    "version = version + 1 WHERE template_name = 'enhancement_sdxl_sfw'"
)


async def refresh(started: Running, key: str = ADMIN_KEY, body: bytes = b"") -> httpx.Response:
    return await started.http.post(ROUTE, content=body, headers={"Authorization": f"Bearer {key}"})


async def test_it_tells_what_was_read_and_what_changed(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path)) as started:
        # Only what is asked for is read here: the service no longer looks by itself.
        for task in started.service._tasks:
            task.cancel()
        before = (await refresh(started)).json()
        again = (await refresh(started, body=b"{}")).json()
        query(tmp_path, EDIT)
        after = (await refresh(started)).json()
        ready = (await started.http.get("/health")).json()
    assert (before["success"], before["source"], before["active"]) == (True, "database", 12)
    assert again["changed"] == []
    assert again["sha256_before"] == again["sha256_after"] == before["sha256_after"]
    assert after["changed"] == ["enhancement_sdxl_sfw"]
    assert after["sha256_before"] == before["sha256_after"] != after["sha256_after"]
    assert after["epoch"] > before["epoch"]
    assert after["duration_ms"] > 0
    assert after["age_seconds"] < 5
    assert ready["gateway"] == {
        "id": after["gateway_id"],
        "name": started.service.gateway.name,
    }
    assert (ready["templates"]["epoch"], ready["templates"]["sha256"]) == (
        after["epoch"],
        after["sha256_after"],
    )
    assert [(seen["gateway_id"], seen["up_to_date"]) for seen in after["gateways"]] == [
        (after["gateway_id"], True)
    ]


async def test_another_gateway_that_is_behind_is_shown_as_such(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path)) as started:
        await started.service.store.acknowledge(
            "another", name="host:1", epoch=0, active_sha256="0" * 64
        )
        query(
            tmp_path,
            "INSERT INTO gateways SELECT 'silent', 'host:2', 0, active_sha256, "
            "'2020-01-01T00:00:00.000000' FROM gateways WHERE gateway_id = 'another'",
        )
        seen = {item["name"]: item for item in (await refresh(started)).json()["gateways"]}
    assert seen["host:1"]["up_to_date"] is False
    assert 0 <= seen["host:1"]["seen_s_ago"] < 15
    # Long silent: it is no gateway that anybody waits for.
    assert "host:2" not in seen


async def test_a_template_that_breaks_a_rule_is_named_by_health(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path)) as started:
        query(
            tmp_path,
            "UPDATE prompt_templates SET sampling = '{\"heat\": 1}' "
            "WHERE template_name = 'enhancement_sdxl_sfw'",
        )
        answer = await refresh(started)
        ready = (await started.http.get("/readyz")).json()
    assert answer.status_code == 200
    assert ready["templates"]["stale"] == ["enhancement_sdxl_sfw"]
    assert ready["templates"]["active"] == 12


async def test_without_the_database_it_says_what_is_served(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path)) as started:
        (tmp_path / "onbook.db").rename(tmp_path / "away.db")
        answer = await refresh(started)
        ready = (await started.http.get("/readyz")).json()
    problem = answer.json()
    assert (answer.status_code, problem["error_code"]) == (503, "DATABASE_UNAVAILABLE")
    assert problem["details"]["source"] == ready["templates"]["source"] == "system_cache"
    assert problem["details"]["sha256"] == ready["templates"]["sha256"]
    assert problem["details"]["active"] == 12


async def test_it_takes_the_admin_scope_and_an_empty_object(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path)) as started:
        service = started.service
        plain, _ = await issue_key(
            "activator",
            ["templates:activate", "templates:read"],
            store=service.key_store,
            pepper=service.pepper,
            clock=service.enhance.clock,
            ids=service.enhance.ids,
        )
        forbidden = await refresh(started, key=plain)
        unknown = await refresh(started, body=b'{"full": true}')
        malformed = await refresh(started, body=b"{")
        unsigned = await started.http.post(ROUTE)
    assert (forbidden.status_code, forbidden.json()["details"]) == (
        403,
        {"scope_required": "admin"},
    )
    assert (unknown.status_code, unknown.json()["details"]["fields"]) == (422, ["full"])
    assert malformed.status_code == 400
    assert unsigned.status_code == 401
