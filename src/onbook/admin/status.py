"""What the status strip says. The words are here alone; the script picks them by ``/readyz``."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from onbook.bootstrap import Service
from onbook.domain.content_mode.decision import ContentMode
from onbook.flows.resolve_template import BookState
from onbook.wire.signing import key_id_of
from onbook.wire.worker_api import WorkerInfo

Overall = Literal["ready", "fallback", "not_ready"]

OVERALL_WORDS: Final[Mapping[str, str]] = {
    "ready": "Ready: templates, database and worker are all there.",
    "fallback": "Ready, with fallback: every answer says what it was made from.",
    "not_ready": "Not ready: there is no active template to serve from.",
    "lost": "No connection to Onbook. What you see here may be old; trying again.",
}
SOURCE_WORDS: Final[Mapping[str, str]] = {
    "database": "from the database",
    "system_cache": "from the last good snapshot",
    "hardcoded": "as packaged with Onbook",
}
DATABASE_WORDS: Final[Mapping[str, str]] = {"ok": "Connected", "unreachable": "Unreachable"}
WORKER_WORDS: Final[Mapping[str, str]] = {
    "ok": "ready",
    "unavailable": "away, rules write instead",
    "refused": "refuses the gateway's key or signature, rules write instead",
    "untrusted": "shows a key that is not trusted, rules write instead",
    "quarantined": "in quarantine, rules write instead",
}
CEILING_WORDS: Final[Mapping[ContentMode, tuple[str, str]]] = {
    "sfw": ("sfw only", "nsfw prompts are declined"),
    "nsfw": ("up to nsfw", "for keys that allow it"),
}


@dataclass(frozen=True, slots=True)
class Status:
    """One look at the service, in the words of the page."""

    overall: Overall
    source: str
    templates: int
    age: str
    database: str
    audit: str
    worker: str
    ceiling: tuple[str, str]


@dataclass(frozen=True, slots=True)
class WorkerCard:
    """What stays true of the worker while the gateway runs. ``origin`` is where it runs.

    ``fingerprint`` is the key's id, as receipts and 'onbook keys signing list' have it, and None
    while the key is not known.
    """

    model: str
    origin: str
    purity: str
    purity_passed: bool
    fingerprint: str | None


def status_of(service: Service) -> Status:
    """Return what the strip shows now."""
    state = service.book.state()
    return Status(
        overall=_overall(state, worker_ready=service.worker_state() == "ok"),
        source=state.source,
        templates=state.templates,
        age=age_words(state),
        database="ok" if state.reachable else "unreachable",
        audit=audit_words(service.log.pending),
        worker=service.worker_state(),
        ceiling=CEILING_WORDS[service.settings.content_ceiling],
    )


def worker_card(service: Service, info: WorkerInfo | None) -> WorkerCard:
    """Return the worker's card; a worker elsewhere is described by what it has shown so far."""
    key = info.public_key if info else _newest_key(service)
    fingerprint = fingerprint_of(key)
    if info is None:
        return WorkerCard(
            model="Worker elsewhere",
            origin=service.worker.worker_id or "not met yet",
            purity="purity checked by receipts",
            purity_passed=True,
            fingerprint=fingerprint,
        )
    passed = info.purity.passed
    return WorkerCard(
        model=info.model.name,
        origin=f"engine {info.model.engine}",
        purity="purity self-test passed" if passed else "purity self-test failed",
        purity_passed=passed,
        fingerprint=fingerprint,
    )


def fingerprint_of(public_key: str | None) -> str | None:
    """Return the id of the key: the one name that it has everywhere; None without a key."""
    return None if public_key is None else key_id_of(public_key)


def _newest_key(service: Service) -> str | None:
    """Return the key of a worker elsewhere that is in use, as far as its ring tells."""
    now = service.enhance.clock.now().isoformat(timespec="microseconds")
    due = [key.public_key for key in service.worker.published if key.not_before <= now]
    return due[-1] if due else min(service.worker.public_keys, default=None)


def age_words(state: BookState) -> str:
    """Return when the database last confirmed the templates; empty where it never did."""
    if state.good_at is None:
        return ""
    seconds = int(state.age_seconds)
    if seconds < 2:
        return "confirmed just now"
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"confirmed {seconds // size} {unit} ago"
    return f"confirmed {seconds} s ago"


def audit_words(pending: int) -> str:
    """Return where the audit rows are."""
    if pending == 0:
        return "all audit rows are written"
    return f"{pending} audit {'row waits' if pending == 1 else 'rows wait'} on local disk"


def _overall(state: BookState, *, worker_ready: bool) -> Overall:
    if state.templates == 0:
        return "not_ready"
    whole = state.reachable and state.source == "database" and worker_ready
    return "ready" if whole else "fallback"
