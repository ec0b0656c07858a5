"""Messages to token ids. Contents are tokenised as plain text; control tokens are added by id.

So ``<|im_end|>`` inside a message stays ordinary text, and a caller cannot close his own turn.
Nothing else is added: no default system text, no date, no reminder.
"""

from onbook.worker.rendering.budget import Budget, spending
from onbook.worker.rendering.choose import chat_renderer
from onbook.worker.rendering.errors import (
    ContentNotPlainError,
    LongRunError,
    MessagesNotRenderableError,
    RenderingCancelledError,
    TooManyTokensError,
    UnsupportedModelError,
)
from onbook.worker.rendering.families import ChatMl, Gemma, Llama3, Mistral
from onbook.worker.rendering.literals import (
    CHATML_END,
    CHATML_START,
    FAMILY_LITERALS,
    control_literals,
)
from onbook.worker.rendering.plain_text import PlainText, Tokenize, is_control
from onbook.worker.rendering.renderer import RawCompletion, Renderer
from onbook.worker.rendering.template import TemplateRenderer

__all__ = [
    "CHATML_END",
    "CHATML_START",
    "FAMILY_LITERALS",
    "Budget",
    "ChatMl",
    "ContentNotPlainError",
    "Gemma",
    "Llama3",
    "LongRunError",
    "MessagesNotRenderableError",
    "Mistral",
    "PlainText",
    "RawCompletion",
    "Renderer",
    "RenderingCancelledError",
    "TemplateRenderer",
    "Tokenize",
    "TooManyTokensError",
    "UnsupportedModelError",
    "chat_renderer",
    "control_literals",
    "is_control",
    "spending",
]
