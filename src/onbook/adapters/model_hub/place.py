"""Where a pulled file lies while it comes and afterwards: lock, partial file, atomic rename."""

import errno
import fcntl
import glob
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

from onbook.adapters.model_hub.errors import PullFailed

_T = TypeVar("_T")

# Left free on the disk: the database beside the models needs some.
_MARGIN_BYTES: Final = 256 * 1024 * 1024
_CHUNK: Final = 1024 * 1024
_MIB: Final = 1024 * 1024


@contextmanager
def locked(path: Path, *, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of the model at ``path``; one pull of it runs at a time, on this machine.

    ``waiting`` is called once if another holds it. The system lets go of a lock when its process
    ends, however it ends.

    Raises:
        PullFailed: the directory cannot be written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise PullFailed(f"{path.parent} cannot be written: {error.strerror}.") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class PartialFile:
    """What has come of a file so far. It is found again by the digest of the whole.

    Args:
        path: Where the whole file will lie; its directory exists.
        sha256: Digest that the whole must have.
        size: Bytes of the whole.
    """

    def __init__(self, path: Path, *, sha256: str, size: int) -> None:
        self._path = path
        self._sha256 = sha256
        self.size = size
        self.path = path.with_name(f".{path.name}.{sha256}.part")
        self._etag_path = self.path.with_name(self.path.name + ".etag")
        self._file = self._do(lambda: os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666))
        self._digest = hashlib.sha256()
        self.done = 0

    def resume(self) -> None:
        """Read what is there from an earlier try. Blocking: about a second per gigabyte."""
        if os.fstat(self._file).st_size > self.size:
            self.restart()
        while chunk := self._do(lambda: os.read(self._file, _CHUNK)):
            self._digest.update(chunk)
            self.done += len(chunk)

    def restart(self) -> None:
        """Forget what has come."""
        self._do(lambda: os.ftruncate(self._file, 0))
        self._do(lambda: os.lseek(self._file, 0, os.SEEK_SET))
        self._digest = hashlib.sha256()
        self.done = 0

    @property
    def etag(self) -> str | None:
        """The mark by which the server told this state of the file from others."""
        try:
            return self._etag_path.read_text("latin-1") or None
        except OSError:
            return None

    @etag.setter
    def etag(self, value: str | None) -> None:
        # Written before the bytes that it is about: a mark without bytes does no harm.
        self._do(lambda: self._etag_path.write_text(value or "", "latin-1"))

    def append(self, data: bytes) -> None:
        """Write ``data`` at the end.

        Raises:
            PullFailed: the disk refused, or it is more than the whole may have.
        """
        if self.done + len(data) > self.size:
            self.discard()
            raise PullFailed(
                "The hub sends more bytes than it stated; the file was changed. Pull it again."
            )
        left = memoryview(data)
        while left:
            written = self._do(lambda rest=left: os.write(self._file, rest))  # type: ignore[misc]  # a default binds the loop's value
            left = left[written:]
        self._digest.update(data)
        self.done += len(data)

    def install(self, check: Callable[[Path], None]) -> None:
        """Sync the file, look at it, and give it its name: the old file or the new, never a part.

        Raises:
            PullFailed: the digest is another, ``check`` refused it, or the disk did. A file that
                is wrong is deleted.
        """
        if self.done != self.size or self._digest.hexdigest() != self._sha256:
            self.discard()
            raise PullFailed(
                f"What came has SHA-256 {self._digest.hexdigest()[:12]}…, not the stated "
                f"{self._sha256[:12]}…; it was deleted. Pull it again."
            )
        try:
            check(self.path)
        except PullFailed:
            self.discard()
            raise
        self._do(lambda: os.fsync(self._file))
        self._do(lambda: self.path.replace(self._path))
        for left in self._path.parent.glob(f".{glob.escape(self._path.name)}.*.part*"):
            left.unlink(missing_ok=True)
        self._do(self._sync_directory)

    def discard(self) -> None:
        """Delete what has come."""
        self.path.unlink(missing_ok=True)
        self._etag_path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the file; what has come stays for the next try."""
        os.close(self._file)

    def _sync_directory(self) -> None:
        descriptor = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _do(self, work: Callable[[], _T]) -> _T:
        try:
            return work()
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                # The database beside it needs the room more than the next try does.
                self.discard()
                raise PullFailed(_no_room(self._path, self.size, free_bytes(self._path))) from None
            raise PullFailed(f"{self._path} cannot be written: {error.strerror}.") from None


def check_room(path: Path, missing: int) -> None:
    """Look whether the disk of ``path`` takes ``missing`` bytes more, and leaves some free.

    Raises:
        PullFailed: it does not.
    """
    free = free_bytes(path)
    if missing + _MARGIN_BYTES > free:
        raise PullFailed(_no_room(path, missing + _MARGIN_BYTES, free))


def free_bytes(path: Path) -> int:
    """Return the free bytes on the disk of ``path``; 0 where they are not known."""
    with suppress(OSError):
        return shutil.disk_usage(path.parent).free
    return 0


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal. Blocking.

    Raises:
        PullFailed: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise PullFailed(f"{path} cannot be read: {error.strerror}.") from None


def _no_room(path: Path, needed: int, free: int) -> str:
    return (
        f"The disk has no room for the model: it needs {needed / _MIB:,.0f} MiB in {path.parent}, "
        f"and {free / _MIB:,.0f} MiB are free. Free some, or name another --data-dir."
    )
