"""Knowing, without asking a worker, which token ids a prompt must become."""

from collections.abc import Sequence
from typing import Protocol

from onbook.domain.messages import Message


class PromptIds(Protocol):
    """The prompt rendering of one model, computed by code that is not the worker's."""

    @property
    def model_sha256(self) -> str:
        """Digest of the model file whose tokenizer this is."""

    @property
    def family(self) -> str | None:
        """The rendering of the model's chats that can be computed here; None where none can."""

    def ids(
        self, messages: Sequence[Message], *, raw: bool, rendering: str | None
    ) -> Sequence[int] | None:
        """Return the ids that ``messages`` become, or None where that cannot be said for sure.

        Args:
            messages: The turns; control tokens are never read from their contents.
            raw: A raw completion instead of a chat.
            rendering: How a chat was rendered, as the receipt names it; None is the way of the
                model's family.
        """
