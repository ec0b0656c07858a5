"""Listing the book over HTTP: filters, pages, and who serves it. Nothing here changes anything."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from onbook.adapters.files.packaged import packaged_templates
from support import running, settings_for
from support_templates import BookClient, Json, answer, key_with, path_of

ALL = sorted(item.template_name for item in packaged_templates())
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def book(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[BookClient]:
    """The book for somebody who may read it, and nothing else."""
    async with running(settings_for(tmp_path_factory.mktemp("book"))) as gateway:
        yield BookClient(gateway, await key_with(gateway, "templates:read"))


def names(found: Json) -> list[str]:
    return [row["template_name"] for row in found["templates"]]


async def test_the_list_is_sorted_and_shows_no_content(book: BookClient) -> None:
    found = await book.get("/v1/templates")
    assert names(found) == ALL
    assert found["next_after"] is None
    for row, template in zip(
        found["templates"],
        sorted(packaged_templates(), key=lambda item: item.template_name),
        strict=True,
    ):
        assert (row["version"], row["is_active"], row["problem"]) == (1, True, None)
        assert row["content_sha256"] == template.content_sha256
        assert "system_prompt" not in row


@pytest.mark.parametrize("limit", [1, 5, 12, 200])
async def test_pages_of_any_size_show_everything_once(book: BookClient, limit: int) -> None:
    seen: list[str] = []
    query: dict[str, object] = {"limit": limit}
    while True:
        found = await book.get("/v1/templates", **query)
        assert len(found["templates"]) <= limit
        seen += names(found)
        if found["next_after"] is None:
            break
        assert found["next_after"] == seen[-1]
        query["after"] = found["next_after"]
    assert seen == ALL


@pytest.mark.parametrize(
    "query",
    [
        {"model_type": "qwen_base"},
        {"use_case": "enhancement"},
        {"content_mode": "nsfw"},
        {"target": "sdxl"},
        {"target": ""},
        {"q": "wan"},
        {"content_mode": "sfw", "target": "wan", "q": "base"},
        {"model_type": "nobody"},
    ],
)
async def test_filters_narrow_the_list(book: BookClient, query: dict[str, str]) -> None:
    expected = [
        item.template_name
        for item in packaged_templates()
        if all(
            query["q"] in item.template_name
            if field == "q"
            else (getattr(item, field) or "") == value
            for field, value in query.items()
        )
    ]
    assert names(await book.get("/v1/templates", **query)) == sorted(expected)


async def test_content_of_either_mode_is_shown_to_whoever_may_read(book: BookClient) -> None:
    for template in packaged_templates():
        shown = await book.get(path_of(template.template_name))
        assert shown["content"]["content_mode"] == template.content_mode
        assert shown["content"]["system_prompt"] == template.system_prompt


async def test_gateways_say_what_they_serve(book: BookClient) -> None:
    found = (await book.get("/v1/gateways"))["gateways"]
    assert [(row["gateway_id"], row["live"]) for row in found] == [
        (book.gateway.service.gateway.gateway_id, True)
    ]
    assert found[0]["epoch"] == await book.gateway.service.store.epoch()
    assert len(found[0]["active_sha256"]) == 64


async def test_pages_of_other_sites_get_no_leave_to_read(book: BookClient) -> None:
    headers = {"Origin": "http://localhost:5173", "Authorization": f"Bearer {book.key}"}
    response = await book.gateway.http.get("/v1/templates", headers=headers)
    assert answer(response)["templates"]
    assert not [name for name in response.headers if name.startswith("access-control")]
    response = await book.gateway.http.options(
        "/v1/templates", headers={**headers, "Access-Control-Request-Method": "GET"}
    )
    assert not [name for name in response.headers if name.startswith("access-control")]
