"""Who this worker is: a ring of Ed25519 keys that it makes at its first start and keeps."""

import os
import secrets
import stat
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from onbook.wire.signing import (
    KeyRing,
    PublishedKey,
    Signer,
    decoded_ring,
    encoded_ring,
    new_ring,
)

KEYS_FILE: Final = "worker_keys.json"
# What a worker had before there were rings: its only key, in hexadecimal.
SINGLE_KEY_FILE: Final = "worker_ed25519.key"
# A ring that another process rotated is noticed within this many seconds.
FOLLOW_S: Final = 5.0
_MAX_BYTES: Final = 1024 * 1024
_log = structlog.get_logger("onbook.worker")


class IdentityError(Exception):
    """The key file cannot be used; the message is one sentence with its path."""


class WorkerKeys:
    """The ring in ``path``, and the signer that is in use; a rotation by a command is followed.

    A file that is damaged or gone changes nothing while the worker runs.

    Args:
        path: The ring's file.
        now: The wall clock, in UTC.
        monotonic: Seconds on a clock that never goes back.

    Raises:
        IdentityError: the file is damaged or cannot be read.
    """

    def __init__(
        self,
        path: Path,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path, self._now, self._monotonic = path, now, monotonic
        self._version = _version(path)
        self._ring = _read_ring(path)
        self._look_at = monotonic() + FOLLOW_S
        # Making a signer costs more than a signature; it is made anew when another key is due.
        self._made: tuple[str, Signer] | None = None

    @property
    def owner(self) -> str:
        """The worker's id: it follows from the first key, and stays when keys are rotated."""
        return self._ring.owner

    @property
    def published(self) -> list[PublishedKey]:
        """The public half of every key, oldest first."""
        self._follow()
        return self._ring.published

    def signer(self) -> Signer:
        """Return the signer that is in use now."""
        self._follow()
        moment = self._now().isoformat(timespec="microseconds")
        due = [key.public_key for key in self._ring.published if key.not_before <= moment]
        newest = due[-1] if due else self._ring.published[0].public_key
        if self._made is None or self._made[0] != newest:
            self._made = newest, self._ring.signer(self._now())
        return self._made[1]

    def _follow(self) -> None:
        if self._monotonic() < self._look_at:
            return
        self._look_at = self._monotonic() + FOLLOW_S
        version = _version(self._path)
        if version is None or version == self._version:
            return
        self._version = version
        try:
            ring = _read_ring(self._path)
        except IdentityError as error:
            _log.error("worker.keys_unusable", reason=str(error))
            return
        if ring.owner != self._ring.owner:
            _log.error("worker.keys_of_another", path=str(self._path))
            return
        self._ring = ring
        _log.info("worker.keys_changed", worker_id=ring.owner, keys=len(ring.keys))


def load_or_create_keys(data_dir: Path) -> WorkerKeys:
    """Return the worker's keys from ``data_dir``; the first start makes them, for its owner only.

    A single key of an earlier version becomes the first key of the ring, so that the worker's id
    and the keys that gateways have pinned stay. Its file is left as it is.

    Raises:
        IdentityError: a file is damaged, or cannot be read or written.
    """
    path = data_dir / KEYS_FILE
    try:
        if not path.exists():
            data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            _create(path, encoded_ring(_first_ring(data_dir / SINGLE_KEY_FILE)))
    except OSError as error:
        raise _unusable(path, error) from None
    return WorkerKeys(path)


def _first_ring(single: Path) -> KeyRing:
    try:
        text, made_at = single.read_bytes(), single.stat().st_mtime
    except FileNotFoundError:
        return new_ring("worker", at=datetime.now(UTC))
    except OSError as error:
        raise _unusable(single, error) from None
    try:
        key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(text.decode("ascii").strip()))
    except ValueError:
        raise IdentityError(
            f"The worker key {single} is damaged; restore it, or move it away to have a new one "
            "made."
        ) from None
    return new_ring("worker", at=datetime.fromtimestamp(made_at, UTC), key=key)


def _read_ring(path: Path) -> KeyRing:
    try:
        status = path.stat()
        data = path.read_bytes() if status.st_size <= _MAX_BYTES else b""
    except OSError as error:
        raise _unusable(path, error) from None
    if stat.S_IMODE(status.st_mode) & 0o077:
        _log.warning("secret_file_open_to_others", path=str(path), advice="chmod 600")
    try:
        return decoded_ring(data)
    except ValueError:
        raise IdentityError(
            f"The worker's keys in {path} are damaged; restore the file from a backup, or move it "
            "away to have a new key made, which gateways must be told."
        ) from None


def _create(path: Path, data: bytes) -> None:
    # Not the process id: in a container that is the same at every start, so a draft that a killed
    # process left behind would be in the way for ever.
    draft = path.with_suffix(f".{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # A link fails where the file has appeared meanwhile: the first starter wins.
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _version(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    # A replaced file is another inode, even within one tick of the clock.
    return status.st_mtime_ns, status.st_ino


def _unusable(path: Path, error: OSError) -> IdentityError:
    return IdentityError(f"The worker's keys in {path} cannot be used: {error.strerror}.")
