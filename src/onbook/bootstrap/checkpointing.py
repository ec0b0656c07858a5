"""What a gateway does for the audit log beside its rows: keys made known, checkpoints written."""

import asyncio
from collections.abc import Iterator
from typing import Final

import structlog

from onbook.adapters.files.secrets import SecretUnusable
from onbook.adapters.files.signing_keys import WORKER_KEYS_FILE, FollowedRing, load_ring
from onbook.flows.checkpoints import CheckpointedHeads, write_checkpoint
from onbook.ports.audit import AuditTrail, SigningKey
from onbook.ports.clock import Clock
from onbook.ports.inference import InferenceWorker
from onbook.ports.stores import StoreUnavailable
from onbook.settings import Settings
from onbook.wire.signing import PublishedKey

# A process that stops waits no longer than this for its last checkpoint.
_LAST_S: Final = 5.0
_log = structlog.get_logger("onbook.audit")


class AuditKeeper:
    """Stores the public keys of this gateway and of its worker, and writes checkpoints.

    Args:
        settings: Where the rings of keys are.
        trail: The audit log.
        signing: The gateway's own keys.
        worker: Whose receipts the rows have.
        clock: The clock.
    """

    def __init__(
        self,
        settings: Settings,
        trail: AuditTrail,
        signing: FollowedRing,
        worker: InferenceWorker,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._trail, self._signing, self._worker, self._clock = trail, signing, worker, clock
        self._seen = CheckpointedHeads()
        self._known: frozenset[str] = frozenset()
        # One at a time: the last one may come while the one before it is on its way.
        self._lock = asyncio.Lock()

    async def note_keys(self) -> None:
        """Store the keys that are not known to be stored; an outage leaves them for later."""
        keys = [*self._own_keys(), *self._worker_keys()]
        if {key.published.public_key for key in keys} <= self._known:
            return
        try:
            await self._trail.add_signing_keys(keys, at=self._clock.now())
        except StoreUnavailable:
            return
        self._known |= {key.published.public_key for key in keys}

    async def write(self) -> None:
        """Write a checkpoint if the log has grown; an outage leaves it for the next time."""
        async with self._lock:
            await self.note_keys()
            try:
                checkpoint = await write_checkpoint(
                    self._trail,
                    self._signing.signer(),
                    self._signing.ring.owner,
                    self._clock,
                    seen=self._seen,
                )
            except StoreUnavailable as error:
                # What was read so far may be of a database that another one has replaced.
                self._seen = CheckpointedHeads()
                _log.warning("checkpoint.not_written", reason=str(error))
                return
        if checkpoint is not None:
            _log.debug("checkpoint.written", number=checkpoint.number)

    async def write_last(self) -> None:
        """Write the checkpoint of a process that stops, once its last rows are committed."""
        try:
            async with asyncio.timeout(_LAST_S):
                await self.write()
        except TimeoutError:
            _log.warning("checkpoint.not_written", reason="The database does not answer in time.")

    def _own_keys(self) -> Iterator[SigningKey]:
        for published in self._signing.ring.published:
            yield SigningKey(role="gateway", owner=self._signing.ring.owner, published=published)

    def _worker_keys(self) -> Iterator[SigningKey]:
        owner = self._worker.worker_id
        if owner is None or self._worker.public_keys <= self._known:
            return
        ring = _ring_of(self._settings, owner)
        published = {key.public_key: key for key in (*self._worker.published, *ring)}
        for public in sorted(self._worker.public_keys):
            # Of a key that was named, and that the worker does not show, nothing else is known.
            fallback = PublishedKey(public_key=public, not_before="")
            yield SigningKey(role="worker", owner=owner, published=published.get(public, fallback))


def _ring_of(settings: Settings, owner: str) -> list[PublishedKey]:
    """Return the keys of the embedded worker, whose ring is in the data directory."""
    try:
        ring = load_ring(settings.data_dir / WORKER_KEYS_FILE)
    except SecretUnusable:
        return []
    return ring.published if ring is not None and ring.owner == owner else []
