import fcntl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from model_hub import COMMIT, FILE, REPOSITORY, Stored, model_hub, tiny_gguf
from model_hub import Hub as Server
from onbook.adapters.model_hub.choice import HubFile
from onbook.adapters.model_hub.download import download
from onbook.adapters.model_hub.errors import HubUnreachable, PullFailed
from onbook.adapters.model_hub.hub import Hub
from onbook.adapters.model_hub.place import locked


@pytest.fixture
def server() -> Iterator[Server]:
    with model_hub() as hub:
        hub.files[FILE] = Stored(tiny_gguf())
        yield hub


async def bring(
    server: Server,
    path: Path,
    *,
    token: str | None = None,
    read_timeout_s: float = 30,
    stop_at: int | None = None,
) -> list[int]:
    """Download the one file; return what was reported. Ctrl-C comes at ``stop_at`` bytes."""
    reported: list[int] = []

    def report(done: int, _total: int) -> None:
        reported.append(done)
        if done == stop_at:
            raise KeyboardInterrupt

    stored = server.files[FILE]
    assert stored.sha256 is not None
    assert stored.size is not None
    async with Hub(server.url, token=token, read_timeout_s=read_timeout_s) as hub:
        await download(
            hub,
            hub.file_url(REPOSITORY, COMMIT, FILE),
            path,
            sha256=stored.sha256,
            size=stored.size,
            report=report,
            check=lambda _: None,
            first_pause_s=0,
        )
    return reported


def ranges(server: Server) -> list[str | None]:
    return [one.headers.get("range") for one in server.asked("storage")]


async def test_a_file_comes_whole_and_nothing_else_is_left(server: Server, tmp_path: Path) -> None:
    reported = await bring(server, tmp_path / FILE)
    assert (tmp_path / FILE).read_bytes() == server.files[FILE].content
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    assert reported == sorted(reported)
    assert (reported[0], reported[-1]) == (0, server.files[FILE].size)


async def test_a_cut_connection_goes_on_where_it_ended(server: Server, tmp_path: Path) -> None:
    server.cuts = [300_000, 100_000]
    await bring(server, tmp_path / FILE)
    assert (tmp_path / FILE).read_bytes() == server.files[FILE].content
    assert ranges(server) == [None, "bytes=300000-", "bytes=400000-"]
    assert [one.headers.get("if-range") for one in server.asked("storage")][1:] == ['"first"'] * 2


async def test_what_came_before_an_end_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    server.cuts = [300_000, 0, 0, 0, 0, 0]
    with pytest.raises(HubUnreachable, match=r"ended the file|broke off"):
        await bring(server, tmp_path / FILE)
    assert not (tmp_path / FILE).exists()
    server.seen.clear()
    server.cuts.clear()
    reported = await bring(server, tmp_path / FILE)
    assert reported[0] == 300_000
    assert ranges(server) == ["bytes=300000-"]
    assert (tmp_path / FILE).read_bytes() == server.files[FILE].content


