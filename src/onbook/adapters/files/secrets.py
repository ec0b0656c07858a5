"""The secret that is made on the first start and kept in the data directory."""

import binascii
import secrets
import stat
from pathlib import Path
from typing import Final

import structlog

from onbook.adapters.files.durable import create_once

_log = structlog.get_logger(__name__)

PEPPER_FILE: Final = "access-key-pepper"

_PEPPER_BYTES: Final = 32


class SecretUnusable(Exception):
    """A secret file is damaged or cannot be read; the message says what to do."""


def load_or_create_pepper(data_dir: Path) -> bytes:
    """Return the 32 bytes that access keys are hashed with, made on the first call.

    Raises:
        SecretUnusable: the file is damaged, or cannot be read or created.
    """
    path = data_dir / PEPPER_FILE
    data = _load_or_create(path, secrets.token_bytes(_PEPPER_BYTES).hex().encode() + b"\n")
    try:
        pepper = binascii.unhexlify(data.strip())
    except ValueError:
        pepper = b""
    if len(pepper) != _PEPPER_BYTES:
        raise SecretUnusable(
            f"{path} is damaged; restore it from a backup. Without it every access key must be "
            "made anew: then delete the file."
        )
    return pepper


def _load_or_create(path: Path, fresh: bytes) -> bytes:
    try:
        if not path.exists():
            create_once(path, fresh)
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            _log.warning("secret_file_open_to_others", path=str(path), advice="chmod 600")
        return path.read_bytes()
    except OSError as error:
        raise SecretUnusable(
            f"{path} cannot be read or created ({error.strerror}); check the directory and its "
            "owner."
        ) from error
