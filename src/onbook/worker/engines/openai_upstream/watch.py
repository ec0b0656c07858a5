"""Whether the upstream still runs what the start has inspected.

A server that is started again with another model, on the same port, answers as before: what the
receipts state of it would be false, and what was learnt of its tokenizer too. So it is asked again,
before and after a generation: every ``CHECK_S`` seconds of use, after any failure, and as soon as
the connection that is kept to it has been closed, which is what a restart does.

What is not seen: a model that is exchanged without an end of that connection (behind a proxy, or
inside one process) and back, or for less than ``CHECK_S`` seconds of short requests; and one that
says of itself what the other one said, where its file is not on this machine.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import structlog

from onbook.wire.canonical import sha256_of_text
from onbook.worker.engines.base import (
    EngineError,
    Piece,
    UpstreamChangedError,
    UpstreamUnavailableError,
)
from onbook.worker.engines.openai_upstream.inspection import Inspection, Model, Models, Props
from onbook.worker.engines.openai_upstream.server import Answer, BlockingClient, refusal_of
from onbook.worker.engines.openai_upstream.tokenizer import UpstreamTokenizer

CHECK_S: Final = 2.0
_log = structlog.get_logger("onbook.worker")


@dataclass(frozen=True, slots=True)
class Identity:
    """What a server says of what it runs; ``file`` is its model file's inode, size and time."""

    name: str | None
    path: str | None
    contents: tuple[object, ...]
    template: str | None
    context: tuple[int | None, ...]
    adapters: str
    file: tuple[int, int, int] | None

    def changes(self, now: "Identity") -> list[str]:
        """Return the names of what is another ``now``."""
        return [
            _WORDS[field.name]
            for field in fields(self)
            if getattr(self, field.name) != getattr(now, field.name)
        ]


_WORDS: Final = {
    "name": "its name",
    "path": "its path",
    "contents": "its size",
    "template": "its chat template",
    "context": "its context",
    "adapters": "its adapters",
    "file": "its file",
}


def look(client: BlockingClient, found: Inspection, local_file: Path | None) -> Identity:
    """Ask what the server runs now. Blocking.

    The same as ``identity_of`` returns for what the start has found, unless it is changed.

    Args:
        client: To ask with.
        found: What the start has found: only that is asked for.
        local_file: The server's model file, where it is on this machine.

    Raises:
        UpstreamUnavailableError: it is away or busy.
        EngineError: it refuses.
    """
    props = None
    if found.props is not None:
        props = _said(client.get("/props")).read(Props)
    models = _said(client.get("/v1/models")).read(Models)
    entries = models.data if models is not None else []
    model = next((entry for entry in entries if entry.id == found.model), None)
    return identity_of(props, model, local_file)


def identity_of(props: Props | None, model: Model | None, local_file: Path | None) -> Identity:
    """Return what ``/props`` and an entry of ``/v1/models`` say, with the state of the file."""
    template = props.chat_template if props is not None else None
    defaults = props.default_generation_settings if props is not None else None
    meta = model.meta if model is not None and model.meta is not None else None
    return Identity(
        name=model.id if model is not None else None,
        path=(props.model_path if props is not None else None) or (model.root if model else None),
        contents=(meta.n_vocab, meta.n_params, meta.size) if meta is not None else (),
        template=sha256_of_text(template) if template else None,
        context=(
            defaults.n_ctx if defaults is not None else None,
            model.max_model_len if model is not None else None,
        ),
        adapters=repr(defaults.params.get("lora")) if defaults is not None else "",
        file=_file_state(local_file),
    )


def _said(answer: Answer) -> Answer:
    # A route that is gone belongs to another server: that is a change, not a failure.
    if answer.status not in (200, 404) and (refused := refusal_of(answer.status)) is not None:
        raise refused
    return answer


def _file_state(path: Path | None) -> tuple[int, int, int] | None:
    try:
        status = path.stat() if path is not None else None
    except OSError:
        return None
    return (status.st_ino, status.st_size, status.st_mtime_ns) if status is not None else None


class ModelWatch:
    """Looks at the upstream again, and stays with what it saw when that is another model.

    A change is final: the tokenizer's cache and the receipts' statements belong to the model of
    the start, so only a new start helps.

    Args:
        client: To ask with; nobody else uses it, and it is closed with the watch.
        url: The server's, for the sentence about it.
        start: What was inspected at the start.
        ask: Asks what runs now; blocking.
        tokenizer: Its failures count as a reason to look.
        now: Seconds on a clock that never goes back.
    """

    def __init__(
        self,
        client: BlockingClient,
        *,
        url: str,
        start: Identity,
        ask: Callable[[BlockingClient], Identity],
        tokenizer: UpstreamTokenizer | None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._url = url
        self._start = start
        self._ask = ask
        self._tokenizer = tokenizer
        self._now = now
        self._looked_at: float | None = None
        self._failures = 0
        self._is_kept = False
        self._looking: asyncio.Lock | None = None
        self.changed: str | None = None

    def suspect(self) -> None:
        """Look again before anything else: the server has failed."""
        self._looked_at = None

    async def check(self) -> None:
        """Look whether the server still runs the model of the start, if it is time to.

        Raises:
            UpstreamChangedError: it runs another.
            UpstreamUnavailableError: it is away or busy.
            EngineError: it refuses.
        """
        if self._is_due():
            self._looking = self._looking or asyncio.Lock()
            async with self._looking:
                # Another request may have looked meanwhile.
                if self._is_due():
                    await self._look()
        if self.changed is not None:
            raise UpstreamChangedError(self.changed)

    async def holds(self) -> bool:
        """Tell whether the server can be asked, and runs the model of the start."""
        try:
            await self.check()
        except EngineError:
            return False
        return True

    async def watched(self, pieces: AsyncGenerator[Piece, None]) -> AsyncGenerator[Piece, None]:
        """Pass ``pieces`` on, the last one only while the model is that of the start.

        Raises:
            UpstreamChangedError: the server runs another model.
        """
        async with aclosing(pieces):
            await self.check()
            try:
                async for piece in pieces:
                    if piece.finish_reason is not None:
                        await self.check()
                    yield piece
            except UpstreamUnavailableError:
                self.suspect()
                raise

    def close(self) -> None:
        """Close the connection."""
        self._client.close()
        self._looking = None
        self._looked_at = None

    def _is_due(self) -> bool:
        if self.changed is not None:
            return False
        if self._looked_at is None or self._now() - self._looked_at >= CHECK_S:
            return True
        if self._tokenizer is not None and self._tokenizer.failures != self._failures:
            return True
        return self._is_kept and not self._client.is_connected()

    async def _look(self) -> None:
        failures = self._tokenizer.failures if self._tokenizer is not None else 0
        self._looked_at = None
        began = self._now()
        # A connection that the old process has left must not be mistaken for one to the new.
        self._client.close()
        seen = await asyncio.to_thread(self._ask, self._client)
        if changes := self._start.changes(seen):
            self.changed = (
                f"The upstream {self._url} runs another model now than at the worker's start, or "
                f"runs it otherwise (changed: {', '.join(changes)}); restart the worker."
            )
            _log.error("worker.upstream_changed", url=self._url, changed=changes)
            return
        self._is_kept = self._client.is_connected()
        self._failures = failures
        self._looked_at = began
