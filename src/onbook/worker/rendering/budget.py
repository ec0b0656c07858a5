"""What one request may cost while it is rendered."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from onbook.worker.rendering.errors import RenderingCancelledError, TooManyTokensError

# A text with 250 tags of a model's own still passes; with each more it is an attack on the time.
MAX_PIECES: Final = 512


class Budget:
    """Ids and pieces that are left to one request.

    Args:
        max_ids: Ids of all contents together; None for as many as there are.
    """

    def __init__(self, max_ids: int | None = None) -> None:
        self.max_ids = max_ids
        self.pieces_left = MAX_PIECES
        self.cancelled = False
        self._ids = 0

    def take_ids(self, count: int) -> None:
        """Use ``count`` ids.

        Raises:
            TooManyTokensError: there are fewer left.
        """
        self._ids += count
        self.check()

    def check(self, begun: int = 0) -> None:
        """Look whether to go on, with ``begun`` ids of a text that is not at its end.

        Raises:
            TooManyTokensError: there are fewer ids left.
            RenderingCancelledError: nobody waits for it any more.
        """
        if self.cancelled:
            raise RenderingCancelledError
        if self.max_ids is not None and self._ids + begun > self.max_ids:
            raise TooManyTokensError(self._ids + begun)


_current: ContextVar[Budget | None] = ContextVar("rendering_budget", default=None)


def current_budget() -> Budget | None:
    """Return the budget of the request that is rendered here, None where there is none."""
    return _current.get()


@contextmanager
def spending(budget: Budget) -> Iterator[None]:
    """Let whatever is rendered inside use up ``budget``."""
    token = _current.set(budget)
    try:
        yield
    finally:
        _current.reset(token)
