"""The models on this machine: the packaged one, and those that ``onbook model pull`` installed.

An installed model is a GGUF file in ``<data directory>/models`` with a manifest beside it
(``<file>.json``) that states where it came from and its SHA-256.
"""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import msgspec

from onbook.worker.model_file import PACKAGED_SHA256, packaged_model

SUFFIX: Final = ".gguf"
_MAX_MANIFEST_BYTES: Final = 65_536


class ModelNotFoundError(Exception):
    """No file and no installed model is meant, or more than one; one sentence with what to do."""


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of an installed file. ``revision`` is the commit that it was taken from."""

    sha256: str
    size_bytes: int
    repository: str | None = None
    revision: str | None = None
    source_file: str | None = None
    alias: str | None = None
    quantisation: str | None = None
    licence: str | None = None
    pulled_at: str | None = None


@dataclass(frozen=True, slots=True)
class InstalledModel:
    """A model that can be run by its name."""

    name: str
    path: Path
    manifest: Manifest | None
    packaged: bool = False

    @property
    def sha256(self) -> str | None:
        """The digest that the file must have; None where nobody stated one."""
        if self.packaged:
            return PACKAGED_SHA256
        return self.manifest.sha256 if self.manifest else None

    @property
    def names(self) -> frozenset[str]:
        """Everything that it may be called, in lower case."""
        known = {self.name, self.path.name}
        if self.manifest is not None:
            repository = self.manifest.repository
            known |= {self.manifest.alias or self.name}
            if repository is not None:
                known |= {repository, f"{repository}:{self.manifest.quantisation}"}
        return frozenset(name.lower() for name in known)


def models_dir(data_dir: Path) -> Path:
    """Return where pulled models lie; it need not exist."""
    return data_dir / "models"


def manifest_path(model: Path) -> Path:
    """Return where the manifest of a model file lies."""
    return model.with_name(model.name + ".json")


def read_manifest(model: Path) -> Manifest | None:
    """Return the manifest beside ``model``; None if there is none that can be read."""
    try:
        with manifest_path(model).open("rb") as file:
            return msgspec.json.decode(file.read(_MAX_MANIFEST_BYTES), type=Manifest)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def installed_models(data_dir: Path) -> list[InstalledModel]:
    """Return the packaged model, if it is there, and the pulled ones by name."""
    found = []
    packaged = packaged_model()
    if packaged is not None:
        found.append(InstalledModel(packaged.stem, packaged, None, packaged=True))
    try:
        files = sorted(models_dir(data_dir).iterdir(), key=lambda path: path.name.lower())
    except OSError:
        files = []
    found += [
        InstalledModel(path.stem, path, read_manifest(path))
        for path in files
        if path.suffix.lower() == SUFFIX and not path.name.startswith(".") and path.is_file()
    ]
    return found


def find_installed(name: str, data_dir: Path) -> InstalledModel:
    """Return the installed model that is called ``name``, in any case.

    Raises:
        ModelNotFoundError: there is no such model, or more than one.
    """
    found = [model for model in installed_models(data_dir) if name.lower() in model.names]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(model.name for model in found)
        raise ModelNotFoundError(f"More than one model is called {name}: {names}; name one.")
    raise ModelNotFoundError(
        f"There is no installed model {name}; 'onbook model list' shows the installed ones."
    )


def find_model(name_or_path: str | Path, data_dir: Path) -> Path:
    """Return the file that is meant: a path to a file wins, then a name in any case.

    A name is that of the file, with or without ``.gguf``, the short one that it was pulled by,
    or its repository, alone or with ``:quantisation``.

    Raises:
        ModelNotFoundError: there is no such model, or more than one.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    wanted = os.fspath(name_or_path)
    models = installed_models(data_dir)
    found = [model for model in models if wanted.lower() in model.names]
    if len(found) == 1:
        return found[0].path
    if found:
        names = ", ".join(model.name for model in found)
        raise ModelNotFoundError(f"More than one model is called {wanted}: {names}; name one.")
    if path.suffix.lower() == SUFFIX or path.is_absolute():
        raise ModelNotFoundError(
            f"There is no model file at {wanted}, and no installed model of this name; "
            "'onbook model list' shows the installed ones."
        )
    raise ModelNotFoundError(
        f"There is no model {wanted}: neither a file nor an installed one; 'onbook model list' "
        "shows the installed ones, 'onbook model pull' installs one."
    )


def mending(model: InstalledModel) -> str:
    """Return what to do about a file that is not as it must be, as the rest of a sentence."""
    if model.packaged:
        return "install the program again"
    manifest = model.manifest
    if manifest is None or manifest.repository is None:
        return f"pull it with --force, or run 'onbook model remove {shlex.quote(model.name)}'"
    words = ["onbook model pull", manifest.repository]
    source = manifest.source_file
    if source is not None:
        words += ["--file", shlex.quote(source)]
    if source is None or model.path.name != PurePosixPath(source).name:
        words += ["--as", shlex.quote(model.name)]
    return f"run '{' '.join(words)}'"


def stated_sha256(path: Path) -> str | None:
    """Return the digest that ``path`` must have by its manifest or package, or None."""
    if path == packaged_model():
        return PACKAGED_SHA256
    manifest = read_manifest(path)
    return None if manifest is None else manifest.sha256
