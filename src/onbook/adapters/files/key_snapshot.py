"""The access keys as they were last known, in one file beside the spool."""

import hmac
import json
from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Final

import structlog

from onbook.adapters.files.durable import write_atomically
from onbook.ports.stores import AccessKey

_log = structlog.get_logger(__name__)

KEY_SNAPSHOT_FILE: Final = "access_keys.snapshot.json"
_FORMAT: Final = 1


class FileKeySnapshots:
    """``ports.KeySnapshots`` in one file that only its owner can read.

    It holds HMACs, never keys. The first line is an HMAC of the rest under the pepper, so that a
    torn file, one that was edited, and one of another deployment are all told apart and ignored.

    Args:
        path: The file; its directory must exist.
        pepper: The secret that the keys are hashed with.
    """

    def __init__(self, path: Path, *, pepper: bytes) -> None:
        self._path = path
        self._pepper = pepper

    def save(self, keys: Sequence[AccessKey], *, at: datetime) -> bool:
        """Replace the snapshot in one step; return whether that worked.

        A disk that refuses is logged as ``key_snapshot_not_saved`` and the older file stays.
        """
        document = {
            "format": _FORMAT,
            "saved_at": at.isoformat(),
            "keys": [_mapping(key) for key in keys],
        }
        body = json.dumps(document, separators=(",", ":")).encode()
        try:
            write_atomically(self._path, self._seal(body) + b"\n" + body)
        except OSError as error:
            _log.warning("key_snapshot_not_saved", error=error.strerror)
            return False
        return True

    def load(self) -> tuple[Sequence[AccessKey], datetime] | None:
        """Return the last set and when it was true, or None if there is none that is whole."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            _log.warning("key_snapshot_not_read", error=error.strerror)
            return None
        seal, _, body = data.partition(b"\n")
        if not hmac.compare_digest(seal, self._seal(body)):
            _log.warning("key_snapshot_damaged")
            return None
        try:
            return _parsed(body)
        except (ValueError, TypeError, KeyError) as error:
            # Whole, but not of this version's making.
            _log.warning("key_snapshot_not_understood", error=type(error).__name__)
            return None

    def _seal(self, body: bytes) -> bytes:
        # With a purpose of its own: no stored key's HMAC can ever pass for a seal.
        return hmac.new(self._pepper, b"key snapshot\n" + body, sha256).hexdigest().encode()


def _parsed(body: bytes) -> tuple[Sequence[AccessKey], datetime]:
    document = json.loads(body)
    if document["format"] != _FORMAT:
        raise ValueError("another format")
    keys = [_key(item) for item in document["keys"]]
    return keys, datetime.fromisoformat(document["saved_at"])


def _mapping(key: AccessKey) -> dict[str, object]:
    return {
        "key_id": key.key_id,
        "name": key.name,
        "key_hmac": key.key_hmac,
        "scopes": sorted(key.scopes),
        "created_at": key.created_at.isoformat(),
        "expires_at": _text(key.expires_at),
        "revoked_at": _text(key.revoked_at),
    }


def _text(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()


def _time(value: object) -> datetime | None:
    return None if value is None else datetime.fromisoformat(str(value))


def _key(item: dict[str, object]) -> AccessKey:
    scopes = item["scopes"]
    if not isinstance(scopes, list):
        raise TypeError("scopes are a list")
    return AccessKey(
        key_id=str(item["key_id"]),
        name=str(item["name"]),
        key_hmac=str(item["key_hmac"]),
        scopes=frozenset(map(str, scopes)),
        created_at=datetime.fromisoformat(str(item["created_at"])),
        expires_at=_time(item["expires_at"]),
        revoked_at=_time(item["revoked_at"]),
    )
