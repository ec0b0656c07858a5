"""Writing files so that a crash leaves either the old content or the new, never a part."""

import os
import tempfile
from pathlib import Path
from typing import Final

PRIVATE: Final = 0o600


def ensure_data_dir(data_dir: Path) -> None:
    """Create the data directory, for its owner only, if it is missing.

    Raises:
        OSError: it cannot be created.
    """
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data``, synced to disk, readable by its owner only.

    Raises:
        OSError: nothing was changed.
    """
    temporary = _written_beside(path, data)
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def create_once(path: Path, data: bytes) -> bool:
    """Create ``path`` with ``data`` unless it is there; return whether it was created.

    Whoever else creates it at the same time: one wins, and no reader ever sees half a file.

    Raises:
        OSError: it cannot be created.
    """
    temporary = _written_beside(path, data)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)
    return True


def sync_directory(directory: Path) -> None:
    """Make the names in ``directory`` durable.

    Raises:
        OSError: the disk refused.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _written_beside(path: Path, data: bytes) -> Path:
    # mkstemp opens with O_EXCL and mode 0600.
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary
