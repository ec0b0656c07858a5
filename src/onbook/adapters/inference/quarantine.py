"""A worker that is watched: after a receipt that did not match, it gets no requests for a while."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from onbook.domain.errors import PurityViolation, WorkerUnavailable
from onbook.domain.receipts import ANOTHER_WORKER_ACTION, is_another_worker
from onbook.domain.worker_health import Quarantine, Trouble, WorkerStanding
from onbook.ports.clock import Clock
from onbook.ports.inference import Completion, InferenceWorker, WorkerPromise
from onbook.wire.signing import PublishedKey
from onbook.wire.worker_api import Endpoint, InferenceRequest

if TYPE_CHECKING:
    from datetime import datetime

_log = structlog.get_logger("onbook.quarantine")

# What a result is judged in, once it is there; a trial that takes longer is given up.
_JUDGING_S: Final = 5.0
# What is named where the worker itself says that its engine saw something else.
_OWN_FINDING: Final = ("engine",)


class WatchedWorker:
    """``inner``, kept from requests while its word is not good. Nothing survives a restart.

    Args:
        inner: The worker.
        quarantine_s: Seconds that it gets no requests after a violation.
        clock: The clocks.
        on_violation: Told of each violation, for counting.
    """

    def __init__(
        self,
        inner: InferenceWorker,
        *,
        quarantine_s: float,
        clock: Clock,
        on_violation: Callable[[], None] = lambda: None,
    ) -> None:
        self._inner = inner
        self._quarantine_s, self._clock, self._on_violation = quarantine_s, clock, on_violation
        self._record = Quarantine()
        self._healthy = False
        self._checked_at: datetime | None = None

    @property
    def worker_id(self) -> str | None:
        """The worker's id, once known."""
        return self._inner.worker_id

    @property
    def public_keys(self) -> frozenset[str]:
        """The keys, one of which must have signed a receipt."""
        return self._inner.public_keys

    @property
    def published(self) -> Sequence[PublishedKey]:
        """Those of ``public_keys`` that the worker has shown."""
        return self._inner.published

    @property
    def model_sha256(self) -> str | None:
        """The digest of the model file that the worker said it runs."""
        return self._inner.model_sha256

    @property
    def promise(self) -> WorkerPromise | None:
        """What the worker said of its rendering."""
        return self._inner.promise

    @property
    def trouble(self) -> Trouble | None:
        """Why its answers cannot be used, as far as the last contact showed."""
        return self._inner.trouble

    def standing(self) -> WorkerStanding:
        """Return what is known of the worker now."""
        return WorkerStanding(
            worker_id=self._inner.worker_id,
            model_sha256=self._inner.model_sha256,
            healthy=self._healthy,
            checked_at=self._checked_at,
            quarantine=self._record,
            ends_in_s=self._record.ends_in(self._clock.monotonic()),
            trouble=self._inner.trouble,
        )

    async def infer(
        self, endpoint: Endpoint, request: InferenceRequest, *, timeout_s: float
    ) -> Completion:
        """Run ``request`` unless the worker is in quarantine; see the port for what is raised."""
        at = self._clock.monotonic()
        admission = self._record.admission(at)
        if admission == "refused":
            raise self._refusal(at)
        trial = admission == "trial"
        if trial:
            self._record = self._record.on_trial(at + timeout_s + _JUDGING_S)
            _log.info("worker.on_trial", worker_id=self.worker_id)
        try:
            completion = await self._inner.infer(endpoint, request, timeout_s=timeout_s)
        except PurityViolation:
            self._judge(_OWN_FINDING, trial=trial)
            raise
        except BaseException:
            if trial:
                self._record = self._record.without_result()
            raise
        return replace(completion, judged=partial(self._judge, trial=trial))

    async def ready(self) -> bool:
        """Ask the worker; tell whether it is healthy and its answers can be used."""
        self._healthy = await self._inner.ready()
        self._checked_at = self._clock.now()
        return self.standing().usable

    async def close(self) -> None:
        """Let go of the worker."""
        await self._inner.close()

    def _judge(self, mismatches: Sequence[str], *, trial: bool) -> None:
        """Take in what a check found. What was under way before a quarantine does not end it."""
        if mismatches:
            self._record = self._record.violated(
                tuple(mismatches),
                now=self._clock.now(),
                at=self._clock.monotonic(),
                seconds=self._quarantine_s,
            )
            self._on_violation()
            _log.error(
                "worker.quarantined",
                worker_id=self.worker_id,
                mismatches=list(mismatches),
                violations=self._record.violations,
                seconds=self._quarantine_s,
            )
        elif trial and self._record.in_force:
            self._record = self._record.passed()
            _log.info("worker.trusted_again", worker_id=self.worker_id)

    def _refusal(self, at: float) -> WorkerUnavailable:
        return WorkerUnavailable(
            "The worker is in quarantine: a receipt of it did not match what was sent.",
            details={
                "worker_id": self.worker_id,
                "mismatches": list(self._record.mismatches),
                "quarantine_ends_in_s": round(self._record.ends_in(at) or 0.0, 1),
            },
            suggested_action=ANOTHER_WORKER_ACTION
            if is_another_worker(self._record.mismatches)
            else "See GET /functions/v1/health-check-workers for what did not match; "
            "check the worker's version, model file and what lies between it and the gateway.",
        )
