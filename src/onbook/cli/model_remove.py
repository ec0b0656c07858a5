"""``onbook model remove``: delete a pulled model, and what an interrupted pull left of it."""

import glob
from pathlib import Path
from typing import TYPE_CHECKING

from onbook.adapters.model_hub.place import locked
from onbook.worker.models import InstalledModel, ModelNotFoundError, find_installed, manifest_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from onbook.settings import Settings


def removable(settings: "Settings", name: str) -> InstalledModel:
    """Return the pulled model that is called ``name``.

    Raises:
        ModelNotFoundError: there is none, or it came with the program.
    """
    model = find_installed(name, settings.data_dir)
    if model.packaged:
        raise ModelNotFoundError(
            f"{model.name} came with the program and is not removed; leave out --model, or set "
            "ONBOOK_MODEL_PATH, to choose what is run."
        )
    return model


def remove_model(model: InstalledModel, *, waiting: "Callable[[], None]") -> list[Path]:
    """Delete the model's file, its manifest and its partial files; return what was deleted.

    A worker that runs the model goes on until it is stopped. Blocking.

    Args:
        model: What ``removable`` returned.
        waiting: Called once if a pull of this model runs, which is waited for.

    Raises:
        PullFailed: the directory cannot be written.
        OSError: a file cannot be deleted.
    """
    path = model.path
    with locked(path, waiting=waiting):
        # The manifest last: without its file it is nothing, but a file without it is unknown.
        parts = sorted(path.parent.glob(f".{glob.escape(path.name)}.*.part*"))
        found = [file for file in (path, *parts, manifest_path(path)) if file.exists()]
        for file in found:
            file.unlink(missing_ok=True)
    return found
