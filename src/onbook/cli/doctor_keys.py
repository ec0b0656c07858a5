"""The doctor's look at the rings of signing keys: what a start would refuse, without a start."""

import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from onbook.adapters.files.signing_keys import GATEWAY_KEYS_FILE, WORKER_KEYS_FILE
from onbook.cli.doctor_checks import Check, failure, ok, warning
from onbook.wire.signing import KeyRing, decoded_ring, key_id_of

if TYPE_CHECKING:
    from onbook.settings import Settings

# What a worker had before there were rings; its first start now takes it over.
_SINGLE_KEY_FILE: Final = "worker_ed25519.key"
_MAX_BYTES: Final = 1024 * 1024


def check_signing_keys(settings: "Settings") -> list[Check]:
    """Look at the gateway's ring, and at the worker's where that is embedded."""
    checks = [_check("gateway_keys", settings.data_dir / GATEWAY_KEYS_FILE, "gateway")]
    if settings.worker_url is None:
        path = settings.data_dir / WORKER_KEYS_FILE
        single = settings.data_dir / _SINGLE_KEY_FILE
        if not path.exists() and single.exists():
            checks.append(_check_single(single))
        else:
            checks.append(_check("worker_keys", path, "worker"))
    return checks


def _check(name: str, path: Path, role: str) -> Check:
    try:
        status = path.stat()
        data = path.read_bytes() if status.st_size <= _MAX_BYTES else b""
    except FileNotFoundError:
        return ok(name, f"{path} is made at the first start.")
    except OSError as error:
        return failure(
            name, f"{path} cannot be read: {error.strerror}.", f"chown it, or chmod 600 {path}"
        )
    try:
        ring = decoded_ring(data)
    except ValueError:
        return failure(
            name,
            f"{path} is damaged, so nothing can be signed and no start works.",
            f"restore it from a backup; without one, mv {path} {path}.damaged: the next start "
            "makes a new key, which whoever trusted the old one has to be told",
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        return warning(name, f"{path} is open to others (mode {mode:04o}).", f"chmod 600 {path}")
    return ok(name, _described(path, ring, role))


def _described(path: Path, ring: KeyRing, role: str) -> str:
    now = datetime.now(UTC)
    in_use = ring.signer(now).key_id
    count = len(ring.keys)
    text = f"{path} is closed to others: {count} {'key' if count == 1 else 'keys'} of the {role}, "
    text += f"{in_use} in use"
    due = [key for key in ring.published if datetime.fromisoformat(key.not_before) > now]
    # The first key is in use before its time too, where a clock was wrong.
    pending = [key for key in due if key_id_of(key.public_key) != in_use]
    if pending:
        at = datetime.fromisoformat(pending[0].not_before)
        text += f"; {key_id_of(pending[0].public_key)} follows at {at:%Y-%m-%d %H:%M} UTC"
    return f"{text}."


def _check_single(path: Path) -> Check:
    name = "worker_keys"
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        usable = len(bytes.fromhex(path.read_text("ascii").strip())) == 32
    except OSError as error:
        return failure(
            name, f"{path} cannot be read: {error.strerror}.", f"chown it, or chmod 600 {path}"
        )
    except ValueError:
        usable = False
    if not usable:
        return failure(
            name,
            f"{path} is damaged, so the worker does not start.",
            f"restore it from a backup, or mv {path} {path}.damaged to have a new key made",
        )
    if mode & 0o077:
        return warning(name, f"{path} is open to others (mode {mode:04o}).", f"chmod 600 {path}")
    return ok(name, f"{path} becomes the first key of {WORKER_KEYS_FILE} at the next start.")
