"""``onbook model verify``: whether each model is the file that was pulled or packaged."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from onbook.worker.gguf import ModelFileError, read_gguf
from onbook.worker.model_file import file_sha256
from onbook.worker.models import (
    InstalledModel,
    find_model,
    installed_models,
    mending,
    read_manifest,
)

if TYPE_CHECKING:
    from onbook.settings import Settings


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check of one model found; ``unknown`` where nobody stated a digest."""

    name: str
    path: str
    status: Literal["ok", "changed", "damaged", "unknown"]
    sha256: str | None
    message: str

    def as_json(self) -> dict[str, object]:
        """Return it as JSON values."""
        return asdict(self)


def verified(settings: "Settings", name: str | None) -> Iterator[Finding]:
    """Yield a finding for each installed model, or for ``name`` alone. Blocking.

    Raises:
        ModelNotFoundError: there is no such model.
    """
    models = installed_models(settings.data_dir)
    if name is None:
        chosen = models
    else:
        path = find_model(name, settings.data_dir)
        known = [model for model in models if _same(model.path, path)]
        chosen = known or [InstalledModel(path.stem, path, read_manifest(path))]
    for model in chosen:
        yield _verified(model, _stated(settings, model))


def _stated(settings: "Settings", model: InstalledModel) -> str | None:
    """Return the digest to expect; the setting is about the model that the settings choose."""
    if model.sha256 is not None or settings.model_path is None:
        return model.sha256
    return settings.model_sha256 if _same(settings.model_path, model.path) else None


def _verified(model: InstalledModel, stated: str | None) -> Finding:
    def finding(status: Literal["ok", "changed", "damaged", "unknown"], message: str) -> Finding:
        return Finding(model.name, str(model.path), status, digest, message)

    digest: str | None = None
    try:
        digest = file_sha256(model.path)
    except OSError as error:
        return finding("damaged", f"cannot be read: {error.strerror}.")
    if stated is not None and digest != stated.lower():
        return finding(
            "changed",
            f"has SHA-256 {digest[:12]}…, not the stated {stated[:12]}…; {mending(model)}.",
        )
    try:
        read_gguf(model.path)
    except ModelFileError:
        return finding("damaged", f"is no whole GGUF model; {mending(model)}.")
    if stated is None:
        return finding(
            "unknown",
            f"has SHA-256 {digest}, and no manifest states which it must have; compare it with "
            "the publisher's.",
        )
    return finding("ok", f"SHA-256 {digest[:12]}…")


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
