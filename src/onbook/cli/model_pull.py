"""Pulling a model: ask the hub, choose the file, bring it, and write down where it came from."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from onbook.adapters.files.durable import ensure_data_dir, write_atomically
from onbook.adapters.model_hub.choice import (
    SUFFIX,
    HubFile,
    Reference,
    checked_name,
    checked_revision,
    checked_sha256,
    chosen_file,
    quantisation_of,
    reference,
)
from onbook.adapters.model_hub.download import download
from onbook.adapters.model_hub.errors import PullFailed
from onbook.adapters.model_hub.hub import Hub, Repository
from onbook.adapters.model_hub.place import file_sha256, locked
from onbook.cli.terminal import visible_line
from onbook.worker.gguf import ModelFileError, read_gguf
from onbook.worker.models import Manifest, manifest_path, models_dir, read_manifest

if TYPE_CHECKING:
    from onbook.settings import Settings

Report = Callable[[int, int], None]

_MIB: Final = 1024 * 1024
# Without a progress bar, about so many lines tell how far it is.
_REPORTS: Final = 10


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person asks for; ``name`` is a repository or a short name."""

    name: str
    file: str | None = None
    revision: str = "main"
    sha256: str | None = None
    as_name: str | None = None
    force: bool = False


@dataclass(frozen=True, slots=True)
class Pulled:
    """An installed model, and a sentence about it."""

    name: str
    path: Path
    sentence: str


@dataclass(frozen=True, slots=True)
class _Found:
    """The file that is meant, at one commit, and where it will lie."""

    repository: Repository
    file: HubFile
    sha256: str
    size: int
    path: Path
    force: bool


def pull_model(settings: "Settings", wish: Wish) -> Pulled:
    """Install the model that is wished for, unless it is there already. Blocking.

    Raises:
        PullFailed: one sentence that says why it cannot be had, and what to do.
    """
    meant = reference(wish.name)
    checked_revision(wish.revision)
    stated = None if wish.sha256 is None else checked_sha256(wish.sha256)
    repository = asyncio.run(_ask(settings, meant.repository, wish.revision))
    file = chosen_file(
        repository.files,
        repository.name,
        path=wish.file,
        quantisation=None if wish.file else meant.quantisation,
    )
    path = models_dir(settings.data_dir) / _file_name(wish, file)
    found = _Found(repository, file, _digest(file, stated), file.size_bytes or 0, path, wish.force)
    try:
        ensure_data_dir(settings.data_dir)
    except OSError as error:
        raise PullFailed(f"{settings.data_dir} cannot be written: {error.strerror}.") from None
    with locked(path, waiting=lambda: _say("Another pull of this model runs; waiting for it …")):
        return _install(settings, meant, found)


async def _ask(settings: "Settings", name: str, revision: str) -> Repository:
    async with _hub(settings) as hub:
        return await hub.repository(name, revision)


def _hub(settings: "Settings") -> Hub:
    token = settings.model_hub_token
    return Hub(settings.model_hub_url, token=token.get_secret_value() if token else None)


def _file_name(wish: Wish, file: HubFile) -> str:
    if wish.as_name is None:
        return file.name
    return checked_name(wish.as_name.removesuffix(SUFFIX) + SUFFIX)


def _digest(file: HubFile, stated: str | None) -> str:
    if stated is not None and file.sha256 not in (None, stated):
        raise PullFailed(
            f"The hub states SHA-256 {file.sha256} for {file.path}, which is not the one of "
            "--sha256; nothing was pulled."
        )
    digest = stated or file.sha256
    if digest is None:
        raise PullFailed(
            f"The hub states no SHA-256 for {file.path}; give the publisher's with --sha256."
        )
    return digest


def _install(settings: "Settings", meant: Reference, found: _Found) -> Pulled:
    path = found.path
    known = read_manifest(path)
    if path.is_file():
        if not found.force and _is_there(found):
            if known is None or known.sha256 != found.sha256:
                _write_manifest(meant, found)
            sentence = f"{path.stem} is installed already and whole, in {path.parent}."
            return Pulled(path.stem, path, sentence)
        if not found.force and not _is_to_be_replaced(found, known):
            raise PullFailed(
                f"Another model is installed as {path.stem}; give this one a name with --as, or "
                "replace it with --force."
            )
    licence = visible_line(found.repository.licence or "not stated by the hub")
    _say(f"Pulling {found.file.path} from {found.repository.name} (licence: {licence}) …")
    asyncio.run(_bring(settings, found))
    _write_manifest(meant, found)
    return Pulled(
        path.stem,
        path,
        f"Installed {path.stem} ({found.size / _MIB:,.0f} MiB, SHA-256 {found.sha256[:12]}…) in "
        f"{path.parent}.",
    )


def _is_there(found: _Found) -> bool:
    """Tell whether the file is the one that is meant. It is hashed: a manifest cannot tell."""
    if found.path.stat().st_size != found.size:
        return False
    _say(f"Hashing {found.path.stem}, which is here already …")
    return file_sha256(found.path) == found.sha256


def _is_to_be_replaced(found: _Found, known: Manifest | None) -> bool:
    """Tell whether the file is an older or damaged copy of what is pulled, not another model."""
    if known is not None:
        return known.repository == found.repository.name
    # Without a manifest nobody knows whose it is, but what is no model is nobody's.
    try:
        read_gguf(found.path)
    except ModelFileError:
        return True
    return False


async def _bring(settings: "Settings", found: _Found) -> None:
    async with _hub(settings) as hub:
        url = hub.file_url(found.repository.name, found.repository.commit, found.file.path)
        with _reporting(found.path.stem) as report:
            await download(
                hub,
                url,
                found.path,
                sha256=found.sha256,
                size=found.size,
                report=report,
                check=_check_header,
            )


def _check_header(path: Path) -> None:
    try:
        read_gguf(path)
    except ModelFileError:
        raise PullFailed(
            "What came is the file that the hub states, but no whole GGUF model with a tokenizer; "
            "choose another file."
        ) from None


def _write_manifest(meant: Reference, found: _Found) -> None:
    manifest = Manifest(
        sha256=found.sha256,
        size_bytes=found.size,
        repository=found.repository.name,
        revision=found.repository.commit,
        source_file=found.file.path,
        alias=meant.alias,
        quantisation=quantisation_of(found.file.path),
        licence=found.repository.licence,
        pulled_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    data = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
    try:
        write_atomically(manifest_path(found.path), data)
    except OSError as error:
        raise PullFailed(f"{found.path.parent} cannot be written: {error.strerror}.") from None


@contextmanager
def _reporting(name: str) -> Iterator[Report]:
    """Give what is called as bytes come: a bar on a terminal, else a line now and then."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(name)
        yield lambda done, total: progress.update(task, completed=done, total=total)


class _Lines:
    """Says how far it is in a line for each tenth, and in one where it goes on from."""

    def __init__(self) -> None:
        self._said = -1

    def __call__(self, done: int, total: int) -> None:
        tenth = done * _REPORTS // total
        if self._said < 0:
            self._said = tenth
            if done:
                _say(f"Going on after {done / _MIB:,.1f} of {total / _MIB:,.1f} MiB.")
        elif tenth > self._said:
            self._said = tenth
            _say(f"{tenth * 100 // _REPORTS} % of {total / _MIB:,.1f} MiB")


def _say(text: str) -> None:
    typer.echo(text, err=True)
