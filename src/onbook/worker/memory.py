"""How much memory the worker's process takes now."""

import sys
from pathlib import Path

import msgspec

from onbook.wire.worker_api import WorkerMemory

if sys.platform != "win32":
    import resource


def measured(known: WorkerMemory) -> WorkerMemory:
    """Return ``known`` with the process's figures of this moment, in bytes.

    None stands for a figure that this platform does not give.
    """
    if sys.platform == "win32":
        return known
    # The same figure, in other units.
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    rss = _rss()
    # The kernel brings the peak up to date less often.
    return msgspec.structs.replace(known, rss_bytes=rss, peak_rss_bytes=max(peak, rss or 0))


def _rss() -> int | None:
    try:
        pages = int(Path("/proc/self/statm").read_bytes().split()[1])
    except (OSError, ValueError, IndexError):
        # Only Linux has it.
        return None
    return pages * resource.getpagesize()
