"""The upstream's own tokenizer, over HTTP, for plain text.

llama-server leaves special tokens alone when it is told to. vLLM and SGLang cannot be told: the
text of a special token becomes that token, and which texts these are they do not list. So whatever
in a text looks like one is asked for first, and what the server makes a single token of joins the
literals that a content is cut at (``PlainText``).
"""

import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Literal

import msgspec

from onbook.worker.engines.base import EngineError, UpstreamUnavailableError
from onbook.worker.engines.openai_upstream.server import BlockingClient, refusal_of
from onbook.worker.rendering import ContentNotPlainError

TokenizerApi = Literal["llama", "openai"]

_CACHE_TEXTS: Final = 4096
_CACHE_CHARS: Final = 16_384
_CACHE_LITERALS: Final = 4096
# Each costs a request; a text with more different ones is no prompt.
_MAX_ASKED: Final = 128
# Special tokens are written in angle or square brackets, without a space.
_LITERAL: Final = re.compile(r"<[^<>\s]{1,64}>|\[[^\[\]\s]{1,32}\]")


class _Tokens(msgspec.Struct):
    tokens: list[int]


class _Text(msgspec.Struct):
    content: str | None = None
    prompt: str | None = None
    text: str | None = None


class Literals(Mapping[str, int]):
    """Texts that are one token, with their ids. It grows; readers in other threads see it whole."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def add(self, literal: str, token: int) -> None:
        """Add a literal. Callers take turns."""
        self._known = {**self._known, literal: token}

    def __getitem__(self, literal: str) -> int:
        return self._known[literal]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


class UpstreamTokenizer:
    """Tokenises by asking the server. Blocking; thread-safe; caches short texts.

    ``literals`` are the special tokens that are known so far, ``failures`` the times that the
    server was away.
    """

    def __init__(self, client: BlockingClient, api: TokenizerApi, model: str) -> None:
        self._client = client
        self._api = api
        self._model = model
        self._cache: OrderedDict[str, list[int]] = OrderedDict()
        self._plain_literals: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()
        self.literals = Literals()
        self.failures = 0

    def __call__(self, text: str) -> list[int]:
        """Return the ids of ``text``; a special token's only if it is among ``literals`` then.

        Raises:
            ContentNotPlainError: there are too many literals in it to ask for.
            UpstreamUnavailableError: the server is away.
            EngineError: it does not tokenise.
        """
        with self._lock:
            cached = self._cache.get(text)
            if cached is not None:
                self._cache.move_to_end(text)
                return cached
        ids = self._plain(text)
        if len(text) <= _CACHE_CHARS:
            with self._lock:
                self._cache[text] = ids
                if len(self._cache) > _CACHE_TEXTS:
                    self._cache.popitem(last=False)
        return ids

    def special(self, text: str) -> list[int]:
        """Return the ids of ``text`` in which the text of a special token is that token."""
        return self._ask(text, add_special=False, parse_special=True).tokens

    def bos(self) -> int | None:
        """Return the id that the model wants at the beginning, if it wants one."""
        added = self._ask("", add_special=True, parse_special=True).tokens
        return added[0] if added else None

    def learn(self, literals: Iterable[str]) -> None:
        """Add those of ``literals`` that are one token to this model."""
        for literal in literals:
            self.is_special(literal)

    def is_special(self, literal: str) -> bool:
        """Tell whether the server makes one token of ``literal``."""
        if literal in self.literals:
            return True
        with self._lock:
            if literal in self._plain_literals:
                return False
        ids = self.special(literal)
        with self._lock:
            if len(ids) == 1:
                self.literals.add(literal, ids[0])
                return True
            self._plain_literals[literal] = None
            if len(self._plain_literals) > _CACHE_LITERALS:
                self._plain_literals.popitem(last=False)
            return False

    def text_of(self, ids: list[int]) -> str | None:
        """Return the text of ``ids``, or None where the server does not detokenise."""
        body = {"tokens": ids} if self._api == "llama" else {"model": self._model, "tokens": ids}
        said = self._client.post("/detokenize", body).read(_Text)
        if said is None:
            return None
        return next((text for text in (said.content, said.prompt, said.text) if text), "")

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _plain(self, text: str) -> list[int]:
        if self._api == "llama":
            return self._ask(text, add_special=False, parse_special=False).tokens
        found = set(_LITERAL.findall(text)) - self._plain_literals.keys() - self.literals.keys()
        if len(found) > _MAX_ASKED:
            raise ContentNotPlainError
        self.learn(found)
        return self.special(text)

    def _ask(self, text: str, *, add_special: bool, parse_special: bool) -> _Tokens:
        body: dict[str, object]
        if self._api == "llama":
            body = {"content": text, "add_special": add_special, "parse_special": parse_special}
        else:
            body = {"model": self._model, "prompt": text, "add_special_tokens": add_special}
        try:
            answer = self._client.post("/tokenize", body)
            said = answer.read(_Tokens)
            if said is None:
                raise refusal_of(answer.status) or EngineError("The upstream does not tokenise.")
        except UpstreamUnavailableError:
            self.failures += 1
            raise
        return said
