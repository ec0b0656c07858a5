"""What a server that renders chats itself adds to them, found out before it gets a request.

Its rendering is read where it shows one: llama-server's ``/apply-template``, or vLLM's
``/tokenize`` of messages and ``/detokenize``. Where it shows none, the prompt tokens that it
counts for three shapes tell: with a turn of t tokens and g for what opens the reply, one user
turn counts g + t + d, system and user g + 2t, three turns without system g + 3t + d; so
d = (one + three) / 2 - two is the default system text, and a g beyond what a family's own control
tokens take is text that is always there.
"""

import re
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from onbook.wire.worker_api import Message, PurityReport, Role
from onbook.worker.engines.base import EngineError
from onbook.worker.engines.openai_upstream.chat_engine import chat_body
from onbook.worker.engines.openai_upstream.sampling import Flavour
from onbook.worker.engines.openai_upstream.server import BlockingClient
from onbook.worker.engines.openai_upstream.tokenizer import UpstreamTokenizer

_SENTINEL: Final = "sentinel"
_SHAPES: Final[dict[str, tuple[Role, ...]]] = {
    "user only": ("user",),
    "system and user": ("system", "user"),
    "three turns": ("user", "assistant", "user"),
    "system and three turns": ("system", "user", "assistant", "user"),
}
_ROLE_WORDS: Final = frozenset({"system", "user", "assistant", "model"})
_LITERAL: Final = re.compile(r"<[^<>\s]{1,64}>|\[[^\[\]\s]{1,32}\]")
# Of the families in use none opens and closes a conversation with more control tokens and words.
_MAX_FRAME_TOKENS: Final = 8
_SHOWN_CHARS: Final = 80


class _Rendered(msgspec.Struct):
    prompt: str


class _Tokenized(msgspec.Struct):
    tokens: list[int]


class _Usage(msgspec.Struct):
    prompt_tokens: int


class _Counted(msgspec.Struct):
    usage: _Usage


def probe_chat(
    client: BlockingClient, flavour: Flavour, model: str, tokenizer: UpstreamTokenizer | None
) -> PurityReport:
    """Find out what the server adds to messages. Blocking.

    Raises:
        EngineError: the server does not answer, or refuses every shape.
    """
    show = _shown_rendering(client, flavour, model, tokenizer)
    if show is not None and tokenizer is not None:
        return _judge_texts(show, tokenizer.is_special)
    return _judge_counts(client, flavour, model)


def residue(
    rendered: str, contents: Sequence[str], is_control: Callable[[str], bool]
) -> str | None:
    """Return what ``rendered`` holds besides contents, control tokens and role words.

    None where a content is missing, doubled, changed, or not at its place.
    """
    rest: list[str] = []
    position = 0
    for content in contents:
        at = rendered.find(content, position)
        if at < 0 or rendered.count(content) != 1:
            return None
        rest.append(rendered[position:at])
        position = at + len(content)
    rest.append(rendered[position:])
    found: list[str] = []
    for part in rest:
        bare = _LITERAL.sub(
            lambda literal: "\0" if is_control(literal.group()) else literal.group(), part
        )
        pieces = (" ".join(piece.split()) for piece in bare.split("\0"))
        found += [piece for piece in pieces if piece and piece not in _ROLE_WORDS]
    return " ".join(found)


def _messages(shape: Sequence[Role]) -> list[Message]:
    return [Message(role, f"{_SENTINEL}-{at}-7f3a") for at, role in enumerate(shape)]


def _shown_rendering(
    client: BlockingClient, flavour: Flavour, model: str, tokenizer: UpstreamTokenizer | None
) -> Callable[[list[Message]], str | None] | None:
    if tokenizer is None:
        return None

    def applied(messages: list[Message]) -> str | None:
        body = {"messages": msgspec.to_builtins(messages)}
        said = client.post("/apply-template", body).read(_Rendered)
        return said.prompt if said is not None else None

    def tokenized(messages: list[Message]) -> str | None:
        body = {"model": model, "messages": msgspec.to_builtins(messages)}
        said = client.post("/tokenize", body).read(_Tokenized)
        return tokenizer.text_of(said.tokens) if said is not None else None

    show = applied if flavour == "llama" else tokenized
    # A server that cannot show the simplest shape does not show any.
    return show if show(_messages(("user",))) else None


def _judge_texts(
    show: Callable[[list[Message]], str | None], is_control: Callable[[str], bool]
) -> PurityReport:
    failures: list[str] = []
    notes: list[str] = []
    added = ""
    for shape, roles in _SHAPES.items():
        messages = _messages(roles)
        rendered = show(messages)
        if rendered is None:
            notes.append(f"{shape}: the server refuses to render it")
            continue
        found = residue(rendered, [message.content for message in messages], is_control)
        if found is None:
            failures.append(f"{shape}: a content is left out, doubled or changed")
        elif found:
            added = added or found
            failures.append(f"{shape}: the server adds {found[:_SHOWN_CHARS]!r}")
    return _report(failures, added, notes)


def _judge_counts(client: BlockingClient, flavour: Flavour, model: str) -> PurityReport:
    one = _count(client, flavour, model, ("user",))
    two = _count(client, flavour, model, ("system", "user"))
    three = _count(client, flavour, model, ("user", "assistant", "user"))
    if one is None or three is None:
        raise EngineError("The upstream does not report how many tokens it reads.")
    turn = (three - one) / 2
    failures: list[str] = []
    notes = ["what the server adds was told from its counts of tokens, it does not show more"]
    if two is None:
        notes.append("system and user: the server refuses it")
        frame = one - turn
    else:
        default = (one + three) / 2 - two
        frame = two - 2 * turn
        if default > 1:
            failures.append(
                f"user only: about {round(default)} tokens are added where no system text is given"
            )
    # The sentinel's own tokens are in each turn, so what is left is what stands around the turns.
    if frame > _MAX_FRAME_TOKENS:
        failures.append(f"every shape: about {round(frame)} tokens are added to the turns")
    return _report(failures, "", notes)


def _count(
    client: BlockingClient, flavour: Flavour, model: str, roles: Sequence[Role]
) -> int | None:
    # The same content in every turn: the difference between shapes is whole turns.
    messages = [Message(role, f"{_SENTINEL}-7f3a") for role in roles]
    body = chat_body(flavour, model, messages) | {"max_tokens": 1, "temperature": 0.0}
    said = client.post("/v1/chat/completions", body).read(_Counted)
    return said.usage.prompt_tokens if said is not None else None


def _report(failures: list[str], added: str, notes: list[str]) -> PurityReport:
    return PurityReport(
        passed=not failures,
        added_text=added,
        checked=list(_SHAPES),
        failures=failures,
        verification="request_only",
        rendering="upstream",
        notes=notes,
    )
