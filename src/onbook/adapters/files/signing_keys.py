"""The rings of signing keys in the data directory, and the signer that follows one of them."""

import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import structlog

from onbook.adapters.files.durable import create_once, ensure_data_dir, write_atomically
from onbook.adapters.files.secrets import SecretUnusable
from onbook.wire.signing import KeyRing, Signer, decoded_ring, encoded_ring, new_ring

_log = structlog.get_logger(__name__)

GATEWAY_KEYS_FILE: Final = "gateway_keys.json"
WORKER_KEYS_FILE: Final = "worker_keys.json"
# A ring that was rotated is noticed within this many seconds.
FOLLOW_S: Final = 5.0
_MAX_BYTES: Final = 1024 * 1024


def load_or_create_gateway_ring(data_dir: Path) -> KeyRing:
    """Return the gateway's ring; the first call makes it, whoever else calls at the same time.

    Raises:
        SecretUnusable: the file is damaged, or cannot be read or created.
    """
    path = data_dir / GATEWAY_KEYS_FILE
    try:
        if not path.exists():
            ensure_data_dir(data_dir)
            create_once(path, encoded_ring(new_ring("gateway", at=datetime.now(UTC))))
    except OSError as error:
        raise _unusable(path, error) from error
    ring = load_ring(path)
    if ring is None:
        raise SecretUnusable(f"{path} has vanished while it was read; start again.")
    return ring


def load_ring(path: Path) -> KeyRing | None:
    """Return the ring in ``path``, or None where there is no such file.

    Raises:
        SecretUnusable: the file is damaged or cannot be read.
    """
    try:
        status = path.stat()
        data = path.read_bytes() if status.st_size <= _MAX_BYTES else b""
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(path, error) from error
    if stat.S_IMODE(status.st_mode) & 0o077:
        _log.warning("secret_file_open_to_others", path=str(path), advice="chmod 600")
    try:
        return decoded_ring(data)
    except ValueError:
        raise SecretUnusable(
            f"{path} is damaged; restore it from a backup. Without it move it away: a new key is "
            "made then, which whoever trusted the old one has to be told."
        ) from None


def save_ring(path: Path, ring: KeyRing) -> None:
    """Replace the ring in ``path``, readable by its owner only.

    Raises:
        SecretUnusable: it cannot be written; the old one is still there.
    """
    try:
        write_atomically(path, encoded_ring(ring))
    except OSError as error:
        raise _unusable(path, error) from error


@dataclass(frozen=True, slots=True)
class _InUse:
    """A signer of ``ring``, and from when until when it is known to be the one in use."""

    signer: Signer
    ring: KeyRing
    since: datetime
    until: datetime | None

    def holds(self, ring: KeyRing, now: datetime) -> bool:
        return self.ring is ring and now >= self.since and (self.until is None or now < self.until)


class FollowedRing:
    """A ring in a file, and the signer that is in use; a rotation by another process is followed.

    The file's time is looked at every ``FOLLOW_S`` seconds at most. A file that is damaged or gone
    changes nothing: what was read last stays in use.

    Args:
        path: The ring's file.
        ring: What it holds.
        now: The wall clock, in UTC.
        monotonic: Seconds on a clock that never goes back.
    """

    def __init__(
        self,
        path: Path,
        ring: KeyRing,
        *,
        now: Callable[[], datetime],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path, self._now, self._monotonic = path, now, monotonic
        self._version = _version(path)
        self._look_at = monotonic() + FOLLOW_S
        self.ring = ring
        # One value, replaced as a whole: the log asks from threads of its own.
        self._in_use: _InUse | None = None

    def signer(self) -> Signer:
        """Return the signer that is in use now. Safe to call from any thread."""
        if self._monotonic() >= self._look_at:
            self._follow()
        now, ring, known = self._now(), self.ring, self._in_use
        if known is None or not known.holds(ring, now):
            known = _InUse(ring.signer(now), ring, since=now, until=_next_due(ring, now))
            self._in_use = known
        return known.signer

    def _follow(self) -> None:
        self._look_at = self._monotonic() + FOLLOW_S
        version = _version(self._path)
        if version is None or version == self._version:
            return
        self._version = version
        try:
            ring = load_ring(self._path)
        except SecretUnusable as error:
            _log.error("signing_keys.unusable", reason=str(error))
            return
        if ring is not None and ring != self.ring:
            self.ring = ring
            _log.info("signing_keys.changed", owner=ring.owner, keys=len(ring.keys))


def _next_due(ring: KeyRing, now: datetime) -> datetime | None:
    times = (datetime.fromisoformat(key.not_before) for key in ring.published)
    return min((due for due in times if due > now), default=None)


def _version(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    # A replaced file is another inode, even within one tick of the clock.
    return status.st_mtime_ns, status.st_ino


def _unusable(path: Path, error: OSError) -> SecretUnusable:
    return SecretUnusable(
        f"{path} cannot be read or written ({error.strerror}); check the directory and its owner."
    )
