"""What the tests of the book's HTTP API share: keys, drafts, and one call per change."""

from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import quote

import httpx

from onbook.flows.access_keys import issue_key
from onbook.wire.problem import ERROR_CODES
from support import ADMIN_KEY, Running

NAME = "enhancement_sdxl_sfw"
FOX = {"prompt": "a red fox in the snow", "jobType": "sdxl_image_fast"}
Json = dict[str, Any]
# Long enough for a slow machine; a gateway that hears of a change takes milliseconds.
WAIT_S = 20


def path_of(name: str, *rest: object) -> str:
    return "/".join(["/v1/templates", quote(name, safe=""), *map(str, rest)])


@dataclass(frozen=True, slots=True)
class BookClient:
    """Calls the book's API with one key."""

    gateway: Running
    key: str = ADMIN_KEY

    async def call(
        self, method: str, path: str, body: object = None, **query: object
    ) -> httpx.Response:
        return await self.gateway.http.request(
            method,
            path,
            json=body,
            params=cast("dict[str, str]", query) or None,
            headers={"Authorization": f"Bearer {self.key}"},
        )

    async def get(self, path: str, **query: object) -> Json:
        return answer(await self.call("GET", path, **query))

    async def post(self, path: str, body: object, status: int = 200) -> Json:
        return answer(await self.call("POST", path, body), status)

    async def content(self, name: str = NAME) -> Json:
        found: Json = (await self.get(path_of(name)))["content"]
        return found

    async def draft(self, name: str = NAME, **changes: object) -> int:
        """Draft the live content with ``changes``; return the draft's number."""
        template = {**await self.content(name), **changes}
        body = {"template": template, "reason": "try another wording"}
        return int((await self.post(path_of(name, "drafts"), body, 201))["version"]["version"])

    async def activate(self, version: int, name: str = NAME, **more: object) -> httpx.Response:
        body = {"version": version, "reason": "it reads better", "wait_s": WAIT_S, **more}
        return await self.call("POST", path_of(name, "activate"), body)

    async def history(self, name: str = NAME) -> Json:
        return await self.get(path_of(name, "versions"))

    async def served(self, **more: object) -> Json:
        """Return the metadata of an enhancement that is served now."""
        found = await self.gateway.enhance({**FOX, **more}, Authorization=f"Bearer {self.key}")
        return cast("Json", answer(found)["enhancement_metadata"])


def answer(response: httpx.Response, status: int = 200) -> Json:
    assert response.status_code == status, response.text
    found: Json = response.json()
    assert found["success"] is True
    assert found["request_id"] == response.headers["x-request-id"]
    return found


async def key_with(gateway: Running, *scopes: str, name: str = "a key") -> str:
    service = gateway.service
    plain, _ = await issue_key(
        name,
        scopes,
        store=service.key_store,
        pepper=service.pepper,
        clock=service.enhance.clock,
        ids=service.enhance.ids,
    )
    return plain


def refused(response: httpx.Response, status: int, code: str) -> Json:
    """Return the error body, once it is one of ours and the table of codes knows it."""
    body: Json = response.json()
    assert (response.status_code, body["error_code"]) == (status, code), body
    assert body.keys() == {
        "success",
        "error",
        "error_code",
        "details",
        "suggested_action",
        "request_id",
    }
    assert body["success"] is False
    assert body["error"].endswith(".")
    assert body["suggested_action"].endswith(".")
    assert body["request_id"] == response.headers["x-request-id"]
    assert status in next(row.statuses for row in ERROR_CODES if row.code == code)
    return body
