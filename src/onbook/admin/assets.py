"""Scripts, styles and the icon: packaged files, served from memory under a path with their hash."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib import resources
from typing import TYPE_CHECKING, Final

from onbook.admin.responses import send_page

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

_FOR_EVER: Final = "public, max-age=31536000, immutable"
_HASH_CHARS: Final = 16
_MEDIA_TYPES: Final = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One packaged file as an ASGI application. Its path changes with its content."""

    body: bytes
    media_type: str

    async def __call__(self, _scope: "Scope", _receive: "Receive", send: "Send") -> None:
        """Answer the file."""
        await send_page(send, self.body, media_type=self.media_type, cache=_FOR_EVER)


@dataclass(frozen=True, slots=True)
class Assets:
    """All assets: ``base`` is the path in front of their names, ``by_path`` serves them."""

    base: str
    by_path: Mapping[str, Asset]


def load_assets() -> Assets:
    """Read the packaged assets.

    One hash over all of them is in the path, so that scripts may import each other by relative
    names and never mix two versions.
    """
    files = {
        entry.name: entry.read_bytes()
        for entry in sorted(
            resources.files("onbook.admin").joinpath("static").iterdir(),
            key=lambda entry: entry.name,
        )
        if entry.name.rpartition(".")[2] in _MEDIA_TYPES
    }
    digest = sha256()
    for name, body in files.items():
        digest.update(f"{name}\0{len(body)}\0".encode())
        digest.update(body)
    base = f"/static/{digest.hexdigest()[:_HASH_CHARS]}"
    return Assets(
        base,
        {
            f"{base}/{name}": Asset(body, _MEDIA_TYPES[name.rpartition(".")[2]])
            for name, body in files.items()
        },
    )
