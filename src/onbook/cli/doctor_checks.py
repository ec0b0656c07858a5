"""What a check of the doctor says, and the checks that look at this machine alone."""

import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from onbook.adapters.files.secrets import PEPPER_FILE

if TYPE_CHECKING:
    from onbook.settings import Settings

Status = Literal["ok", "warning", "failure"]
_Result = TypeVar("_Result")

# No single look takes longer than this: whoever asks the doctor is already waiting.
LOOK_S: Final = 2.0
SPOOL_FILE: Final = "enhancement_logs.spool"

_LEAST_PYTHON: Final = (3, 11)
_LEAST_FREE_BYTES: Final = 500 * 1024 * 1024
_LEAST_YEAR: Final = 2026


@dataclass(frozen=True, slots=True)
class Check:
    """One finding: a sentence, and what to do unless all is well."""

    name: str
    status: Status
    message: str
    fix: str | None = None


def ok(name: str, message: str) -> Check:
    """Return the finding that all is well."""
    return Check(name, "ok", message)


def warning(name: str, message: str, fix: str) -> Check:
    """Return the finding of something that works, but not as it should."""
    return Check(name, "warning", message, fix)


def failure(name: str, message: str, fix: str) -> Check:
    """Return the finding of something that does not work."""
    return Check(name, "failure", message, fix)


def within(seconds: float, look: Callable[[], _Result]) -> _Result:
    """Return what ``look`` returns, or stop waiting for it: name look-ups know no timeout.

    Raises:
        TimeoutError: it took longer; it goes on in a thread that does not keep the program.
    """
    found: list[_Result] = []
    raised: list[Exception] = []

    def run() -> None:
        try:
            found.append(look())
        except Exception as error:  # noqa: BLE001 - raised again below, in the caller's thread
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if raised:
        raise raised[0]
    if not found:
        raise TimeoutError
    return found[0]


