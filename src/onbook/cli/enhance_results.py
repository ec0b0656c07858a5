"""The results of a file of prompts: JSON lines, each synced to disk, whole after any crash."""

import fcntl
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

_START: Final = b'{"line":'


class ResultsUnusable(Exception):
    """The results cannot be read or written; the message is one sentence."""


class _Done(msgspec.Struct):
    line: int
    prompt_sha256: str
    success: bool


class ResultsFile:
    """The results so far, locked for this process, and open for more.

    Args:
        path: The file; created if it is missing. A torn last line is cut off.
        not_this: A file that it must not be: the prompts.

    Raises:
        ResultsUnusable: it cannot be opened, another process writes it, or it holds something
            other than results. Then nothing was changed.
    """

    def __init__(self, path: Path, *, not_this: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._descriptor = -1
        self.done: set[tuple[int, str]] = set()
        self.repaired = False
        try:
            _check_other(path, not_this)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._read()
        except BlockingIOError:
            self.close()
            raise ResultsUnusable(f"another run is writing {path}; wait for it.") from None
        except OSError as error:
            self.close()
            raise ResultsUnusable(f"{path} cannot be used: {error.strerror}.") from None
        except ResultsUnusable:
            self.close()
            raise

    def append(self, record: dict[str, object]) -> None:
        """Write ``record`` and sync it to disk, wholly or not at all. Blocking, thread-safe.

        Raises:
            ResultsUnusable: the disk refused; what was there before is whole.
        """
        data = memoryview(msgspec.json.encode(record) + b"\n")
        with self._lock:
            size = os.fstat(self._descriptor).st_size
            try:
                written = 0
                while written < len(data):
                    written += os.write(self._descriptor, data[written:])
                os.fsync(self._descriptor)
            except OSError as error:
                os.ftruncate(self._descriptor, size)
                raise ResultsUnusable(
                    f"{self._path} cannot be written: {error.strerror}."
                ) from None

    def close(self) -> None:
        """Let go of the file and its lock."""
        with self._lock:
            descriptor, self._descriptor = self._descriptor, -1
            if descriptor >= 0:
                os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _read(self) -> None:
        whole = 0
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    self._check_torn(line)
                    break
                self._note(line, number)
                whole += len(line)
        if self.repaired:
            os.ftruncate(self._descriptor, whole)
        os.fsync(self._descriptor)
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            # The name of a new file must survive a power cut as its lines do.
            os.fsync(directory)
        finally:
            os.close(directory)

    def _note(self, line: bytes, number: int) -> None:
        try:
            found = msgspec.json.decode(line, type=_Done)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise ResultsUnusable(
                f"line {number} of {self._path} is not a result; name another --output."
            ) from None
        if found.success:
            self.done.add((found.line, found.prompt_sha256))

    def _check_torn(self, tail: bytes) -> None:
        # A power cut may leave zeros where the disk had only the length.
        text = tail.rstrip(b"\0")
        if not text.startswith(_START[: len(text)]):
            raise ResultsUnusable(
                f"the end of {self._path} is not a result; name another --output."
            )
        self.repaired = True


def _check_other(path: Path, not_this: Path) -> None:
    if path.exists() and path.samefile(not_this):
        raise ResultsUnusable("the output is the file of prompts itself; name another one.")
