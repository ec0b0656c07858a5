"""Which keys a worker's receipts may be signed with: the roots, and what they endorse."""

from collections.abc import Iterable, Sequence
from typing import Final

import structlog

from onbook.domain.errors import WorkerUnavailable
from onbook.domain.worker_health import Trouble
from onbook.ports.inference import WorkerPromise
from onbook.wire.signing import PublishedKey, key_id_of, trusted_keys
from onbook.wire.worker_api import WorkerInfo

# A ring that is rotated every day of a year has fewer.
_MAX_PUBLISHED: Final = 512
_log = structlog.get_logger("onbook.worker_keys")


class KnownWorker:
    """What is known of one worker. What it once said of itself stays: only its keys may follow.

    Args:
        roots: Base64 keys to trust; none takes the key that the worker shows first.
    """

    def __init__(self, roots: Iterable[str]) -> None:
        self._roots = frozenset(roots)
        self._published: list[PublishedKey] = []
        self.public_keys = self._roots
        self._key_ids = frozenset(key_id_of(key) for key in self._roots)
        self.worker_id: str | None = None
        self.model_sha256: str | None = None
        self.promise: WorkerPromise | None = None
        # What the worker has refused at the last try: the gateway's "key", its "signature".
        self._refused: frozenset[str] = frozenset()
        self._untrusted: str | None = None

    @property
    def introduced(self) -> bool:
        """Whether the worker has said who it is."""
        return self.worker_id is not None

    @property
    def published(self) -> Sequence[PublishedKey]:
        """The trusted keys that the worker has shown, as it shows them."""
        return [key for key in self._published if key.public_key in self.public_keys]

    @property
    def trouble(self) -> Trouble | None:
        """Why the worker's answers cannot be used, as far as the last contact showed."""
        if self._untrusted is not None:
            return "untrusted"
        return "refused" if self._refused else None

    def turned_away(self, what: str) -> None:
        """Take in that the worker has refused ``what``: the gateway's key, or its signature."""
        self._refused |= {what}

    def let_in(self, *what: str) -> None:
        """Take in that the worker has taken ``what``."""
        self._refused -= frozenset(what)

    def knows(self, key_id: str) -> bool:
        """Tell whether ``key_id`` names a key that is trusted; a receipt without one names none."""
        return not key_id or key_id in self._key_ids

    def learn(self, info: WorkerInfo) -> None:
        """Take in what the worker says of itself now.

        The first id, model, rendering and key are kept: a worker that changes one of them later
        is another worker. A later key counts only where a trusted one endorses it, and what is
        said beside a key that is not trusted is nobody's word.
        """
        self._roots = self._roots or frozenset({info.public_key})
        published = info.keys[:_MAX_PUBLISHED]
        if published != self._published or not self.public_keys:
            self._follow(published)
        key_id = key_id_of(info.public_key)
        if key_id not in self._key_ids:
            if key_id != self._untrusted:
                _log.error("worker.key_not_trusted", worker_id=info.worker_id, key_id=key_id)
            self._untrusted = key_id
            return
        self._untrusted = None
        if self.worker_id is None:
            self.worker_id, self.model_sha256 = info.worker_id, info.model.file_sha256
            self.promise = WorkerPromise(
                info.purity.verification, info.purity.rendering, info.model.chat_template_sha256
            )

    def _follow(self, published: list[PublishedKey]) -> None:
        before = self.public_keys
        self._published = published
        # What was trusted stays trusted, also where the worker has lost its ring's older keys.
        self.public_keys = trusted_keys(published, self._roots | before)
        self._key_ids = frozenset(key_id_of(key) for key in self.public_keys)
        if before and self.public_keys != before:
            _log.info(
                "worker.keys_followed", worker_id=self.worker_id, trusted=len(self.public_keys)
            )


def note_refusal(error: WorkerUnavailable, known: KnownWorker) -> None:
    """Take in where the worker has let the gateway not in; other failures say nothing of that."""
    refused = (error.details or {}).get("refused")
    if isinstance(refused, str):
        known.turned_away(refused)
