from pathlib import Path
from typing import cast

import pytest

from onbook.wire.gateway_api import EnhancementMetadata
from server import query
from support import ADMIN_KEY, Running, metadata, running, settings_for

SEED_REQUEST = {
    "prompt": "a cat in a garden",
    "jobType": "sdxl_image",
    "quality": "high",
    "selectedModel": "qwen_instruct",
    "user_id": "u1",
}


def rows(data_dir: Path, sql: str) -> list[tuple[object, ...]]:
    return query(data_dir, sql)


async def test_the_seed_request_is_answered_with_the_whole_metadata(gateway: Running) -> None:
    response = await gateway.enhance(SEED_REQUEST)
    body = response.json()
    data = metadata(response)
    assert body["success"] is True
    assert body["original_prompt"] == "a cat in a garden"
    assert body["enhanced_prompt"].startswith("a cat in a garden")
    assert body["enhancement_strategy"] == "template"
    assert set(data) == set(EnhancementMetadata.__struct_fields__)
    assert data["template_name"] == "enhancement_sdxl_sfw"
    assert data["template_source"] == "database"
    assert (data["fallback_level"], data["attempts"]) == (0, 1)
    assert (data["job_type"], data["format"], data["quality"]) == (
        "sdxl_image_high",
        "image",
        "high",
    )
    assert (data["token_limit"], data["tokenizer"]) == (75, "clip")
    assert data["original_length"] == len("a cat in a garden")
    assert data["enhanced_length"] == len(body["enhanced_prompt"])
    assert data["worker_id"] == gateway.worker.app.info.worker_id
    assert data["model_used"] == "echo"
    integrity = cast("dict[str, object]", data["integrity"])
    assert integrity["status"] == "verified"
    assert integrity["receipt_id"]


async def test_every_answer_has_its_row_before_it_is_sent(gateway: Running) -> None:
    response = await gateway.enhance(SEED_REQUEST)
    request_id = response.json()["request_id"]
    assert response.headers["x-request-id"] == request_id
    found = rows(
        gateway.settings.data_dir,
        "SELECT request_id, template_name, fallback_level, user_id, integrity_status, token_count "
        "FROM enhancement_logs",
    )
    data = metadata(response)
    assert found == [(request_id, "enhancement_sdxl_sfw", 0, "u1", "verified", data["token_count"])]
    texts = rows(gateway.settings.data_dir, "SELECT original, enhanced FROM enhancement_texts")
    assert texts == [("a cat in a garden", response.json()["enhanced_prompt"])]


async def test_the_second_use_of_a_template_is_a_cache_hit(gateway: Running) -> None:
    first, second = [metadata(await gateway.enhance(SEED_REQUEST)) for _ in range(2)]
    assert (first["cache_hit"], second["cache_hit"]) == (False, True)


@pytest.mark.parametrize(
    ("job_type", "target", "media_format", "template", "tokenizer"),
    [
        ("sdxl_image_fast", "sdxl", "image", "enhancement_sdxl_sfw", "clip"),
        ("wan_video", "wan", "video", "enhancement_wan_sfw", "qwen"),
        ("video_high", "wan", "video", "enhancement_wan_sfw", "qwen"),
        ("image_fast", "wan", "image", "enhancement_wan_sfw", "qwen"),
        ("image7b_high_enhanced", "wan", "image", "enhancement_wan_sfw", "qwen"),
        ("video7b_fast_enhanced", "wan", "video", "enhancement_wan_sfw", "qwen"),
    ],
)
async def test_the_job_type_decides_target_template_and_tokenizer(
    gateway: Running, job_type: str, target: str, media_format: str, template: str, tokenizer: str
) -> None:
    data = metadata(await gateway.enhance({"prompt": "a boat at sea", "jobType": job_type}))
    assert (data["target"], data["format"]) == (target, media_format)
    assert (data["template_name"], data["tokenizer"]) == (template, tokenizer)


async def test_a_chosen_model_without_a_template_for_the_target_is_told(
    gateway: Running,
) -> None:
    body = {"prompt": "a boat at sea", "jobType": "wan_video"}
    default = metadata(await gateway.enhance(body))
    chosen = metadata(await gateway.enhance({**body, "selectedModel": "qwen_instruct"}))
    assert default["model_type"] == chosen["model_type"] == "qwen_base"
    assert default["warnings"] == []
    assert any("qwen_base" in warning for warning in cast("list[str]", chosen["warnings"]))


