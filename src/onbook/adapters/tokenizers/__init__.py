"""Exact token counters, one for each reader of a prompt."""

from onbook.adapters.tokenizers.byte_pairs import TokenizerDataError
from onbook.adapters.tokenizers.clip import ClipCounter
from onbook.adapters.tokenizers.qwen import QwenCounter
from onbook.domain.token_counting import CharacterCounter, TokenCounter

__all__ = ["ClipCounter", "QwenCounter", "TokenizerDataError", "counters"]


def counters() -> dict[str, TokenCounter]:
    """Return the counter of each ``token_unit``. Nothing is loaded before its first use.

    ``umt5`` is counted with Qwen's tokenizer, and reported so: umT5's vocabulary is not packaged,
    and 100 Qwen tokens have been at most 233 umT5 tokens, well inside WAN's context of 512.
    ``model`` is counted with Qwen's tokenizer as well, the family of the recommended models.
    """
    qwen = QwenCounter()
    return {"clip": ClipCounter(), "umt5": qwen, "model": qwen, "chars": CharacterCounter()}
