"""Who may call: issuing keys, and telling callers by them."""

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final
from uuid import NAMESPACE_URL, uuid5

from onbook.domain.access import KEY_BYTES, KEY_PREFIX, SCOPES, key_hmac
from onbook.domain.enhancement import Caller
from onbook.domain.errors import AuthRequired, DatabaseUnavailable, InvalidPayload
from onbook.ports.clock import Clock, IdSource
from onbook.ports.key_snapshots import KeySnapshots
from onbook.ports.stores import AccessKey, AccessKeyStore, StoreUnavailable

# How long keys work without the database, counted from when it last confirmed them. A key that
# was revoked meanwhile, in a database that nobody could reach, stops at the latest then.
OUTAGE_S: Final = 24 * 3600.0

# How long a revoked key may go on working.
_FRESH_S: Final = 2.0
# How often a database that is away is asked again for a key.
_RETRY_S: Final = 1.0
# How long a caller whose key is known waits for a database that does not answer.
_PATIENCE_S: Final = 1.0
# The file says when the keys were last confirmed: rewritten this often even without a change.
_RESAVE: Final = timedelta(minutes=10)
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
    key_id: str | None = None,
) -> tuple[str, AccessKey]:
    """Make and store a key; return it in plain, for the only time, with its row.

    ``plain`` and ``key_id`` are drawn unless given.

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
        key_id=key_id or ids.request_id(),
        name=name,
        key_hmac=key_hmac(plain, pepper),
        scopes=wanted,
        created_at=clock.now(),
        expires_at=expires_at,
    )
    await store.add(key)
    return plain, key


def fixed_key_id(of: str) -> str:
    """Return the id of a key that every process of a deployment would make the same way.

    Of two that make it at the same time, the database takes one.
    """
    return str(uuid5(NAMESPACE_URL, f"onbook:key:{of}"))


def bootstrap_access_key(plain: str, *, pepper: bytes, at: datetime) -> AccessKey:
    """Return the admin key that the settings give, as it is stored."""
    digest = key_hmac(plain, pepper)
    return AccessKey(
        key_id=fixed_key_id(digest),
        name="bootstrap",
        key_hmac=digest,
        scopes=frozenset({"admin"}),
        created_at=at,
    )


@dataclass(frozen=True, slots=True)
class _Known:
    key: AccessKey | None
    checked_at: float


@dataclass(frozen=True, slots=True)
class _Kept:
    """All keys as the database last told them; ``checked_at`` as in ``_Known``."""

    by_hmac: Mapping[str, AccessKey]
    at: datetime
    checked_at: float


class KeyRing:
    """Tells callers by their keys; remembers for seconds, so that most requests cost no query.

    While the database is away, keys that it confirmed in the last ``OUTAGE_S`` seconds work on,
    from memory or from ``snapshots``.

    Args:
        store: The keys in the database.
        pepper: The secret that keys are hashed with.
        clock: Wall clock and monotonic clock.
        snapshots: Where all keys are kept for a start without the database; None for nowhere.
        bootstrap: The key of the settings: good unless the database, or the last that is known of
            it, says that it was revoked.
    """

    def __init__(
        self,
        store: AccessKeyStore,
        *,
        pepper: bytes,
        clock: Clock,
        snapshots: KeySnapshots | None = None,
        bootstrap: AccessKey | None = None,
    ) -> None:
        self._store = store
        self._pepper = pepper
        self._clock = clock
        self._snapshots = snapshots
        self._bootstrap = bootstrap
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._used: set[str] = set()
        self._kept: _Kept | None = None
        self._saved: tuple[Sequence[AccessKey], datetime] | None = None
        self._asking: set[asyncio.Future[AccessKey | None]] = set()
        # None while the database answers; else when it may be asked again.
        self._ask_again_at: float | None = None

    async def authenticate(self, plain: str | None) -> Caller:
        """Return the caller that ``plain`` stands for.

        Raises:
            AuthRequired: no key, or one that is unknown, expired or revoked.
            DatabaseUnavailable: the key is not known and the database cannot be asked.
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
        return Caller(key_id=key.key_id, scopes=key.scopes, name=key.name)

    async def note_use(self) -> None:
        """Write down which keys were used since the last time; best effort."""
        used, self._used = self._used, set()
        if used:
            try:
                await self._store.touch(sorted(used), at=self._clock.now())
            except StoreUnavailable:
                self._used |= used

    async def keep(self) -> None:
        """Take all keys over for a time without the database; best effort.

        The file is rewritten when a key has changed, and often enough to tell their age.
        """
        checked_at, now = self._clock.monotonic(), self._clock.now()
        try:
            keys = [replace(key, last_used_at=None) for key in await self._store.all()]
        except StoreUnavailable:
            return
        self._ask_again_at = None
        if not keys:
            # A database that was only just made: it is about to get its first key.
            return
        self._kept = _Kept({key.key_hmac: key for key in keys}, now, checked_at)
        if self._snapshots is None:
            return
        if self._saved is not None:
            saved, at = self._saved
            if saved == keys and now - at < _RESAVE:
                return
        if await asyncio.to_thread(self._snapshots.save, keys, at=now):
            self._saved = keys, now

    async def _look_up(self, digest: str, known: _Known | None, now: float) -> _Known:
        remembered = self._remembered(digest, known)
        if self._ask_again_at is not None:
            if remembered is not None:
                # ``keep`` finds out when the database is back; no request has to wait for that.
                return remembered
            if now < self._ask_again_at:
                return await self._without_database(digest, known)
            # Set before asking: of many requests one waits for a database that may not answer.
            self._ask_again_at = now + _RETRY_S
        try:
            key = await self._ask(digest, None if remembered is None else _PATIENCE_S)
        except StoreUnavailable:
            self._ask_again_at = self._clock.monotonic() + _RETRY_S
            return await self._without_database(digest, known)
        self._ask_again_at = None
        found = _Known(key or self._given(digest), now)
        self._known[digest] = found
        self._known.move_to_end(digest)
        if len(self._known) > _CACHED_KEYS:
            self._known.popitem(last=False)
        return found

    async def _ask(self, digest: str, patience_s: float | None) -> AccessKey | None:
        """Return the stored key; give up after ``patience_s`` seconds.

        Raises:
            StoreUnavailable: the database is away, or was not fast enough.
        """
        if patience_s is None:
            return await self._store.by_hmac(digest)
        asking = asyncio.ensure_future(self._store.by_hmac(digest))
        # Let it end by itself: to cancel a query costs its connection.
        self._asking.add(asking)
        asking.add_done_callback(self._asked)
        await asyncio.wait([asking], timeout=patience_s)
        if not asking.done():
            raise StoreUnavailable("The database does not answer in time.")
        return asking.result()

    def _asked(self, asking: "asyncio.Future[AccessKey | None]") -> None:
        self._asking.discard(asking)
        if not asking.cancelled():
            asking.exception()

    async def _without_database(self, digest: str, known: _Known | None) -> _Known:
        """Return what was known last of the key.

        Raises:
            DatabaseUnavailable: nothing, or nothing that is recent enough.
        """
        if self._kept is None and self._snapshots is not None:
            found = await asyncio.to_thread(self._snapshots.load)
            # Never later than a look at the database by this process, whatever the file says.
            keys, at = found or ((), self._clock.now())
            self._kept = _Kept({key.key_hmac: key for key in keys}, at, float("-inf"))
        remembered = self._remembered(digest, known)
        if remembered is None and (given := self._given(digest)) is not None:
            remembered = _Known(given, self._clock.monotonic())
        if remembered is None:
            raise DatabaseUnavailable(
                "The access key cannot be checked: the database cannot be reached."
            )
        return remembered

    def _remembered(self, digest: str, known: _Known | None) -> _Known | None:
        """Return what memory holds of the key and is recent enough."""
        kept = self._kept
        # A time in the future is as little to be believed as one long past.
        if kept is not None and abs((self._clock.now() - kept.at).total_seconds()) >= OUTAGE_S:
            kept = None
        if known is not None and self._clock.monotonic() - known.checked_at < OUTAGE_S:
            if kept is None or kept.checked_at <= known.checked_at:
                return known
            # A set that was taken later knows of a revocation that the single key does not.
            return _Known(kept.by_hmac.get(digest) or self._given(digest), kept.checked_at)
        key = None if kept is None else kept.by_hmac.get(digest)
        return None if kept is None or key is None else _Known(key, kept.checked_at)

    def _given(self, digest: str) -> AccessKey | None:
        given = self._bootstrap
        return given if given is not None and given.key_hmac == digest else None