async def test_a_target_alone_decides_the_job(gateway: Running) -> None:
    data = metadata(await gateway.enhance({"prompt": "a boat at sea", "target": "wan"}))
    assert (data["job_type"], data["format"]) == ("wan_video_fast", "video")
    body = {"prompt": "a boat at sea", "target": "wan", "jobType": "sdxl_image"}
    both = metadata(await gateway.enhance(body))
    assert both["target"] == "wan"
    assert any("sdxl_image_fast" in warning for warning in cast("list[str]", both["warnings"]))


async def test_the_negative_prompt_does_not_fight_quoted_text(gateway: Running) -> None:
    plain = (await gateway.enhance({"prompt": "a poster"})).json()["negative_prompt"]
    quoted = (await gateway.enhance({"prompt": 'a poster with "JAZZ"'})).json()["negative_prompt"]
    assert "text" in plain.split(", ")
    assert "text" not in quoted.split(", ")
    assert "blurry" in quoted.split(", ")


async def test_one_seed_gives_other_choices_to_other_prompts(gateway: Running) -> None:
    grammars = {
        (await gateway.enhance({"prompt": prompt, "seed": 7, "dry_run": True}))
        .json()["grammar"]
        .split("\n", 1)[1]
        for prompt in ("a boat", "a tree", "a house")
    }
    assert len(grammars) == 3


async def test_generator_syntax_comes_back_verbatim(gateway: Running) -> None:
    prompt = "three red cats, <lora:x:0.8>, (sharp eyes:1.2) --ar 16:9"
    response = await gateway.enhance({"prompt": prompt})
    enhanced = response.json()["enhanced_prompt"]
    for kept in ("three red cats", "<lora:x:0.8>", "(sharp eyes:1.2)", "--ar 16:9"):
        assert kept in enhanced
    assert enhanced.endswith("--ar 16:9")


async def test_both_spellings_are_accepted(gateway: Running) -> None:
    body = {"prompt": "a boat", "job_type": "wan_video", "content_type": "sfw", "userId": "u2"}
    data = metadata(await gateway.enhance(body))
    assert data["job_type"] == "wan_video_fast"
    found = rows(gateway.settings.data_dir, "SELECT user_id FROM enhancement_logs")
    assert found == [("u2",)]


async def test_a_seed_is_used_zero_included(gateway: Running) -> None:
    data = metadata(await gateway.enhance({"prompt": "a boat", "seed": 0}))
    assert data["seed"] == 0


async def test_a_regeneration_draws_another_seed(gateway: Running) -> None:
    data = metadata(await gateway.enhance({"prompt": "a boat", "seed": 5, "regeneration": True}))
    assert data["seed"] != 5


async def test_the_negative_prompt_joins_the_templates(gateway: Running) -> None:
    response = await gateway.enhance({"prompt": "a boat", "negative_prompt": "fog"})
    assert response.json()["negative_prompt"].endswith("fog")


async def test_a_dry_run_shows_the_messages_and_asks_no_worker(gateway: Running) -> None:
    response = await gateway.enhance({"prompt": "a boat at sea", "dry_run": True})
    body = response.json()
    assert response.status_code == 200
    assert body["dry_run"] is True
    assert body["messages"][-1] == {"role": "user", "content": "a boat at sea"}
    assert rows(gateway.settings.data_dir, "SELECT count(*) FROM enhancement_logs") == [(0,)]


