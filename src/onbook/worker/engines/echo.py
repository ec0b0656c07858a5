"""An engine without a model: it says the user's last words again. For tests and for wiring up.

Its tokens are runs of up to four bytes, so that counts are near a real model's; two more ids are
its control tokens, so that rendering by ids is exercised as with a real model.
"""

from collections.abc import AsyncGenerator, Sequence
from typing import Final

from onbook.wire.receipt import EffectiveSampling
from onbook.wire.worker_api import FinishReason, ModelInfo
from onbook.worker.engines.base import Piece
from onbook.worker.rendering import CHATML_END, CHATML_START, PlainText

_START: Final = 0
_END: Final = 1
_BYTES_PER_TOKEN: Final = 4
_USER: Final = "user\n"


class EchoEngine:
    """Echoes the content of the last user turn; of a raw completion, its last paragraph."""

    chat_template: str | None = None

    def __init__(self, context_size: int) -> None:
        self.context_size = context_size
        self.text = PlainText(
            tokenize=_tokenize,
            special={CHATML_START: _START, CHATML_END: _END},
        )
        self.model = ModelInfo(
            name="echo", engine="echo", family="chatml", context_size=context_size, slots=1
        )

    async def generate(
        self,
        token_ids: Sequence[int],
        sampling: EffectiveSampling,
        grammar: str | None,  # noqa: ARG002 - an echo has no choice to constrain
    ) -> AsyncGenerator[Piece, None]:
        """Yield the user's words, cut to ``max_tokens`` as a model would be."""
        said = _tokenize(_last_words(token_ids))
        reason: FinishReason = "length" if len(said) > sampling.max_tokens else "stop"
        said = said[: sampling.max_tokens]
        text = _detokenize(said)
        for stop in sampling.stop:
            text = text.partition(stop)[0] if stop else text
        yield Piece(text)
        yield Piece("", reason, len(said), len(token_ids))

    async def ready(self) -> bool:
        """Tell whether requests can be taken: always, once it is made."""
        return True

    async def close(self) -> None:
        """Nothing to free."""


def _tokenize(text: str) -> list[int]:
    data = text.encode("utf-8", "surrogatepass")
    # The leading one keeps the length of a short run, and keeps clear of the control ids.
    return [
        int.from_bytes(b"\x01" + data[at : at + _BYTES_PER_TOKEN])
        for at in range(0, len(data), _BYTES_PER_TOKEN)
    ]


def _detokenize(token_ids: Sequence[int]) -> str:
    data = b"".join(
        token.to_bytes((token.bit_length() + 7) // 8)[1:] for token in token_ids if token > _END
    )
    return data.decode("utf-8", "ignore")


def _last_words(token_ids: Sequence[int]) -> str:
    if _START not in token_ids:
        return _detokenize(token_ids).rstrip().rpartition("\n\n")[2]
    turn: list[int] = []
    said = ""
    for token in token_ids:
        if token == _START:
            turn = []
        elif token == _END:
            content = _detokenize(turn)
            said = content[len(_USER) :] if content.startswith(_USER) else said
        else:
            turn.append(token)
    return said
