"""An append-only file of checked lines that survives a crash at any byte.

One line is ``<CRC-32 in hexadecimal> <JSON>``. All functions block, and are safe to call from
several threads.
"""

import errno
import fcntl
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from zlib import crc32

import structlog

from onbook.adapters.files.durable import PRIVATE, sync_directory

_log = structlog.get_logger(__name__)

_BATCH_LINES: Final = 256
_BATCH_BYTES: Final = 8 * 1024 * 1024


def checked_line(body: bytes) -> bytes:
    """Return ``body``, which holds no line end, as a line with its checksum."""
    return b"%08x %s\n" % (crc32(body), body)


def line_body(line: bytes) -> bytes | None:
    """Return the body of ``line``, or None if it is not what was written."""
    digest, _, body = line.rstrip(b"\n").partition(b" ")
    return body if digest == b"%08x" % crc32(body) else None


class SpoolFile:
    """The file, its lock, and how far it has been read.

    Args:
        path: The file; its directory must exist. What cannot be read again is kept in a file
            beside it, with ``.damaged`` appended to its name.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._descriptor: int | None = None
        self._size = 0
        self._read = 0

    @property
    def is_open(self) -> bool:
        """Whether the file is open and locked for this process."""
        return self._descriptor is not None

    def open(self) -> int:
        """Open and lock the file, set a torn last line aside, and return the number of lines.

        Raises:
            OSError: it cannot be opened, or another process has it.
        """
        with self._lock:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, PRIVATE)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                lines, whole = _measure(descriptor)
                torn = os.pread(descriptor, os.fstat(descriptor).st_size - whole, whole)
                if torn:
                    _log.warning("spool_line_torn", bytes=len(torn))
                    self.set_aside([torn + b"\n"])
                    os.ftruncate(descriptor, whole)
                    os.fsync(descriptor)
                sync_directory(self._path.parent)
            except OSError:
                os.close(descriptor)
                raise
            self._descriptor, self._size, self._read = descriptor, whole, 0
            return lines

    def append(self, lines: Sequence[bytes]) -> None:
        """Add ``lines`` and sync them to disk; all of them or none.

        Raises:
            OSError: nothing was added.
        """
        with self._lock:
            self._restore_if_removed()
            descriptor = self._opened()
            data = memoryview(b"".join(lines))
            # What an earlier failure left behind would tear the next line.
            os.ftruncate(descriptor, self._size)
            try:
                written = 0
                while written < len(data):
                    written += os.write(descriptor, data[written:])
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, self._size)
                raise
            self._size += len(data)

    def read(self) -> tuple[list[bytes], bool]:
        """Return the next lines, and whether they are the last ones; ``advance`` moves on.

        Raises:
            OSError: the disk refused.
        """
        with self._lock:
            lines: list[bytes] = []
            end = self._read
            with os.fdopen(os.dup(self._opened()), "rb") as file:
                file.seek(self._read)
                while len(lines) < _BATCH_LINES and end < min(
                    self._size, self._read + _BATCH_BYTES
                ):
                    line = file.readline()
                    if not line:
                        raise OSError(errno.EIO, "the spool was cut short by someone else")
                    lines.append(line)
                    end += len(line)
            return lines, end >= self._size

    def advance(self, lines: Sequence[bytes]) -> None:
        """Take ``lines``, the next ones, as done."""
        with self._lock:
            self._read += sum(map(len, lines))

    def clear(self) -> None:
        """Empty the file, if all of it was read and taken as done.

        Raises:
            OSError: the disk refused; the lines are still there and will be read again.
        """
        with self._lock:
            descriptor = self._opened()
            if self._read != self._size:
                return
            os.ftruncate(descriptor, 0)
            self._size = self._read = 0
            os.fsync(descriptor)

    def set_aside(self, lines: Sequence[bytes]) -> None:
        """Keep ``lines`` in the file for what needs a person.

        Raises:
            OSError: the disk refused.
        """
        path = self._path.with_name(self._path.name + ".damaged")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE)
        try:
            data = b"".join(lines)
            if os.write(descriptor, data) != len(data):
                raise OSError(errno.EIO, "short write")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Let go of the file and its lock."""
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    def _opened(self) -> int:
        if self._descriptor is None:
            raise OSError(errno.EBADF, "the spool is not open")
        return self._descriptor

    def _restore_if_removed(self) -> None:
        """Write the lines anew if someone deleted the file: this process still holds them."""
        if self._path.exists():
            return
        old, read = self._opened(), self._read
        content = os.pread(old, self._size, 0)
        _log.error("spool_removed", bytes=len(content))
        self._descriptor = None
        try:
            self.open()
            if content:
                self.append([content])
        except OSError:
            self.close()
            self._descriptor, self._size, self._read = old, len(content), read
            raise
        self._read = read
        os.close(old)


def _measure(descriptor: int) -> tuple[int, int]:
    """Return the number of whole lines, and the bytes up to the end of the last one."""
    lines = position = whole = 0
    with os.fdopen(os.dup(descriptor), "rb") as file:
        file.seek(0)
        while chunk := file.read(1 << 20):
            lines += chunk.count(b"\n")
            end = chunk.rfind(b"\n")
            if end >= 0:
                whole = position + end + 1
            position += len(chunk)
    return lines, whole
