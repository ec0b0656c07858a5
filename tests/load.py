"""Clients that call a server at the same time, each with one connection, one request at a time."""

import http.client
import json
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from server import ADMIN_KEY, FUNCTION

_HEADERS = {"Authorization": f"Bearer {ADMIN_KEY}", "Content-Type": "application/json"}
_BODY = json.dumps({"prompt": "a boat at sea"}).encode()
_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A request that the server has answered with 200, and its fallback level."""

    request_id: str
    level: int


class Load:
    """Load on ``url`` while the block runs.

    Args:
        url: The server.
        clients: How many call at the same time.
        pause_s: What each waits between an answer and its next request.
    """

    def __init__(self, url: str, clients: int, *, pause_s: float = 0.0) -> None:
        self._address = urlsplit(url).netloc
        self._pause_s = pause_s
        self._stopping = threading.Event()
        # Of each client, in the order of its answers.
        self.answers: list[list[Acknowledged]] = [[] for _ in range(clients)]
        self.failures: list[Exception] = []
        self._threads = [
            threading.Thread(target=self._call, args=(answers,)) for answers in self.answers
        ]

    @property
    def acknowledged(self) -> list[Acknowledged]:
        """What all clients have been answered so far."""
        return [answer for answers in self.answers for answer in answers]

    def has_acknowledged(self, count: int) -> bool:
        """Tell whether so many requests have been answered, or no more will be."""
        return len(self.acknowledged) >= count or self.is_cut_off()

    def is_cut_off(self) -> bool:
        """Tell whether every client has met a failure, and so asks no more."""
        return len(self.failures) == len(self.answers)

    def at_level(self, level: int) -> int:
        """Return how many answers had this fallback level."""
        return sum(answer.level == level for answer in self.acknowledged)

    def last_level(self) -> set[int]:
        """Return the fallback levels of each client's newest answer."""
        return {answers[-1].level for answers in self.answers if answers}

    def stop(self) -> None:
        """Wait for the answers that are under way, and ask no more."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _call(self, answers: list[Acknowledged]) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=_TIMEOUT_S)
        try:
            while not self._stopping.is_set():
                connection.request("POST", FUNCTION, _BODY, _HEADERS)
                response = connection.getresponse()
                body = response.read()
                assert response.status == 200, body
                answer = json.loads(body)
                level = answer["enhancement_metadata"]["fallback_level"]
                answers.append(Acknowledged(answer["request_id"], level))
                self._stopping.wait(self._pause_s)
        except (OSError, ValueError, AssertionError, http.client.HTTPException) as error:
            # Cut off anywhere, in the middle of an answer too.
            self.failures.append(error)
        finally:
            connection.close()
