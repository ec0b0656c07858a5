"""The self-test that a worker passes before it calls itself healthy.

It renders sentinels in four role shapes and takes the ids apart again, without the renderer's
help: what is not a control token must be exactly the contents, role words and white space, and
contents full of control tokens' texts must not change the control tokens of the prompt.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from typing import Final

from onbook.wire.worker_api import Message, PurityReport
from onbook.worker.rendering import (
    FAMILY_LITERALS,
    ContentNotPlainError,
    MessagesNotRenderableError,
    PlainText,
    Renderer,
)
from onbook.worker.rendering.skeleton import SHAPES, read_skeletons

_SENTINEL: Final = "sentinel-7f3a"
_OWN_LITERALS: Final = 64
_EXCERPT_CHARS: Final = 80
_HOSTILE: Final = "control tokens in the text"
_PROBED: Final = ("user only", "system and user", "three turns")
_WHITE: Final = ("", "\n", "\n\n", " ")
_WORDS: Final = {
    "system": ("system", "user"),
    "user": ("user",),
    "assistant": ("assistant", "model"),
}


def probe_purity(renderer: Renderer, text: PlainText, chat_template: str | None) -> PurityReport:
    """Render every shape and report what was added to the contents besides control tokens.

    Args:
        renderer: What is tested.
        text: The model's tokenizer, which tells control tokens from text.
        chat_template: The model's own template, for the notes on what it would have added.
    """
    failures: list[str] = []
    added: list[str] = []
    controls = {*text.special.values(), text.bos} - {None}
    benign: dict[str, list[int]] = {}
    for shape in (*_PROBED, _HOSTILE):
        messages = _messages(shape, text)
        try:
            ids = renderer.render(messages)
            if not _explained(text, ids, controls, messages):
                failures.append(f"{shape}: there are tokens that are not the caller's")
                added.append(shape)
        except ContentNotPlainError:
            failures.append(f"{shape}: a content cannot be written without control tokens")
            continue
        except MessagesNotRenderableError:
            failures.append(f"{shape}: the model's format has no place for these turns")
            continue
        benign[shape] = [token for token in ids if token in controls]
    if benign.get(_HOSTILE) != benign.get("system and user"):
        failures.append(f"{_HOSTILE}: contents change the control tokens of the prompt")
    return PurityReport(
        passed=not failures,
        added_text=added[0] if added else "",
        checked=[*_PROBED, _HOSTILE],
        failures=failures,
        rendering=renderer.name,
        notes=_notes(text, chat_template),
    )


def _messages(shape: str, text: PlainText) -> list[Message]:
    if shape == _HOSTILE:
        own = sorted(text.special)[:_OWN_LITERALS]
        escape = "".join((*sorted(FAMILY_LITERALS), *own))
        return [
            Message("system", f"{_SENTINEL}{escape}\nobey"),
            Message("user", f"{_SENTINEL} {escape}"),
        ]
    return [
        Message(role, f"{_SENTINEL}-{place}")  # type: ignore[arg-type]  # SHAPES holds roles
        for place, role in enumerate(SHAPES[shape])
    ]


def _explained(
    text: PlainText, ids: Sequence[int], controls: set[int | None], messages: Sequence[Message]
) -> bool:
    """Tell whether the runs between control tokens are the contents, in order, and no more."""
    left = list(messages)
    for control, run in groupby(ids, key=controls.__contains__):
        if control:
            continue
        wanted = list(run)
        taken = next((count for count, reading in _readings(text, left) if reading == wanted), None)
        if taken is None:
            return False
        left = left[taken:]
    return not left


def _readings(text: PlainText, left: Sequence[Message]) -> Iterator[tuple[int, list[int]]]:
    """Yield the token ids that a run may have, each with how many contents it uses up."""
    for words in {word: None for each in _WORDS.values() for word in each}:
        for tail in _WHITE:
            yield 0, text.ids(words + tail)
    for tail in _WHITE[1:]:
        yield 0, text.ids(tail)
    if not left:
        return
    bodies = [(1, left[0].content)]
    if left[0].role == "system" and len(left) > 1:
        bodies += [(2, left[0].content + gap + left[1].content) for gap in _WHITE[1:]]
    heads = [word + gap for word in _WORDS[left[0].role] for gap in _WHITE[1:]]
    for count, body in bodies:
        for head in ("", *_WHITE[1:], *heads):
            for tail in _WHITE:
                yield count, text.ids(head + body + tail)
                yield count, [*text.ids(head), *text.ids(body), *text.ids(tail)]


def _notes(text: PlainText, chat_template: str | None) -> list[str]:
    """Say what the model's own template would have done; its texts are not a caller's."""
    if chat_template is None:
        return ["The model has no chat template of its own."]
    notes = []
    skeletons = read_skeletons(text, chat_template, SHAPES.values())
    for name, skeleton in islice(zip(SHAPES, skeletons, strict=True), len(_PROBED)):
        if skeleton.additions:
            tokens = sum(len(text.ids(addition)) for addition in skeleton.additions)
            excerpt = " … ".join(skeleton.additions)
            if len(excerpt) > _EXCERPT_CHARS:
                excerpt = excerpt[: _EXCERPT_CHARS - 1] + "…"
            notes.append(
                f"{name}: the model's own template would add text of about {tokens} tokens "
                f"(“{excerpt}”); it is not added here."
            )
        elif skeleton.problem is not None:
            notes.append(f"{name}: the model's own template {skeleton.problem}.")
    return notes
