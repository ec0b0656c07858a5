"""Access keys in memory."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime

from onbook.ports.stores import AccessKey, StoreUnavailable


class MemoryAccessKeyStore:
    """``ports.AccessKeyStore`` in memory; ``available`` False makes every call fail."""

    def __init__(self, keys: Iterable[AccessKey] = ()) -> None:
        self.available = True
        self._keys = {key.key_id: key for key in keys}

    async def add(self, key: AccessKey) -> None:
        """Store a new key."""
        self._check()
        taken = {other.key_hmac for other in self._keys.values()}
        if key.key_id in self._keys or key.key_hmac in taken:
            raise StoreUnavailable("The key is there already.")
        self._keys[key.key_id] = key

    async def by_hmac(self, key_hmac: str) -> AccessKey | None:
        """Return the key with this HMAC, revoked and expired ones too."""
        self._check()
        return next((key for key in self._keys.values() if key.key_hmac == key_hmac), None)

    async def all(self) -> Sequence[AccessKey]:
        """Return every key, oldest first."""
        self._check()
        return sorted(self._keys.values(), key=lambda key: (key.created_at, key.key_id))

    async def revoke(self, key_id: str, *, at: datetime) -> bool:
        """Revoke a key; return False if there is none with this id or it already was."""
        self._check()
        key = self._keys.get(key_id)
        if key is None or key.revoked_at is not None:
            return False
        self._keys[key_id] = replace(key, revoked_at=at)
        return True

    async def touch(self, key_ids: Sequence[str], *, at: datetime) -> None:
        """Note when keys were last used; an older note never replaces a newer one."""
        self._check()
        for key_id in key_ids:
            key = self._keys.get(key_id)
            if key is not None and (key.last_used_at is None or key.last_used_at < at):
                self._keys[key_id] = replace(key, last_used_at=at)

    def _check(self) -> None:
        if not self.available:
            raise StoreUnavailable("The access keys are switched off.")
