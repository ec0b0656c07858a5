"""Why messages cannot become token ids, and why a model cannot be rendered for."""


class UnsupportedModelError(Exception):
    """The model cannot be run purely; the message says why in one sentence."""


class ContentNotPlainError(Exception):
    """A content could not be tokenised without producing control tokens."""


class MessagesNotRenderableError(Exception):
    """The model's format has no place for these turns; the message says which, without contents.

    The caller's mistake: he sent a sequence of roles that this model does not know.
    """


class LongRunError(MessagesNotRenderableError):
    """A content has a word or a gap so long that the model's tokenizer would not survive it."""

    def __init__(self, longest: int) -> None:
        super().__init__(
            f"This model's tokenizer takes at most {longest} characters without a space or comma "
            "between them, and at most as many spaces or signs in a row."
        )


class TooManyTokensError(Exception):
    """The prompt has more ids than the request may have: ``found`` of them so far."""

    def __init__(self, found: int) -> None:
        super().__init__(f"over {found} tokens")
        self.found = found


class RenderingCancelledError(Exception):
    """Nobody waits for the rendering any more."""
