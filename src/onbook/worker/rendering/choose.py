"""Choosing the renderer of a model from its control tokens and its own chat template."""

from dataclasses import replace
from typing import Final

from onbook.wire.worker_api import Message, Role
from onbook.worker.rendering import literals as known
from onbook.worker.rendering.errors import MessagesNotRenderableError, UnsupportedModelError
from onbook.worker.rendering.families import ChatMl, Gemma, Llama3, Mistral
from onbook.worker.rendering.plain_text import PlainText
from onbook.worker.rendering.renderer import Family, Renderer
from onbook.worker.rendering.skeleton import SHAPES, Skeleton, from_parts, read_skeletons
from onbook.worker.rendering.template import TemplateRenderer

_ROLES: Final[dict[str, Role]] = {"system": "system", "user": "user", "assistant": "assistant"}


def chat_renderer(text: PlainText, chat_template: str | None) -> Renderer:
    """Return the renderer for a model: its family's, else one made from its own template.

    A family is taken where its control tokens exist, the template names them, and the template
    sets contents and control tokens in the order that the family's renderer does. Blocking: it
    runs the template in a sandbox.

    Raises:
        UnsupportedModelError: nothing renders this model without text of its own.
    """
    family = _family(text, chat_template)
    if chat_template is None:
        if family is None:
            raise UnsupportedModelError(
                "The model has no chat template and no control tokens of a known family, so it "
                "cannot take chat messages."
            )
        return family
    if family is not None and _agrees(family, text, chat_template):
        return family
    if family is None and _marks_turns_with_text(text, chat_template):
        raise UnsupportedModelError(
            "The model's chat template marks turns with plain text ([INST]) that its tokenizer "
            "has no control tokens for, so a caller's text could close its own turn."
        )
    return TemplateRenderer(text, chat_template)


def _family(text: PlainText, chat_template: str | None) -> Family | None:
    special = text.special

    def ids(*names: str) -> list[int] | None:
        # The first one is the family's sign: a template that does not name it has another format.
        if chat_template is not None and names[0] not in chat_template:
            return None
        found = [special[name] for name in names if name in special]
        return found if len(found) == len(names) else None

    if (chatml := ids(known.CHATML_START, known.CHATML_END)) is not None:
        return ChatMl(text, start=chatml[0], end=chatml[1])
    headers = (known.LLAMA3_HEADER_START, known.LLAMA3_HEADER_END, known.LLAMA3_END)
    if (llama := ids(*headers, known.LLAMA3_BEGIN)) is not None:
        header, header_end, end, begin = llama
        return Llama3(text, begin=begin, header=header, header_end=header_end, end=end)
    if (gemma := ids(known.GEMMA_START, known.GEMMA_END, known.GEMMA_BEGIN)) is not None:
        start, end, begin = gemma
        return Gemma(text, begin=begin, start=start, end=end)
    turn = (known.MISTRAL_USER, known.MISTRAL_USER_END, known.MISTRAL_BEGIN, known.MISTRAL_END)
    if (mistral := ids(*turn)) is not None:
        user, user_end, begin, end = mistral
        v3 = Mistral(text, begin=begin, end=end, user=user, user_end=user_end)
        system = ids(known.MISTRAL_SYSTEM, known.MISTRAL_SYSTEM_END)
        return replace(v3, system=system[0], system_end=system[1]) if system else v3
    return None


def _marks_turns_with_text(text: PlainText, chat_template: str) -> bool:
    return known.MISTRAL_USER in chat_template and known.MISTRAL_USER not in text.special


def _agrees(family: Family, text: PlainText, chat_template: str) -> bool:
    """Tell whether the template's order of control tokens and contents is the family's.

    Shapes with a system turn decide where the template takes one: without it many templates add
    a system turn of their own, which the family's renderer must not. A template that cannot be
    run decides nothing.
    """
    skeletons = [
        skeleton
        for skeleton in read_skeletons(text, chat_template, SHAPES.values())
        if skeleton.groups
    ]
    with_system = [skeleton for skeleton in skeletons if skeleton.roles[0] == "system"]
    return all(_same(family, text, skeleton) for skeleton in with_system or skeletons)


def _same(family: Family, text: PlainText, theirs: Skeleton) -> bool:
    contents = [f"content-{place:05d}." for place in range(len(theirs.roles))]
    messages = [
        Message(_ROLES[role], content) for role, content in zip(theirs.roles, contents, strict=True)
    ]
    try:
        ours = from_parts(theirs.roles, family.parts(messages), contents)
    except MessagesNotRenderableError:
        return True
    begin = {text.bos, *(text.special.get(name) for name in (known.MISTRAL_BEGIN,
             known.GEMMA_BEGIN, known.LLAMA3_BEGIN))}  # fmt: skip
    if family.exact and theirs.problem is None:
        return _after(begin, ours.groups) == _after(begin, theirs.groups)
    return _after(begin, tuple(ours.order())) == _after(begin, tuple(theirs.order()))


def _after(begin: set[int | None], items: tuple[object, ...]) -> tuple[object, ...]:
    return items[1:] if items and items[0] in begin else items