async def test_a_stream_ends_with_the_whole_answer(gateway: Running) -> None:
    response = await gateway.enhance({"prompt": "a boat at sea", "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    events = [part.split("\n")[0] for part in response.text.strip().split("\n\n")]
    assert events == ["event: meta", "event: done"]
    assert '"enhanced_prompt":"a boat at sea' in response.text


async def test_a_stream_can_end_with_an_error(gateway: Running) -> None:
    response = await gateway.enhance(
        {"prompt": "a boat", "stream": True, "template_name": "no_such_template"}
    )
    assert "event: error" in response.text
    assert "TEMPLATE_NOT_FOUND" in response.text


async def test_a_prompt_that_fills_the_limit_is_cut_to_it_without_a_model(
    gateway: Running,
) -> None:
    prompt = ", ".join(f"a {colour} bird on a branch" for colour in COLOURS)
    data = metadata(await gateway.enhance({"prompt": prompt}))
    assert cast("int", data["token_count"]) <= 75
    assert data["fallback_level"] == 3
    assert data["compression_applied"] is True
    assert data["compression_cuts"]
    assert data["warnings"]


COLOURS = ("red", "blue", "green", "grey", "white", "black", "brown", "golden", "pink", "orange",
           "violet", "silver", "teal", "ochre", "amber", "ivory")  # fmt: skip


async def test_an_edit_in_the_database_is_served_without_a_restart(gateway: Running) -> None:
    await gateway.enhance(SEED_REQUEST)
    query(
        gateway.settings.data_dir,
        "UPDATE prompt_templates SET system_prompt = 'Another text.', version = version + 1 "
        "WHERE template_name = 'enhancement_sdxl_sfw'",
    )
    await gateway.service.book.refresh()
    body = (await gateway.enhance({**SEED_REQUEST, "dry_run": True})).json()
    assert body["messages"][0] == {"role": "system", "content": "Another text."}
    assert body["template_version"] == 2


async def test_callers_need_a_key_and_the_scope(gateway: Running) -> None:
    http = gateway.http
    path = "/functions/v1/enhance-prompt"
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"apikey": "wrong"}):
        response = await http.post(path, json=SEED_REQUEST, headers=headers)
        assert response.status_code == 401
        assert response.json()["error_code"] == "AUTH_REQUIRED"
        assert response.headers["www-authenticate"] == "Bearer"
    ok = await http.post(path, json=SEED_REQUEST, headers={"apikey": ADMIN_KEY})
    assert ok.status_code == 200


async def test_a_page_on_another_origin_may_call(gateway: Running) -> None:
    path = "/functions/v1/enhance-prompt"
    preflight = await gateway.http.options(
        path,
        headers={
            "Origin": "https://app.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization, x-client-info, apikey, content-type",
        },
    )
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert "apikey" in preflight.headers["access-control-allow-headers"]
    assert (await gateway.http.options(path)).status_code == 204
    answer = await gateway.enhance(SEED_REQUEST, Origin="https://app.example")
    assert answer.headers["access-control-allow-origin"] == "*"


async def test_origins_are_a_setting(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path, cors_origins="https://app.example")) as started:
        allowed = await started.enhance(SEED_REQUEST, Origin="https://app.example")
        other = await started.enhance(SEED_REQUEST, Origin="https://evil.example")
    assert allowed.headers["access-control-allow-origin"] == "https://app.example"
    assert "access-control-allow-origin" not in other.headers


async def test_the_operators_routes_answer(gateway: Running) -> None:
    await gateway.enhance(SEED_REQUEST)
    http = gateway.http
    assert (await http.get("/healthz")).json()["status"] == "ok"
    ready = (await http.get("/readyz")).json()
    assert (ready["status"], ready["database"], ready["worker"]) == ("ready", "ok", "ok")
    assert ready["templates"]["active"] == 12
    metrics = (await http.get("/metrics")).text
    assert 'onbook_requests_total{function="enhance-prompt",outcome="ok"} 1.0' in metrics
    assert 'onbook_fallback_level_total{level="0"} 1.0' in metrics


async def test_metrics_beyond_loopback_need_a_key(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, host="0.0.0.0")  # noqa: S104 - nothing listens here
    async with running(settings) as started:
        closed = await started.http.get("/metrics")
        opened = await started.http.get(
            "/metrics", headers={"Authorization": f"Bearer {ADMIN_KEY}"}
        )
    assert (closed.status_code, opened.status_code) == (401, 200)


async def test_the_worker_answers_on_the_same_port(gateway: Running) -> None:
    info = (await gateway.http.get("/worker/info")).json()
    assert info["pure_inference"] is True
    answer = await gateway.http.post(
        "/enhance",
        json={
            "messages": [
                {"role": "system", "content": "Test"},
                {"role": "user", "content": "Hello"},
            ],
            "max_tokens": 100,
        },
    )
    assert answer.json()["enhanced_prompt"] == "Hello"


async def test_unknown_routes_and_methods_get_the_error_body(gateway: Running) -> None:
    missing = await gateway.http.get("/nowhere")
    wrong = await gateway.http.get("/functions/v1/enhance-prompt")
    assert (missing.status_code, missing.json()["error_code"]) == (404, "NOT_FOUND")
    assert (wrong.status_code, wrong.json()["error_code"]) == (405, "METHOD_NOT_ALLOWED")
    assert set(missing.json()) == PROBLEM_FIELDS


PROBLEM_FIELDS = {
    "success",
    "error",
    "error_code",
    "details",
    "suggested_action",
    "request_id",
}
