import multiprocessing
import os
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest
import structlog

from onbook.adapters.clock import SystemClock, SystemIds
from onbook.adapters.files.packaged import (
    packaged_lexicon_bytes,
    packaged_templates,
    templates_from_files,
)
from onbook.adapters.files.secrets import (
    PEPPER_FILE,
    SecretUnusable,
    load_or_create_pepper,
)
from onbook.adapters.files.snapshot import FileTemplateSnapshots
from onbook.adapters.memory.clock import CountingIds, FixedClock
from onbook.adapters.memory.templates import MemorySnapshots
from onbook.domain.templates import Template, TemplateInvalid
from onbook.ports.clock import Clock, IdSource
from onbook.ports.stores import TemplateSnapshots

AT = datetime(2026, 11, 22, 1, 2, 3, 4, tzinfo=UTC)
Make = Callable[..., Template]

_TOML = """
template_name = "{name}"
model_type = "m"
use_case = "chat"
content_mode = "sfw"
target = "{target}"
system_prompt = "Hello."
token_limit = 75
token_unit = "clip"
max_tokens = 100
"""


def _names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


@pytest.fixture(params=["memory", "file"])
def snapshots(request: pytest.FixtureRequest, tmp_path: Path) -> TemplateSnapshots:
    if request.param == "memory":
        return MemorySnapshots()
    return FileTemplateSnapshots(tmp_path / "snapshot")


def test_a_snapshot_comes_back_as_it_was(snapshots: TemplateSnapshots, make_template: Make) -> None:
    assert snapshots.load() is None
    first = make_template(system_prompt="é 汉字 👩‍🚀\n", version=7)
    second = make_template(template_name="other", target=None, user_format="{{prompt}}:")
    snapshots.save([make_template()], at=AT)
    snapshots.save([first, second], at=AT)
    found = snapshots.load()
    assert found is not None
    assert (list(found[0]), found[1]) == ([first, second], AT)


def test_a_snapshot_is_for_its_owner_only(tmp_path: Path, make_template: Make) -> None:
    path = tmp_path / "snapshot"
    FileTemplateSnapshots(path).save([make_template()], at=AT)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert _names(tmp_path) == ["snapshot"]


def test_every_damaged_snapshot_is_refused(tmp_path: Path, make_template: Make) -> None:
    path = tmp_path / "snapshot"
    snapshots = FileTemplateSnapshots(path)
    snapshots.save([make_template()], at=AT)
    whole = path.read_bytes()
    step = max(1, len(whole) // 60)
    damaged = [whole[:length] for length in range(0, len(whole), step)]
    damaged += [
        whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        for place in range(0, len(whole), step)
    ]
    for content in damaged:
        path.write_bytes(content)
        assert snapshots.load() is None
    path.write_bytes(whole)
    assert snapshots.load() is not None


def test_a_snapshot_that_cannot_be_saved_keeps_the_older_one(
    tmp_path: Path, make_template: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshots = FileTemplateSnapshots(tmp_path / "snapshot")
    snapshots.save([make_template()], at=AT)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, structlog.testing.capture_logs() as logs:
        patch.setattr(os, "fsync", full)
        snapshots.save([], at=AT)
    assert [event["event"] for event in logs] == ["snapshot_not_saved"]
    found = snapshots.load()
    assert found is not None
    assert len(found[0]) == 1
    assert _names(tmp_path) == ["snapshot"]


def test_the_packaged_templates_are_valid_and_distinct() -> None:
    templates = packaged_templates()
    if not templates:
        pytest.skip("no packaged template is written yet")
    assert all(len(template.content_sha256) == 64 for template in templates)


def test_the_packaged_lexicon_is_there() -> None:
    assert packaged_lexicon_bytes()


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        (_TOML.replace("75", '"many"'), r"two.toml, line 8: token_limit must be"),
        (_TOML.replace("= 75", "= "), r"two.toml, line 8: is not TOML"),
        (_TOML + "sytem = 1", r"two.toml, line 11: sytem is not"),
        (_TOML.replace("{name}", "one"), r"two.toml: template_name is that of another"),
        (_TOML.replace("{target}", "one"), r"two.toml: model_type .* one.toml"),
    ],
)
def test_a_bad_packaged_file_is_named_with_its_field(toml: str, message: str) -> None:
    first = _TOML.replace("{name}", "one").replace("{target}", "one")
    second = toml.replace("{name}", "two").replace("{target}", "two")
    with pytest.raises(TemplateInvalid, match=message):
        templates_from_files([("one.toml", first.encode()), ("two.toml", second.encode())])


def test_secrets_are_made_once_for_their_owner_only(tmp_path: Path) -> None:
    pepper = load_or_create_pepper(tmp_path)
    assert len(pepper) == 32
    assert load_or_create_pepper(tmp_path) == pepper
    assert _names(tmp_path) == [PEPPER_FILE]
    for name in _names(tmp_path):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    assert load_or_create_pepper(tmp_path.parent) != pepper
    (tmp_path.parent / PEPPER_FILE).unlink()


def test_processes_that_start_together_get_one_pepper(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        assert len(set(pool.map(load_or_create_pepper, [tmp_path] * 12))) == 1


@pytest.mark.parametrize("content", [b"", b"00ff", b"zz" * 32, b"\xff" * 64])
def test_a_damaged_pepper_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / PEPPER_FILE).write_bytes(content)
    with pytest.raises(SecretUnusable, match="is damaged; restore it"):
        load_or_create_pepper(tmp_path)


def test_a_secret_that_others_can_read_is_reported(tmp_path: Path) -> None:
    pepper = load_or_create_pepper(tmp_path)
    (tmp_path / PEPPER_FILE).chmod(0o644)
    with structlog.testing.capture_logs() as logs:
        assert load_or_create_pepper(tmp_path) == pepper
    assert [event["event"] for event in logs] == ["secret_file_open_to_others"]


def test_a_missing_data_directory_is_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(SecretUnusable, match="cannot be read or created"):
        load_or_create_pepper(tmp_path / "none")


@pytest.mark.parametrize("clock", [SystemClock(), FixedClock()])
def test_clocks_have_a_zone_and_never_go_back(clock: Clock) -> None:
    assert clock.now().utcoffset() is not None
    assert clock.monotonic() <= clock.monotonic()


@pytest.mark.parametrize("ids", [SystemIds(), CountingIds()])
def test_identifiers_differ(ids: IdSource) -> None:
    assert len({ids.request_id() for _ in range(50)}) == 50
    assert len({ids.nonce() for _ in range(50)}) == 50
    assert all(len(ids.nonce()) == 32 for _ in range(3))
    assert all(0 <= ids.seed() < 2**31 for _ in range(50))


def test_a_fixed_clock_moves_when_told() -> None:
    clock = FixedClock(AT)
    clock.advance(1.5)
    assert (clock.now() - AT).total_seconds() == clock.monotonic() == 1.5


@pytest.mark.parametrize(
    "body", [b'{"format":1,"templates":["x"]}', b"[" * 200_000, b"null", b'{"format":1}']
)
def test_a_snapshot_that_is_whole_but_not_ours_is_no_snapshot(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "templates.snapshot.json"
    path.write_bytes(sha256(body).hexdigest().encode() + b"\n" + body)
    assert FileTemplateSnapshots(path).load() is None
