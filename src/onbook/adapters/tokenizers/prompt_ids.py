"""Which token ids a model's prompt must become: ChatML, Llama 3 and raw completions.

Written from the models' own templates and not from a worker's code, so that it can check one.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Final, Literal

from onbook.adapters.tokenizers.byte_level import ByteLevelBpe
from onbook.adapters.tokenizers.gguf_vocabulary import GgufVocabulary, read_vocabulary
from onbook.domain.messages import Message

Family = Literal["chatml", "llama3"]

_CONTROL: Final = 3
_CHATML: Final = ("<|im_start|>", "<|im_end|>")
_LLAMA3: Final = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_CACHED_TURNS: Final = 1_024
_CACHED_TURN_CHARS: Final = 16_384


class GgufPromptIds:
    """``ports.PromptIds`` for one model file. Safe to use from several threads.

    Args:
        vocabulary: The file's vocabulary.
        model_sha256: The file's digest.

    Raises:
        ValueError: the vocabulary is of a kind that is not known here.
    """

    def __init__(self, vocabulary: GgufVocabulary, *, model_sha256: str) -> None:
        self.model_sha256 = model_sha256
        self._bpe = ByteLevelBpe(vocabulary)
        self._control = {
            text: index
            for index, (text, kind) in enumerate(
                zip(vocabulary.tokens, vocabulary.types, strict=True)
            )
            if kind == _CONTROL
        }
        self.family = _family(self._control, vocabulary.chat_template)
        self._bos = _bos(vocabulary)
        self._turns: OrderedDict[tuple[str, str], tuple[int, ...] | None] = OrderedDict()
        self._lock = Lock()

    def ids(
        self, messages: Sequence[Message], *, raw: bool, rendering: str | None = None
    ) -> list[int] | None:
        """Return the ids that ``messages`` become, or None where that cannot be said for sure."""
        if raw:
            found = self._bpe.encode("".join(message.content for message in messages))
            return found and [*self._bos, *found]
        if self.family is None or rendering not in (None, self.family):
            return None
        ids = [self._control[_LLAMA3[0]]] if self.family == "llama3" else list(self._bos)
        for message in messages:
            turn = self._turn(message.role, message.content)
            if turn is None:
                return None
            ids += turn
        opening = self._turn("assistant", None)
        return None if opening is None else [*ids, *opening]

    def _turn(self, role: str, content: str | None) -> tuple[int, ...] | None:
        """Return the ids of one turn; without a content, those that open the model's own."""
        if content is None or len(content) > _CACHED_TURN_CHARS:
            return self._encoded(role, content)
        key = (role, content)
        with self._lock:
            if key in self._turns:
                self._turns.move_to_end(key)
                return self._turns[key]
        # Without the lock: a long text must not hold up a short one.
        turn = self._encoded(role, content)
        with self._lock:
            self._turns[key] = turn
            if len(self._turns) > _CACHED_TURNS:
                self._turns.popitem(last=False)
        return turn

    def _encoded(self, role: str, content: str | None) -> tuple[int, ...] | None:
        control, plain = self._control, self._bpe.encode
        if self.family == "chatml":
            start, end = (control[text] for text in _CHATML)
            parts = (
                [[start], plain(f"{role}\n")]
                if content is None
                else [[start], plain(f"{role}\n{content}"), [end], plain("\n")]
            )
        else:
            _, start, after_role, end = (control[text] for text in _LLAMA3)
            parts = [[start], plain(role), [after_role], plain(f"\n\n{content or ''}")]
            if content is not None:
                parts.append([end])
        ids: list[int] = []
        for part in parts:
            if part is None:
                return None
            ids += part
        return tuple(ids)


@dataclass(frozen=True, slots=True)
class OnlyTheModel:
    """``ports.PromptIds`` where it is known which model a worker must run, and no more."""

    model_sha256: str
    family: None = None

    def ids(self, _messages: Sequence[Message], *, raw: bool, rendering: str | None = None) -> None:
        """Return None: nothing can be said of the ids."""
        del raw, rendering


def prompt_ids_of(path: Path, *, model_sha256: str | None = None) -> GgufPromptIds | OnlyTheModel:
    """Return the rendering of the model in ``path``; one of no known kind has no ids.

    Blocking: about 0.2 s for 50,000 tokens, and 3 s per GB where the digest is not given.

    Raises:
        VocabularyUnreadable: the file is missing, no GGUF file, or damaged.
    """
    vocabulary = read_vocabulary(path)
    if model_sha256 is None:
        with path.open("rb") as file:
            model_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    try:
        return GgufPromptIds(vocabulary, model_sha256=model_sha256)
    except ValueError:
        return OnlyTheModel(model_sha256)


def _family(control: dict[str, int], template: str | None) -> Family | None:
    families: tuple[tuple[Family, tuple[str, ...]], ...] = (
        ("chatml", _CHATML),
        ("llama3", _LLAMA3),
    )
    for name, needed in families:
        # The first of Llama 3's is the beginning of the text, which templates name by variable.
        named = needed[-3:]
        if all(text in control for text in needed) and (
            template is None or all(text in template for text in named)
        ):
            return name
    return None


def _bos(vocabulary: GgufVocabulary) -> list[int]:
    # llama.cpp adds it for Llama 3 where the file does not say otherwise.
    adds = vocabulary.pre == "llama-bpe" if vocabulary.add_bos is None else vocabulary.add_bos
    return [vocabulary.bos_id] if adds and vocabulary.bos_id is not None else []
