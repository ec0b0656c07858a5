"""Who this worker is: an Ed25519 key that it makes at its first start and keeps."""

import os
import secrets
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from onbook.wire.canonical import sha256_hex
from onbook.wire.receipt import public_key_of

_FILE: Final = "worker_ed25519.key"


class IdentityError(Exception):
    """The key file cannot be used; the message is one sentence with its path."""


def load_or_create_key(data_dir: Path) -> Ed25519PrivateKey:
    """Return the worker's key from ``data_dir``; make it, readable by its owner only, if absent.

    Raises:
        IdentityError: the file is damaged or cannot be written.
    """
    path = data_dir / _FILE
    try:
        if not path.exists():
            _create(path)
        raw = bytes.fromhex(path.read_text("ascii").strip())
        return Ed25519PrivateKey.from_private_bytes(raw)
    except OSError as error:
        raise IdentityError(f"The worker key {path} cannot be used: {error.strerror}.") from None
    except ValueError:
        raise IdentityError(
            f"The worker key {path} is damaged; move it away to have a new one made."
        ) from None


def worker_id_of(key: Ed25519PrivateKey) -> str:
    """Return the worker's id: it follows from the key, so nobody else can claim it."""
    return f"worker-{sha256_hex(public_key_of(key).encode())[:12]}"


def _create(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = Ed25519PrivateKey.generate()
    # Not the process id: in a container that is the same at every start, so a draft that a killed
    # process left behind would be in the way for ever.
    draft = path.with_suffix(f".{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(key.private_bytes_raw().hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        # A link fails where the file has appeared meanwhile: the first starter wins.
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
