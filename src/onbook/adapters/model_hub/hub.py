"""Asking the hub: what a repository holds, and its files' bytes, over redirects that are safe."""

import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from types import TracebackType
from typing import Annotated, Final, NoReturn, Self
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from onbook.adapters.model_hub.choice import HubFile
from onbook.adapters.model_hub.errors import HubUnreachable, PullFailed

_CONNECT_TIMEOUT_S: Final = 10.0
_MAX_REDIRECTS: Final = 10
_MAX_LISTING_BYTES: Final = 32 * 1024 * 1024
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_Commit = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{40,64}\Z")]
TOKEN_SETTING: Final = "ONBOOK_MODEL_HUB_TOKEN"


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository at one commit. ``licence`` is what its card states."""

    name: str
    commit: str
    licence: str | None
    files: tuple[HubFile, ...]


class _Lfs(msgspec.Struct):
    sha256: str | None = None
    size: int | None = None


class _Sibling(msgspec.Struct):
    rfilename: str
    size: int | None = None
    lfs: _Lfs | None = None


class _Info(msgspec.Struct):
    sha: _Commit
    siblings: list[_Sibling]
    tags: list[str] = []


class Hub:
    """A hub at ``url``; use it as an async context manager.

    Args:
        url: Its base URL: https, or anything on loopback.
        token: Bearer token, sent to the hub's own origin only.
        read_timeout_s: Seconds without a byte after which an answer is given up.

    Raises:
        PullFailed: the URL is plain http beyond loopback.
    """

    def __init__(self, url: str, *, token: str | None, read_timeout_s: float = 30.0) -> None:
        self._base = URL(url.rstrip("/"))
        if not _is_safe(self._base):
            raise PullFailed(
                "ONBOOK_MODEL_HUB_URL must begin with https://; plain http is for loopback only."
            )
        self._token = token
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=_CONNECT_TIMEOUT_S, sock_read=read_timeout_s
        )
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open the session."""
        self._session = aiohttp.ClientSession(
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            # Ranges and digests are of the bytes as they come.
            auto_decompress=False,
            headers={"Accept-Encoding": "identity", "User-Agent": "onbook"},
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        if self._session is not None:
            await self._session.close()

    async def repository(self, name: str, revision: str) -> Repository:
        """Return what ``name`` holds at ``revision``.

        Raises:
            PullFailed: there is no such thing, it may not be read, or the answer is none.
            HubUnreachable: the hub cannot be reached.
        """
        # Joined as text, since a branch's slash must stay encoded.
        url = URL(
            f"{self._base}/api/models/{name}/revision/{quote(revision, safe='')}?blobs=true",
            encoded=True,
        )
        async with self.get(url, {}) as response:
            if response.status != 200:
                self._refuse(response, name, revision)
            body = await _bounded(response)
        try:
            info = msgspec.json.decode(body, type=_Info)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise PullFailed(f"What answers at {self._base} is no model hub.") from None
        files = tuple(
            HubFile(
                file.rfilename,
                file.lfs.size if file.lfs and file.lfs.size is not None else file.size,
                file.lfs.sha256 if file.lfs else None,
            )
            for file in info.siblings
        )
        licences = [tag.removeprefix("license:") for tag in info.tags if tag[:8] == "license:"]
        return Repository(name, info.sha, licences[0][:80] if licences else None, files)

    def file_url(self, repository: str, commit: str, path: str) -> URL:
        """Return where the bytes of a file are."""
        return URL(
            f"{self._base}/{repository}/resolve/{quote(commit, safe='')}/{quote(path)}",
            encoded=True,
        )

    @asynccontextmanager
    async def get(
        self, url: URL, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Give the answer at ``url``, after redirects; only the hub itself sees the token.

        Raises:
            PullFailed: a redirect leads over plain http, nowhere, or in a circle.
            HubUnreachable: no connection, or it broke off, also while the block reads.
        """
        if self._session is None:
            raise RuntimeError("the hub is used outside its context")
        try:
            for _ in range(_MAX_REDIRECTS):
                sent = dict(headers)
                if self._token is not None and url.origin() == self._base.origin():
                    sent["Authorization"] = f"Bearer {self._token}"
                async with self._session.get(
                    url, headers=sent, allow_redirects=False, proxy=_proxy(url)
                ) as response:
                    if response.status not in _REDIRECTS:
                        yield response
                        return
                    url = self._next(url, response.headers.get("Location"))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise HubUnreachable(_why(error, url)) from None
        raise PullFailed(f"The hub redirects more than {_MAX_REDIRECTS} times.")

    def _next(self, url: URL, location: str | None) -> URL:
        try:
            # As it is: a signed address must not be encoded anew.
            target = url.join(URL(location or "", encoded=True))
            safe = bool(location) and bool(target.host)
        except ValueError:
            safe = False
        if not safe or not (target.scheme == "https" or (_is_safe(target) and self._is_local)):
            raise PullFailed("The hub redirects to an address that is not https; nothing was read.")
        return target

    @property
    def _is_local(self) -> bool:
        return _is_loopback(self._base.host or "")

    def _refuse(self, response: aiohttp.ClientResponse, name: str, revision: str) -> NoReturn:
        code, status = response.headers.get("X-Error-Code", ""), response.status
        if code == "GatedRepo" or status == 403:
            raise PullFailed(
                f"{name} is open only to those who accepted its terms: accept them on the hub, "
                f"and set {TOKEN_SETTING} to a token of the same account."
            )
        if code == "RevisionNotFound":
            raise PullFailed(f"{name} has no revision {revision}; leave --revision out for main.")
        if status in (401, 404):
            action = (
                "check the spelling, and that the token may read it"
                if self._token
                else f"check the spelling, or set {TOKEN_SETTING} for a private one"
            )
            raise PullFailed(f"The hub shows no repository {name}; {action}.")
        if status == 429 or status >= 500:
            raise HubUnreachable(f"The hub is busy (HTTP {status}); try again later.")
        raise PullFailed(f"The hub answers HTTP {status}; check ONBOOK_MODEL_HUB_URL.")


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_chunked(65_536):
        body += chunk
        if len(body) > _MAX_LISTING_BYTES:
            raise PullFailed("The hub's list of files is too long to be one.")
    return bytes(body)


def _why(error: Exception, url: URL) -> str:
    where = url.host or "the hub"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        cause = f"The name {where} is not found"
    elif isinstance(error, aiohttp.ClientSSLError):
        cause = f"The certificate of {where} is not accepted"
    elif isinstance(error, aiohttp.ClientConnectorError):
        cause = f"{where} cannot be reached"
    elif isinstance(error, TimeoutError):
        cause = f"{where} does not answer in time"
    else:
        cause = f"{where} broke off the transfer"
    return (
        f"{cause}; check the network and ONBOOK_MODEL_HUB_URL, or set ONBOOK_MODEL_PATH to a GGUF "
        "file that you have."
    )


def _is_safe(url: URL) -> bool:
    return url.scheme == "https" or (url.scheme == "http" and _is_loopback(url.host or ""))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _proxy(url: URL) -> str | None:
    """Return the environment's proxy for ``url``.

    Not left to the HTTP client, since that would also send what a ``.netrc`` holds.
    """
    host = url.host or ""
    if _is_loopback(host) or urllib.request.proxy_bypass(host):
        return None
    return urllib.request.getproxies().get(url.scheme)
