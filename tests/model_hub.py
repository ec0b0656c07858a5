"""A model hub on loopback that answers as the real one does, and misbehaves where a test asks.

Two servers on two ports, so that the storage is another origin than the hub, as in the world.
"""

import hashlib
import json
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from socketserver import BaseServer
from urllib.parse import parse_qs, unquote, urlsplit

REPOSITORY = "Example/Tiny-Instruct-GGUF"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILE = "tiny-instruct-q4_k_m.gguf"
_STEP = 64 * 1024


@dataclass(slots=True)
class Stored:
    """A file; what the hub states of it may be untrue."""

    content: bytes
    sha256: str | None = None
    size: int | None = None

    def __post_init__(self) -> None:
        self.sha256 = self.sha256 or hashlib.sha256(self.content).hexdigest()
        self.size = len(self.content) if self.size is None else self.size


@dataclass(slots=True)
class Seen:
    """One request, as it came."""

    server: str
    path: str
    headers: dict[str, str]


@dataclass(slots=True)
class Hub:
    """What the two servers hold, how they behave, and what they were asked."""

    repository: str = REPOSITORY
    commit: str = COMMIT
    files: dict[str, Stored] = field(default_factory=dict)
    token: str | None = None
    states_digests: bool = True
    ranges: bool = True
    etag: str = '"first"'
    # Bytes after which each of the next answers of the storage is cut off.
    cuts: list[int] = field(default_factory=list)
    # The storage stops here in an answer until it is let go on.
    hold_after: int | None = None
    holding: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    redirect: str | None = None
    # Statuses with an error code, for the next listings.
    refuses: list[tuple[int, str]] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    url: str = ""
    storage_url: str = ""

    def asked(self, server: str) -> list[Seen]:
        return [one for one in self.seen if one.server == server]

    def environment(self) -> dict[str, str]:
        return {"ONBOOK_MODEL_HUB_URL": self.url}


@contextmanager
def model_hub() -> Iterator[Hub]:
    """Run a hub and its storage until the block ends."""
    hub = Hub()
    servers = [
        ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, hub))
        for handler in (_HubHandler, _StorageHandler)
    ]
    hub.url, hub.storage_url = (f"http://127.0.0.1:{one.server_port}" for one in servers)
    threads = [threading.Thread(target=one.serve_forever, args=(0.01,)) for one in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        hub.go_on.set()
        for server in servers:
            server.shutdown()
            server.server_close()
        for thread in threads:
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    name = ""

    def __init__(
        self, hub: Hub, request: socket.socket, address: tuple[str, int], server: BaseServer
    ) -> None:
        self.hub = hub
        super().__init__(request, address, server)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base
        pass

    def note(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.seen.append(Seen(self.name, self.path, headers))

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _HubHandler(_Handler):
    name = "hub"

    def do_GET(self) -> None:
        self.note()
        hub = self.hub
        if hub.token is not None and self.headers.get("Authorization") != f"Bearer {hub.token}":
            self.answer(401, b"{}", X_Error_Code="RepoNotFound")
        elif match := re.fullmatch(r"/api/models/(.+)/revision/([^/]+)", urlsplit(self.path).path):
            self._list(match[1], unquote(match[2]))
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path):
            # Relative to its own host only for the first step, as a renamed repository is.
            self.answer(
                302, Location=hub.redirect or f"{hub.storage_url}/blob/{match[3]}?sig=a%2Bb"
            )
        else:
            self.answer(404, b"{}")

    def _list(self, name: str, revision: str) -> None:
        hub = self.hub
        if hub.refuses:
            status, code = hub.refuses.pop(0)
            self.answer(status, b"{}", **({"X_Error_Code": code} if code else {}))
        elif name != hub.repository:
            self.answer(401, b"{}", X_Error_Code="RepoNotFound")
        elif revision not in ("main", "release/1", hub.commit):
            self.answer(404, b"{}", X_Error_Code="RevisionNotFound")
        else:
            assert parse_qs(urlsplit(self.path).query) == {"blobs": ["true"]}
            siblings = [
                {
                    "rfilename": path,
                    "blobId": "0" * 40,
                    "size": stored.size,
                    "lfs": {"sha256": stored.sha256, "size": stored.size, "pointerSize": 135}
                    if hub.states_digests
                    else None,
                }
                for path, stored in hub.files.items()
            ]
            siblings.append({"rfilename": "README.md", "blobId": "1" * 40, "size": 12})
            body = {
                "id": name,
                "sha": hub.commit,
                "tags": ["gguf", "license:apache-2.0"],
                "siblings": siblings,
            }
            self.answer(200, json.dumps(body).encode(), Content_Type="application/json")


class _StorageHandler(_Handler):
    name = "storage"

    def do_GET(self) -> None:
        self.note()
        hub = self.hub
        assert self.path.endswith("?sig=a%2Bb"), "a signed address was changed on the way"
        content = hub.files[unquote(urlsplit(self.path).path.removeprefix("/blob/"))].content
        start, status = 0, 200
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and hub.ranges and self.headers.get("If-Range", hub.etag) == hub.etag:
            start, status = int(wanted[1]), 206
        if start >= len(content) > 0:
            self.answer(416, Content_Range=f"bytes */{len(content)}")
            return
        self.send_response(status)
        self.send_header("ETag", hub.etag)
        self.send_header("Content-Length", str(len(content) - start))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        self._send(content, start)

    def _send(self, content: bytes, start: int) -> None:
        hub = self.hub
        end = start + hub.cuts.pop(0) if hub.cuts else len(content)
        for at in range(start, min(end, len(content)), _STEP):
            if hub.hold_after is not None and at - start >= hub.hold_after:
                hub.holding.set()
                hub.go_on.wait(60)
            try:
                self.wfile.write(content[at : min(at + _STEP, end)])
            except OSError:
                # The client was killed.
                break
        if end < len(content):
            self.close_connection = True


def tiny_gguf(size: int = 1_000_000, seed: int = 1) -> bytes:
    """Return a file with a header that a model has, and noise where its weights would be."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    tokens = ["<|im_start|>", "<|im_end|>", "a"]
    entries = [
        text("general.architecture") + struct.pack("<I", 8) + text("tiny"),
        text("tiny.context_length") + struct.pack("<II", 4, 512),
        text("tokenizer.ggml.tokens")
        + struct.pack("<IIQ", 9, 8, len(tokens))
        + b"".join(map(text, tokens)),
        text("tokenizer.ggml.token_type")
        + struct.pack("<IIQ", 9, 5, len(tokens))
        + struct.pack("<3i", 3, 3, 1),
    ]
    header = b"GGUF" + struct.pack("<IQQ", 3, 0, len(entries)) + b"".join(entries)
    return header + Random(seed).randbytes(size - len(header))  # noqa: S311 - noise, not a secret
