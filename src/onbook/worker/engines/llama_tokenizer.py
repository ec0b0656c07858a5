"""llama.cpp's tokenizer, over the loopback port that the library opens in this process."""

import http.client
import threading
from collections import OrderedDict
from typing import Final
from urllib.parse import urlsplit

import msgspec

from onbook.worker.engines.base import EngineError

_CACHE_TEXTS: Final = 4096
_CACHE_CHARS: Final = 16_384
_TIMEOUT_S: Final = 30


class _Tokens(msgspec.Struct):
    tokens: list[int]


class LlamaTokenizer:
    """The model's tokenizer. Thread-safe; caches short texts."""

    def __init__(self, address: str, key: str) -> None:
        self._host = urlsplit(address).netloc
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self._cache: OrderedDict[str, list[int]] = OrderedDict()
        self._lock = threading.Lock()
        self._idle: list[http.client.HTTPConnection] = []

    def __call__(self, text: str) -> list[int]:
        """Return the ids of ``text``, without any that it does not spell.

        Raises:
            EngineError: the engine does not answer.
        """
        with self._lock:
            cached = self._cache.get(text)
            if cached is not None:
                self._cache.move_to_end(text)
                return cached
        ids = self._ask(text)
        if len(text) <= _CACHE_CHARS:
            with self._lock:
                self._cache[text] = ids
                if len(self._cache) > _CACHE_TEXTS:
                    self._cache.popitem(last=False)
        return ids

    def close(self) -> None:
        """Close the connections that are not in use."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _ask(self, text: str) -> list[int]:
        body = msgspec.json.encode({"content": text, "add_special": False, "parse_special": False})
        with self._lock:
            kept = self._idle.pop() if self._idle else None
        if kept is not None:
            try:
                return self._exchange(kept, body)
            except (OSError, http.client.HTTPException):
                # The engine drops a connection after seconds without use: a fresh one decides.
                kept.close()
        fresh = http.client.HTTPConnection(self._host, timeout=_TIMEOUT_S)
        try:
            return self._exchange(fresh, body)
        except (OSError, http.client.HTTPException) as error:
            fresh.close()
            raise EngineError("The engine's tokenizer does not answer.") from error

    def _exchange(self, connection: http.client.HTTPConnection, body: bytes) -> list[int]:
        connection.request("POST", "/tokenize", body, self._headers)
        response = connection.getresponse()
        answer = response.read()
        with self._lock:
            self._idle.append(connection)
        if response.status != http.client.OK:
            raise EngineError("The engine could not tokenise a text.")
        return msgspec.json.decode(answer, type=_Tokens).tokens