async def test_a_storage_that_ignores_ranges_sends_it_anew(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    server.cuts = [300_000]
    await bring(server, tmp_path / FILE)
    assert ranges(server) == [None, "bytes=300000-"]
    assert (tmp_path / FILE).read_bytes() == server.files[FILE].content


async def test_a_storage_that_never_comes_further_is_given_up(
    server: Server, tmp_path: Path
) -> None:
    server.ranges = False
    server.cuts = [300_000] * 50
    with pytest.raises(HubUnreachable):
        await bring(server, tmp_path / FILE)
    assert len(server.asked("storage")) == 5


async def test_a_file_that_changed_meanwhile_is_never_joined(
    server: Server, tmp_path: Path
) -> None:
    server.cuts = [300_000, 0, 0, 0, 0, 0]
    with pytest.raises(HubUnreachable):
        await bring(server, tmp_path / FILE)
    # Other bytes at the same address, which the mark tells: all of it comes again.
    server.etag, server.cuts = '"second"', []
    changed = Stored(tiny_gguf(seed=2), sha256=server.files[FILE].sha256)
    server.files[FILE] = changed
    server.seen.clear()
    with pytest.raises(PullFailed, match=r"SHA-256 \w+…, not the stated"):
        await bring(server, tmp_path / FILE)
    (only,) = server.asked("storage")
    assert (only.headers["range"], only.headers["if-range"]) == ("bytes=300000-", '"first"')
    assert list(tmp_path.iterdir()) == []


async def test_a_new_commit_of_the_file_begins_anew(server: Server, tmp_path: Path) -> None:
    server.cuts = [300_000, 0, 0, 0, 0, 0]
    with pytest.raises(HubUnreachable):
        await bring(server, tmp_path / FILE)
    server.cuts.clear()
    server.files[FILE] = Stored(tiny_gguf(seed=2))
    server.seen.clear()
    await bring(server, tmp_path / FILE)
    assert ranges(server) == [None]
    assert (tmp_path / FILE).read_bytes() == server.files[FILE].content
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize("difference", [-1, 1])
async def test_another_size_than_stated_is_refused(
    server: Server, tmp_path: Path, difference: int
) -> None:
    stored = server.files[FILE]
    server.files[FILE] = Stored(
        stored.content, sha256=stored.sha256, size=len(stored.content) + difference
    )
    with pytest.raises(PullFailed):
        await bring(server, tmp_path / FILE)
    assert not (tmp_path / FILE).exists()


async def test_a_wrong_digest_is_deleted_and_named(server: Server, tmp_path: Path) -> None:
    server.files[FILE] = Stored(server.files[FILE].content, sha256="b" * 64)
    with pytest.raises(PullFailed, match="not the stated bbbbbbbbbbbb"):
        await bring(server, tmp_path / FILE)
    assert list(tmp_path.iterdir()) == []


async def test_no_room_is_told_before_a_byte_is_fetched(server: Server, tmp_path: Path) -> None:
    server.files[FILE] = Stored(b"GGUF", size=10**15)
    with pytest.raises(PullFailed, match="no room for the model: it needs"):
        await bring(server, tmp_path / FILE)
    assert server.asked("storage") == []


async def test_a_disk_that_fills_up_is_given_back_what_came(server: Server, tmp_path: Path) -> None:
    part = tmp_path / f".{FILE}.{server.files[FILE].sha256}.part"
    # A real device that is always full, where a mark is written beside the file.
    part.with_name(part.name + ".etag").symlink_to("/dev/full")
    with pytest.raises(PullFailed, match="no room for the model"):
        await bring(server, tmp_path / FILE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("commit", ["", "main", "../../x", "0" * 39, "g" * 40])
async def test_a_commit_that_is_none_is_refused(server: Server, commit: str) -> None:
    server.commit = commit
    async with Hub(server.url, token=None) as hub:
        with pytest.raises(PullFailed, match="is no model hub"):
            await hub.repository(REPOSITORY, "main")


async def test_the_token_goes_to_the_hub_alone(server: Server, tmp_path: Path) -> None:
    server.token = "hf_secret"
    await bring(server, tmp_path / FILE, token="hf_secret")
    assert {one.headers.get("authorization") for one in server.asked("hub")} == {"Bearer hf_secret"}
    assert [one.headers.get("authorization") for one in server.asked("storage")] == [None]


@pytest.mark.parametrize(
    "location",
    [
        "http://storage.example.com/blob",
        "ftp://storage.example.com/blob",
        "file:///etc/passwd",
        "https://",
        "http://127.0.0.1.example.com/blob",
        "http://[::1",
    ],
)
async def test_a_redirect_to_anything_but_https_is_refused(
    server: Server, tmp_path: Path, location: str
) -> None:
    server.redirect = location
    with pytest.raises(PullFailed, match="redirects to an address that is not https"):
        await bring(server, tmp_path / FILE)
    assert len(server.seen) == 1


async def test_a_circle_of_redirects_ends(server: Server, tmp_path: Path) -> None:
    server.redirect = f"/{REPOSITORY}/resolve/{COMMIT}/{FILE}"
    with pytest.raises(PullFailed, match="redirects more than 10 times"):
        await bring(server, tmp_path / FILE)


async def test_a_hub_that_hangs_is_given_up(server: Server, tmp_path: Path) -> None:
    server.hold_after = 0
    with pytest.raises(HubUnreachable, match="does not answer in time"):
        await bring(server, tmp_path / FILE, read_timeout_s=0.05)


def test_plain_http_is_for_loopback_only() -> None:
    with pytest.raises(PullFailed, match="must begin with https"):
        Hub("http://hub.example.com", token=None)
    Hub("http://localhost:1", token=None)
    Hub("https://hub.example.com", token=None)


async def test_what_a_repository_holds(server: Server) -> None:
    async with Hub(server.url, token=None) as hub:
        # A branch's slash stays inside the one segment of the address.
        found = await hub.repository(REPOSITORY, "release/1")
    stored = server.files[FILE]
    assert (found.commit, found.licence) == (COMMIT, "apache-2.0")
    assert found.files[0] == HubFile(FILE, stored.size, stored.sha256)
    assert found.files[1] == HubFile("README.md", 12, None)


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (401, "RepoNotFound", "shows no repository .* ONBOOK_MODEL_HUB_TOKEN"),
        (404, "", "shows no repository"),
        (403, "GatedRepo", "accept them on the hub"),
        (401, "GatedRepo", "accept them on the hub"),
        (404, "RevisionNotFound", "has no revision main"),
        (429, "", "busy"),
        (503, "", "busy"),
        (418, "", "HTTP 418"),
    ],
)
async def test_what_the_hub_refuses_is_told(
    server: Server, status: int, code: str, says: str
) -> None:
    server.refuses = [(status, code)]
    async with Hub(server.url, token=None) as hub:
        with pytest.raises(PullFailed, match=says):
            await hub.repository(REPOSITORY, "main")


def test_a_lock_is_held_by_one_and_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "models" / FILE
    waits, entered = threading.Event(), threading.Event()

    def second() -> None:
        with locked(path, waiting=waits.set):
            entered.set()

    with locked(path, waiting=lambda: pytest.fail("nobody holds it")):
        thread = threading.Thread(target=second)
        thread.start()
        assert waits.wait(10)
        assert not entered.is_set()
        with (path.parent / f".{FILE}.lock").open() as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    thread.join(10)
    assert entered.is_set()


def test_a_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("")
    with (
        pytest.raises(PullFailed, match="cannot be written"),
        locked(tmp_path / "models" / FILE, waiting=lambda: None),
    ):
        pass


async def test_a_stopped_pull_leaves_a_part_that_the_next_one_takes_up(
    server: Server, tmp_path: Path
) -> None:
    server.hold_after = 256 * 1024
    with pytest.raises(KeyboardInterrupt):
        await bring(server, tmp_path / FILE, stop_at=256 * 1024)
    server.hold_after = None
    server.go_on.set()
    reported = await bring(server, tmp_path / FILE)
    assert reported[0] == 256 * 1024
    assert (tmp_path / FILE).read_bytes() == server.files[FILE].content
