import threading
from dataclasses import replace
from pathlib import Path

from onbook.domain.content_mode.decision import ContentModeDetector, Detection, DetectorIdentity
from server import query
from support import Running, running, settings_for

# Short phrases that name the class; nothing explicit.
ADULT = "nude woman, boudoir photograph"
REFUSED = "nude child"


async def test_nsfw_text_is_refused_by_a_sfw_deployment(gateway: Running) -> None:
    for body in (
        {"prompt": ADULT},
        {"prompt": ADULT, "contentType": "sfw"},
        {"prompt": "a boat", "contentType": "nsfw"},
    ):
        response = await gateway.enhance(body)
        assert response.status_code == 403
        assert response.json()["error_code"] == "CONTENT_MODE_NOT_ALLOWED"


async def test_nsfw_text_gets_the_nsfw_template_where_it_is_allowed(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path, content_ceiling="nsfw")) as started:
        detected = (await started.enhance({"prompt": ADULT})).json()["enhancement_metadata"]
        chosen = (await started.enhance({"prompt": ADULT, "contentType": "sfw"})).json()
        plain = (await started.enhance({"prompt": "a boat"})).json()["enhancement_metadata"]
    assert detected["template_name"] == "enhancement_sdxl_nsfw"
    assert detected["content_decision"]["source"] == "detected"
    assert chosen["enhancement_metadata"]["template_name"] == "enhancement_sdxl_sfw"
    assert chosen["enhancement_metadata"]["content_decision"]["source"] == "caller"
    assert plain["template_name"] == "enhancement_sdxl_sfw"


async def test_the_refused_class_is_refused_for_everyone_and_not_stored(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path, content_ceiling="nsfw")) as started:
        for body in (
            {"prompt": REFUSED},
            {"prompt": REFUSED, "contentType": "nsfw"},
            {"prompt": REFUSED, "contentType": "sfw"},
            {"prompt": REFUSED, "dry_run": True},
            {"prompt": "a boat", "negative_prompt": REFUSED},
            {"prompt": "a child at a birthday party", "contentType": "nsfw"},
            {"prompt": "a schoolgirl reading a book", "contentType": "nsfw"},
            {"prompt": "a 15 year old boy", "contentType": "nsfw", "dry_run": True},
        ):
            response = await started.enhance(body)
            assert response.status_code == 422
            assert response.json()["error_code"] == "CONTENT_REFUSED"
            assert REFUSED not in response.text
        worker = (await started.http.get("/metrics")).text
    assert "onbook_worker_requests_total{" not in worker
    modes = query(tmp_path, "SELECT content_mode, error_code FROM enhancement_logs")
    assert set(modes) == {("refused", "CONTENT_REFUSED")}
    texts = query(tmp_path, "SELECT original, messages, enhanced FROM enhancement_texts")
    assert set(texts) == {("", None, None)}
    assert REFUSED.encode() not in (tmp_path / "onbook.db").read_bytes()


async def test_a_key_without_nsfw_keeps_a_nsfw_deployment_sfw(tmp_path: Path) -> None:
    from onbook.flows.access_keys import issue_key  # noqa: PLC0415 - only this test issues keys

    async with running(settings_for(tmp_path, content_ceiling="nsfw")) as started:
        service = started.service
        key, _ = await issue_key(
            "front end",
            ["enhance"],
            store=service.key_store,
            pepper=service.pepper,
            clock=service.enhance.clock,
            ids=service.enhance.ids,
        )
        response = await started.enhance({"prompt": ADULT}, Authorization=f"Bearer {key}")
        dry = await started.enhance(
            {"prompt": "a boat", "dry_run": True}, Authorization=f"Bearer {key}"
        )
    assert (response.status_code, dry.status_code) == (403, 403)
    assert response.json()["error_code"] == "CONTENT_MODE_NOT_ALLOWED"
    assert dry.json()["error_code"] == "FORBIDDEN"


class NotingDetector:
    """Judges as ``inner`` does and notes whether that was in the loop's thread."""

    def __init__(self, inner: ContentModeDetector) -> None:
        self._inner = inner
        self.in_loop: list[bool] = []

    @property
    def identity(self) -> DetectorIdentity:
        return self._inner.identity

    def detect(self, text: str) -> Detection:
        self.in_loop.append(threading.current_thread() is threading.main_thread())
        return self._inner.detect(text)


async def test_long_texts_of_a_dry_run_are_judged_beside_the_loop(gateway: Running) -> None:
    services = gateway.service.enhance
    detector = NotingDetector(services.detector)
    gateway.service.enhance = replace(services, detector=detector)
    response = await gateway.enhance({"prompt": "a boat " * 1000, "dry_run": True})
    assert response.status_code == 200
    assert detector.in_loop == [False]
