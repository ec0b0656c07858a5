"""Server-sent events, read from pieces of bytes; what never ends is refused."""

from dataclasses import dataclass
from typing import Final

from onbook.worker.engines.base import EngineError

MAX_EVENT_BYTES: Final = 2 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its data as bytes, and whether the server calls it an error."""

    data: bytes
    error: bool = False


class EventReader:
    """Turns pieces of a stream into events. Comments and other fields are passed over.

    Args:
        limit: The longest line and the largest event, in bytes.
    """

    def __init__(self, limit: int = MAX_EVENT_BYTES) -> None:
        self._limit = limit
        self._rest = bytearray()
        self._searched = 0
        self._data: list[bytes] = []
        self._size = 0
        self._error = False

    def feed(self, piece: bytes) -> list[Event]:
        """Return the events that ``piece`` completes.

        Raises:
            EngineError: a line or an event is larger than the limit.
        """
        self._rest += piece
        events: list[Event] = []
        start = 0
        # What was searched already is not searched again, so that a long line costs its length.
        while (end := self._rest.find(b"\n", max(start, self._searched))) >= 0:
            self._take(bytes(self._rest[start:end]).removesuffix(b"\r"), events)
            start = end + 1
        del self._rest[:start]
        self._searched = len(self._rest)
        if len(self._rest) > self._limit:
            raise EngineError("The upstream sends a line without an end.")
        return events

    @property
    def within_event(self) -> bool:
        """Whether an event has begun and has not ended."""
        return bool(self._rest or self._data)

    def _take(self, line: bytes, events: list[Event]) -> None:
        if not line:
            if self._data:
                events.append(Event(b"\n".join(self._data), self._error))
            self._data, self._size, self._error = [], 0, False
            return
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._add(value)
        elif name == b"error":
            # llama-server before 2025 named the field of an error so.
            self._error = True
            self._add(value)
        elif name == b"event":
            self._error = value == b"error"

    def _add(self, value: bytes) -> None:
        self._size += len(value)
        if self._size > self._limit:
            raise EngineError("The upstream sends an event without an end.")
        self._data.append(value)
