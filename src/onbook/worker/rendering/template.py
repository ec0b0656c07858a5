"""The renderer for models of no known family: the model's own template, without its say.

The template runs over marks instead of contents, once per sequence of roles. What it writes
around the marks must be control tokens, role words and white space; the contents are put in
afterwards, as plain text. So a template decides where turns begin and end, and nothing else.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from onbook.wire.worker_api import Message
from onbook.worker.rendering.errors import MessagesNotRenderableError, UnsupportedModelError
from onbook.worker.rendering.plain_text import PlainText
from onbook.worker.rendering.renderer import encode
from onbook.worker.rendering.sandbox import WHY
from onbook.worker.rendering.skeleton import SHAPES, Skeleton, read_skeletons

_KEPT_SHAPES: Final = 512
# Conversations usually grow by two turns: so many pairs are made ready at the start.
_READY_PAIRS: Final = 12


class TemplateRenderer:
    """Renders by a model's own chat template, from which only the skeleton is taken.

    Raises:
        UnsupportedModelError: the template adds text, leaves contents out or cannot be run.
    """

    name = "template"

    def __init__(self, text: PlainText, template: str) -> None:
        if "eos_token" in template and text.eos is None:
            raise UnsupportedModelError(
                "The model's chat template needs the token that ends a text, which is not known."
            )
        self.text = text
        self._template = template
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, ...], Skeleton] = OrderedDict()
        required = read_skeletons(text, template, SHAPES.values())
        for name, skeleton in zip(SHAPES, required, strict=True):
            if skeleton.problem is not None and name != "system and three turns":
                raise UnsupportedModelError(
                    f"The model's own chat template {skeleton.problem} ({name}), so the model "
                    "cannot be run purely."
                )
        ready = [
            (*first, *("user", "assistant") * pairs, "user")
            for first in ((), ("system",))
            for pairs in range(2, _READY_PAIRS + 1)
        ]
        for skeleton in (*required, *read_skeletons(text, template, ready)):
            self._keep(skeleton)

    def render(self, messages: Sequence[Message]) -> list[int]:
        """Return the prompt's token ids.

        Raises:
            ContentNotPlainError: a content cannot be written without control tokens.
            MessagesNotRenderableError: for these turns the template fails or adds text.
        """
        skeleton = self._skeleton(tuple(message.role for message in messages))
        if skeleton.problem is not None:
            raise MessagesNotRenderableError(
                f"The model's own chat template {skeleton.problem} for this sequence of roles."
            )
        return encode(self.text, skeleton.parts(messages))

    def _skeleton(self, roles: tuple[str, ...]) -> Skeleton:
        with self._lock:
            known = self._known.get(roles)
            if known is not None:
                self._known.move_to_end(roles)
                return known
        (skeleton,) = read_skeletons(self.text, self._template, [roles])
        self._keep(skeleton)
        return skeleton

    def _keep(self, skeleton: Skeleton) -> None:
        if skeleton.problem == WHY["unbounded"]:
            # Perhaps only the machine was too busy: the next request may find it calmer.
            return
        with self._lock:
            self._known[skeleton.roles] = skeleton
            if len(self._known) > _KEPT_SHAPES:
                self._known.popitem(last=False)
