"""What a gateway knows of a worker's health, and the quarantine of one whose receipt did not match.

A worker in quarantine gets no requests. When its time is over, one request is let through as a
trial: a receipt that matches ends the quarantine, one that does not begins another.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

Admission = Literal["open", "trial", "refused"]
# Why a healthy worker's answers cannot be used: it lets the gateway not in, or shows a key that
# nobody trusted endorses.
Trouble = Literal["refused", "untrusted"]
StandingState = Literal["ok", "unavailable", "refused", "untrusted", "quarantined"]


@dataclass(frozen=True, slots=True)
class Quarantine:
    """A worker's record. Times are of the monotonic clock, in seconds, but ``since``.

    ``violations`` counts all since the gateway's start, ``mismatches`` are those of the last one;
    ``until`` is None where the worker is trusted, and ``trial_until`` while no trial is under way.
    """

    since: datetime | None = None
    until: float | None = None
    trial_until: float | None = None
    violations: int = 0
    mismatches: tuple[str, ...] = ()

    @property
    def in_force(self) -> bool:
        """Whether the worker is not trusted; also while it is on trial."""
        return self.until is not None

    def admission(self, at: float) -> Admission:
        """Tell what becomes of a request at ``at``."""
        if self.until is None:
            return "open"
        if at < self.until or (self.trial_until is not None and at < self.trial_until):
            return "refused"
        return "trial"

    def ends_in(self, at: float) -> float | None:
        """Return the seconds until the trial; 0 where it is due, None without a quarantine."""
        return None if self.until is None else max(0.0, self.until - at)

    def violated(
        self, mismatches: tuple[str, ...], *, now: datetime, at: float, seconds: float
    ) -> "Quarantine":
        """Return the record after a receipt that did not match: ``seconds`` from ``at`` on."""
        return Quarantine(
            since=self.since or now,
            until=at + seconds,
            violations=self.violations + 1,
            mismatches=mismatches,
        )

    def on_trial(self, until: float) -> "Quarantine":
        """Return the record while the one request is under way; ``until`` it is awaited."""
        return replace(self, trial_until=until)

    def without_result(self) -> "Quarantine":
        """Return the record after a trial that gave nothing to judge: the next one is another."""
        return replace(self, trial_until=None)

    def passed(self) -> "Quarantine":
        """Return the record after a trial whose receipt matched."""
        return Quarantine(violations=self.violations, mismatches=self.mismatches)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStanding:
    """What is known of a worker now.

    ``healthy`` is what it said itself when it was last asked, at ``checked_at``; it stays so in
    quarantine. ``trouble`` is what stood between it and the gateway when they last met.
    """

    worker_id: str | None
    model_sha256: str | None
    healthy: bool
    checked_at: datetime | None
    quarantine: Quarantine
    ends_in_s: float | None
    trouble: Trouble | None = None

    @property
    def state(self) -> StandingState:
        """What stands between a request and an answer of it, in one word; ``ok`` is nothing."""
        if self.quarantine.in_force:
            # A receipt by another key is a violation too; why it is, says more.
            return "untrusted" if self.trouble == "untrusted" else "quarantined"
        if not self.healthy:
            return "unavailable"
        return self.trouble or "ok"

    @property
    def usable(self) -> bool:
        """Whether its answers can be used."""
        return self.state == "ok"
