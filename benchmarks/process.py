"""Servers as child processes: pinned to a core, awaited, accounted for, and always ended."""

import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_POLL_S: Final = 0.02
_STOP_S: Final = 10.0


class ServerFailed(Exception):
    """A server did not come up; the message holds the end of what it wrote."""


class Server:
    """One server process. ``url`` is what follows ``ready`` on its standard output.

    Args:
        command: Program and arguments.
        directory: Where its output goes, as ``<name>.out`` and ``<name>.err``.
        name: Of the output files.
        ready: Text on standard output that is followed by the URL.
        core: Core to pin it to; None leaves it to the scheduler.
        environment: Variables to add.
        timeout_s: Seconds to wait for ``ready``.

    Raises:
        ServerFailed: it ended, or was not ready in time.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        directory: Path,
        name: str,
        ready: str,
        core: int | None,
        environment: Mapping[str, str] | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        taskset = shutil.which("taskset")
        pinned = [taskset, "-c", str(core)] if taskset and core is not None else []
        self._out, self._err = directory / f"{name}.out", directory / f"{name}.err"
        # A setting of the person who measures must not change what is measured.
        inherited = {
            key: value for key, value in os.environ.items() if not key.startswith("ONBOOK_")
        }
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                [*pinned, *command],
                env={**inherited, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        try:
            self.url = self._await(ready, timeout_s)
        except BaseException:
            self.stop()
            raise
        self.port = int(self.url.rpartition(":")[2])

    def __enter__(self) -> Self:
        """Return the running server."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""
        self.stop()

    def cpu_seconds(self) -> float:
        """Return the CPU time of all its threads so far, in steps of the kernel's tick."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S

    def resident_mib(self) -> float:
        """Return its resident memory in MiB."""
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        return 0.0

    def stop(self) -> None:
        """End it, by force if it does not end when asked."""
        if self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _await(self, ready: str, timeout_s: float) -> str:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            said = self._out.read_text(errors="replace")
            _, found, rest = said.partition(ready)
            if found and "\n" in rest:
                return rest.partition("\n")[0].strip()
            if self._process.poll() is not None:
                break
            time.sleep(_POLL_S)
        raise ServerFailed(f"The server did not start: {self._tail()}")

    def _tail(self) -> str:
        return (self._out.read_text(errors="replace") + self._err.read_text(errors="replace"))[
            -1000:
        ]


def machine_cpu_seconds() -> float:
    """Return the CPU time that everything on this machine has used, or 0 where unknown."""
    try:
        values = [int(item) for item in Path("/proc/stat").read_text().split(maxsplit=9)[1:9]]
    except (OSError, ValueError):
        return 0.0
    # The fourth and fifth are idle and waiting for the disk.
    return (sum(values) - values[3] - values[4]) / _TICKS_PER_S


def cores() -> tuple[int | None, int | None]:
    """Return a core for the gateway and one for stub and load; None where there is only one."""
    if not hasattr(os, "sched_getaffinity"):
        return None, None
    usable = sorted(os.sched_getaffinity(0))
    return (usable[0], usable[1]) if len(usable) > 1 else (None, None)
