"""Who may call: issuing keys, and telling callers by them."""

import secrets
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from onbook.domain.access import KEY_BYTES, KEY_PREFIX, SCOPES, key_hmac
from onbook.domain.enhancement import Caller
from onbook.domain.errors import AuthRequired, DatabaseUnavailable, InvalidPayload
from onbook.ports.clock import Clock, IdSource
from onbook.ports.stores import AccessKey, AccessKeyStore, StoreUnavailable

# How long a revoked key may go on working, and how long known keys work without the database.
_FRESH_S: Final = 2.0
_OUTAGE_S: Final = 3600.0
_CACHED_KEYS: Final = 10_000


async def issue_key(
    name: str,
    scopes: Iterable[str],
    *,
    store: AccessKeyStore,
    pepper: bytes,
    clock: Clock,
    ids: IdSource,
    expires_at: datetime | None = None,
    plain: str | None = None,
) -> tuple[str, AccessKey]:
    """Make and store a key; return it in plain, for the only time, with its row.

    Raises:
        InvalidPayload: a scope does not exist.
        StoreUnavailable: the key could not be stored.
    """
    wanted = frozenset(scopes)
    unknown = sorted(wanted - SCOPES.keys())
    if unknown or not wanted:
        raise InvalidPayload(
            "A key needs scopes that exist.",
            details={"fields": ["scopes"], "unknown": unknown, "valid_scopes": sorted(SCOPES)},
        )
    plain = plain or KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
    key = AccessKey(
        key_id=ids.request_id(),
        name=name,
        key_hmac=key_hmac(plain, pepper),
        scopes=wanted,
        created_at=clock.now(),
        expires_at=expires_at,
    )
    await store.add(key)
    return plain, key


@dataclass(slots=True)
class _Known:
    key: AccessKey | None
    checked_at: float


class KeyRing:
    """Tells callers by their keys; remembers for seconds, so that most requests cost no query."""

    def __init__(self, store: AccessKeyStore, *, pepper: bytes, clock: Clock) -> None:
        self._store = store
        self._pepper = pepper
        self._clock = clock
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._used: set[str] = set()

    async def authenticate(self, plain: str | None) -> Caller:
        """Return the caller that ``plain`` stands for.

        Raises:
            AuthRequired: no key, or one that is unknown, expired or revoked.
            DatabaseUnavailable: the key is not known yet and the database cannot be asked.
        """
        if not plain:
            raise AuthRequired("An access key is required.")
        digest = key_hmac(plain, self._pepper)
        now = self._clock.monotonic()
        known = self._known.get(digest)
        if known is None or now - known.checked_at > _FRESH_S:
            known = await self._look_up(digest, known, now)
        key = known.key
        if key is None or key.revoked_at is not None:
            raise AuthRequired("The access key is unknown or revoked.")
        if key.expires_at is not None and key.expires_at <= self._clock.now():
            raise AuthRequired("The access key has expired.")
        self._used.add(key.key_id)
        return Caller(key_id=key.key_id, scopes=key.scopes)

    async def note_use(self) -> None:
        """Write down which keys were used since the last time; best effort."""
        used, self._used = self._used, set()
        if used:
            try:
                await self._store.touch(sorted(used), at=self._clock.now())
            except StoreUnavailable:
                self._used |= used

    async def _look_up(self, digest: str, known: _Known | None, now: float) -> _Known:
        try:
            found = _Known(await self._store.by_hmac(digest), now)
        except StoreUnavailable:
            if known is not None and now - known.checked_at < _OUTAGE_S:
                return known
            raise DatabaseUnavailable(
                "The access key cannot be checked: the database cannot be reached."
            ) from None
        self._known[digest] = found
        self._known.move_to_end(digest)
        if len(self._known) > _CACHED_KEYS:
            self._known.popitem(last=False)
        return found