def check_python() -> Check:
    """Look at the interpreter's version."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < _LEAST_PYTHON:
        return failure("python", f"Python {version} is too old.", "install Python 3.11 or newer")
    return ok("python", f"Python {version}.")


def check_data_dir(settings: "Settings") -> Check:
    """Look at the data directory: there, ours, and closed to others."""
    path = settings.data_dir
    if not path.exists():
        parent = _nearest(path)
        if parent.is_dir() and os.access(parent, os.W_OK | os.X_OK):
            return ok("data_dir", f"The data directory {path} is made at the first start.")
        return failure(
            "data_dir",
            f"The data directory {path} cannot be made: {parent} may not be written.",
            f"make {path} yourself, or name another with --data-dir",
        )
    if not path.is_dir():
        return failure("data_dir", f"{path} is not a directory.", "name another with --data-dir")
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        return failure(
            "data_dir",
            f"The data directory {path} may not be read and written by this user.",
            f"chown it to this user, or chmod u+rwx {path}",
        )
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return warning(
            "data_dir",
            f"The data directory {path} is open to other users (mode {mode:04o}).",
            f"chmod 700 {path}",
        )
    return ok("data_dir", f"The data directory {path} is writable, and closed to others.")


def check_disk(settings: "Settings") -> Check:
    """Look at the free space where the data is, or will be."""
    try:
        free = shutil.disk_usage(_nearest(settings.data_dir)).free
    except OSError as error:
        return warning("disk", f"The free space is not known: {error.strerror}.", "check the disk")
    text = f"{free / 1024**2:,.0f} MiB are free for the data."
    if free < _LEAST_FREE_BYTES:
        return warning("disk", text, "free some space: audit rows need it; 500 MiB or more is safe")
    return ok("disk", text)


def check_secrets(settings: "Settings", *, stored_keys: int) -> list[Check]:
    """Look at the secret files: there where they are needed, and closed to others."""
    pepper = settings.data_dir / PEPPER_FILE
    if settings.key_pepper is not None:
        found = [ok("key_pepper", "The key pepper comes from ONBOOK_KEY_PEPPER.")]
    elif not pepper.exists() and stored_keys:
        found = [
            failure(
                "key_pepper",
                f"{pepper} is gone, so none of the {stored_keys} access keys works.",
                "restore it from a backup, or make every key anew with 'onbook keys create'",
            )
        ]
    else:
        found = [_secret_file("key_pepper", pepper)]
    return found


def check_spool(settings: "Settings") -> Check:
    """Look for audit rows that wait for the database."""
    path = settings.data_dir / SPOOL_FILE
    try:
        if not path.exists() or path.stat().st_size == 0:
            return ok("spool", "No audit row waits for the database.")
        with path.open("rb") as file:
            rows = sum(1 for _ in file)
    except OSError as error:
        return failure(
            "spool", f"The spool {path} cannot be read: {error.strerror}.", f"chmod 600 {path}"
        )
    return warning(
        "spool",
        f"{rows} audit rows wait in {path} for the database.",
        "start 'onbook serve': it moves them as soon as the database can be written",
    )


def check_clock(newest_row: datetime | None) -> Check:
    """Look at the clocks: keys expire by them and audit rows are ordered by them."""
    now, before = datetime.now(UTC), time.monotonic()
    fix = "set the clock, and keep it set with NTP"
    if now.year < _LEAST_YEAR:
        return failure("clock", f"The clock says {now:%Y-%m-%d}, which is in the past.", fix)
    if time.monotonic() < before:
        return failure("clock", "The monotonic clock goes backwards.", "look at the virtualisation")
    if newest_row is not None and newest_row > now:
        behind = (newest_row - now).total_seconds()
        return failure("clock", f"The clock is {behind:,.0f} s behind the newest audit row.", fix)
    return ok("clock", f"The clock says {now:%Y-%m-%d %H:%M} UTC.")


def check_runtime(settings: "Settings") -> Check:
    """Import the inference runtime, in a process of its own: a wrong build ends its process."""
    if (skipped := _no_model(settings, "runtime")) is not None:
        return skipped
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-B", "-c", "import xllamacpp"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LOOK_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return warning(
            "runtime", f"The inference runtime did not load within {LOOK_S:.0f} s.", "look again"
        )
    if done.returncode == 0:
        return ok("runtime", "The inference runtime loads.")
    if done.returncode < 0:
        return failure(
            "runtime",
            f"The inference runtime crashes while it loads (signal {-done.returncode}).",
            "use a machine with AVX2, or a worker elsewhere with ONBOOK_WORKER_URL",
        )
    if b"libgomp" in done.stderr:
        return failure(
            "runtime", "The library libgomp.so.1 is missing.", "apt-get install libgomp1"
        )
    return failure(
        "runtime",
        "The inference runtime xllamacpp cannot be imported.",
        "pip install 'onbook[llama]', or a worker elsewhere with ONBOOK_WORKER_URL",
    )


def check_model(settings: "Settings") -> Check:
    """Look at the model file and, where it is known, at its digest."""
    from onbook.worker.model_file import packaged_model  # noqa: PLC0415 - only with a model
    from onbook.worker.models import (  # noqa: PLC0415 - likewise
        ModelNotFoundError,
        find_model,
        installed_models,
        mending,
        stated_sha256,
    )

    if (skipped := _no_model(settings, "model")) is not None:
        return skipped
    try:
        named = settings.model_path
        path = find_model(named, settings.data_dir) if named is not None else packaged_model()
    except ModelNotFoundError as error:
        return failure("model", str(error), "pull it, or correct ONBOOK_MODEL_PATH")
    if path is None:
        what = "The packaged model is not installed."
        return failure("model", what, "run 'make install', or set ONBOOK_MODEL_PATH to a GGUF file")
    expected = settings.model_sha256 or stated_sha256(path)
    fix = "correct ONBOOK_MODEL_SHA256, or name the file that it is of"
    if settings.model_sha256 is None:
        installed = installed_models(settings.data_dir)
        model = next((one for one in installed if one.path == path), None)
        fix = mending(model) if model is not None else fix
    try:
        return _digest_check(path, expected, fix) if expected else _kind_check(path)
    except TimeoutError:
        return warning(
            "model",
            f"The model file {path.name} is too large to hash within {LOOK_S:.0f} s.",
            f"sha256sum {path}, and compare it with ONBOOK_MODEL_SHA256",
        )
    except OSError as error:
        return failure("model", f"{path} cannot be read: {error.strerror}.", f"chmod a+r {path}")


def check_installed(settings: "Settings") -> Check | None:
    """Compare the pulled models' sizes with their manifests; None where there are none."""
    from onbook.worker.models import installed_models, mending  # noqa: PLC0415 - not for --help

    pulled = [model for model in installed_models(settings.data_dir) if not model.packaged]
    if not pulled:
        return None
    for model in pulled:
        try:
            size = model.path.stat().st_size
        except OSError:
            continue
        if model.manifest is not None and size != model.manifest.size_bytes:
            return warning(
                "models",
                f"The model {model.name} has {size:,} bytes, not the {model.manifest.size_bytes:,} "
                "that were pulled.",
                mending(model),
            )
    return ok("models", f"{len(pulled)} pulled models, as large as their manifests state.")


def _kind_check(path: Path) -> Check:
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            return failure("model", f"{path.name} is no GGUF file.", "name a GGUF file")
    return ok("model", f"The model file {path.name} is there; no digest is set for it.")


def _digest_check(path: Path, expected: str, fix: str) -> Check:
    from onbook.worker.model_file import file_sha256  # noqa: PLC0415 - only where it is used

    digest = within(LOOK_S, lambda: file_sha256(path))
    if digest != expected.lower():
        return failure(
            "model",
            f"The model file {path.name} is not the expected one (SHA-256 {digest[:12]}…).",
            fix,
        )
    return ok("model", f"The model file {path.name} has the expected digest.")


def _no_model(settings: "Settings", name: str) -> Check | None:
    if settings.worker_url is not None:
        return ok(name, "Not needed here: the worker is elsewhere.")
    if settings.worker_engine == "echo":
        return ok(name, "Not needed by the echo engine.")
    return None


def _secret_file(name: str, path: Path) -> Check:
    try:
        if not path.exists():
            return ok(name, f"{path} is made at the first start.")
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        return failure(name, f"{path} cannot be looked at: {error.strerror}.", "check its owner")
    if not os.access(path, os.R_OK):
        return failure(name, f"{path} may not be read by this user.", f"chown or chmod 600 {path}")
    if mode & 0o077:
        return warning(name, f"{path} is open to others (mode {mode:04o}).", f"chmod 600 {path}")
    return ok(name, f"{path} is closed to others.")


def _nearest(path: Path) -> Path:
    """Return ``path``, or the nearest directory above it that exists."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
