"""Why a worker does not execute a request."""


class ContextOverflowError(Exception):
    """The request does not fit the context; both counts are in tokens.

    Of a text that is far too long, ``needed`` is a lower bound: it is not read to its end.
    """

    def __init__(self, needed: int, context_size: int) -> None:
        super().__init__(f"{needed} tokens do not fit a context of {context_size}")
        self.needed = needed
        self.context_size = context_size


class BusyError(Exception):
    """The queue is full. ``retry_after_s``, whole seconds, is when it has been worked off."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__("the queue is full")
        self.retry_after_s = retry_after_s


class ChatsOnlyError(Exception):
    """The server behind the worker renders messages itself; the message is one sentence."""


class DrainingError(Exception):
    """The worker is stopping: what it has taken it finishes, and it takes nothing new."""


class PurityError(Exception):
    """The engine read another number of tokens than the messages have; both counts are told."""

    def __init__(self, read: int, expected: int) -> None:
        super().__init__(f"the engine read {read} tokens where {expected} were given")
        self.read = read
        self.expected = expected
