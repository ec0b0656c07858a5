"""One file from the hub to the disk: in order, resumed after any interruption, checked whole."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

import aiohttp
from yarl import URL

from onbook.adapters.model_hub.errors import HubUnreachable, PullFailed
from onbook.adapters.model_hub.hub import Hub
from onbook.adapters.model_hub.place import PartialFile, check_room

Report = Callable[[int, int], None]

_CHUNK: Final = 1024 * 1024
# Tries in a row that come no further than those before them.
_TRIES: Final = 5
_LONGEST_PAUSE_S: Final = 8.0
_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,16})-\d{1,16}/(\d{1,16}|\*)")


async def download(
    hub: Hub,
    url: URL,
    path: Path,
    *,
    sha256: str,
    size: int,
    report: Report,
    check: Callable[[Path], None],
    first_pause_s: float = 0.5,
) -> None:
    """Bring the file at ``url`` to ``path``; what an earlier try brought is not fetched again.

    Args:
        hub: An open hub.
        url: Where the bytes are.
        path: Where they go, whole or not at all; the caller holds the lock.
        sha256: Digest that the file must have, in lower-case hexadecimal.
        size: Bytes that it must have.
        report: Called with the bytes that are here, and all of them.
        check: Looks at the whole file before it gets its name; raises ``PullFailed``.
        first_pause_s: Seconds before the second try; each further one waits twice as long.

    Raises:
        PullFailed: the file cannot be had; what has come stays, unless it is wrong.
    """
    part = PartialFile(path, sha256=sha256, size=size)
    try:
        await asyncio.to_thread(part.resume)
        check_room(path, size - part.done)
        report(part.done, size)
        failures, best = 0, part.done
        while part.done < size:
            try:
                await _fetch(hub, url, part, report)
            except HubUnreachable:
                failures = 1 if part.done > best else failures + 1
                best = max(best, part.done)
                if failures >= _TRIES:
                    raise
                await asyncio.sleep(min(first_pause_s * 2 ** (failures - 1), _LONGEST_PAUSE_S))
        await asyncio.to_thread(part.install, check)
    finally:
        part.close()


async def _fetch(hub: Hub, url: URL, part: PartialFile, report: Report) -> None:
    """Append what one answer brings, to its end or until it breaks off."""
    headers = {}
    if part.done:
        headers["Range"] = f"bytes={part.done}-"
        if part.etag is not None:
            # A file that was changed meanwhile comes whole, instead of a second half that does
            # not fit the first.
            headers["If-Range"] = part.etag
    async with hub.get(url, headers) as response:
        if response.status == 416 or (response.status == 206 and not _goes_on(response, part)):
            part.restart()
            raise HubUnreachable(f"{url.host} does not go on where the last try ended.")
        if response.status not in (200, 206):
            _refuse(response)
        if response.status == 200 and part.done:
            part.restart()
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise PullFailed("The hub's storage sends the file encoded, which was not asked for.")
        tag = response.headers.get("ETag", "")
        # A weak mark says nothing about single bytes, and If-Range takes none.
        part.etag = tag if tag.startswith('"') else None
        async for chunk in response.content.iter_chunked(_CHUNK):
            part.append(chunk)
            report(part.done, part.size)
    if part.done < part.size:
        raise HubUnreachable(f"{url.host} ended the file before its end; pull it again.")


def _goes_on(response: aiohttp.ClientResponse, part: PartialFile) -> bool:
    """Tell whether a part of the file begins where ours ends, and is of the same file."""
    found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if found is None:
        return False
    return int(found[1]) == part.done and found[2] in ("*", str(part.size))


def _refuse(response: aiohttp.ClientResponse) -> NoReturn:
    status = response.status
    if status == 429 or status >= 500:
        raise HubUnreachable(f"The hub's storage is busy (HTTP {status}); try again later.")
    raise PullFailed(f"The hub does not give the file (HTTP {status}); pull it again.")
