"""One draw from the worker: a verified text that can be worked with, or an error that says why."""

from typing import Final, Literal, Protocol
from zlib import crc32

from onbook.domain.content_mode.decision import ContentModeDetector
from onbook.domain.enhancement import ModelRun
from onbook.domain.errors import WorkerAnswerInvalid
from onbook.domain.fitting.additions import without_echo
from onbook.domain.fitting.clauses import Style
from onbook.domain.fitting.refusals import is_refusal
from onbook.domain.messages import Composed
from onbook.domain.must_keep import Masked
from onbook.domain.templates import Template
from onbook.domain.token_counting import TokenCounter
from onbook.flows.infer_verified import infer_verified
from onbook.ports.clock import IdSource
from onbook.ports.inference import InferenceWorker
from onbook.ports.prompt_ids import PromptIds

MAX_ATTEMPTS: Final = 2
# Below this room no clause of worth can be added, so a model would be asked for nothing.
_LEAST_ROOM_TOKENS: Final = 6
# The longest prompt that a caller may send, and as much again for what a model adds.
_LONGEST_OUTPUT_CHARS: Final = 16_000
# The worker takes seeds below this one.
_SEEDS: Final = 2**32 - 1


class Drawing(Protocol):
    """What a draw works with."""

    @property
    def worker(self) -> InferenceWorker:
        """Who writes."""

    @property
    def detector(self) -> ContentModeDetector:
        """Who judges texts."""

    @property
    def ids(self) -> IdSource:
        """Where nonces come from."""

    @property
    def require_receipts(self) -> bool:
        """Whether an answer without a receipt is refused."""

    @property
    def prompt_ids(self) -> PromptIds | None:
        """Who knows the token ids of the worker's model; None where nobody does."""


async def draw_text(
    template: Template,
    composed: Composed,
    masked: Masked,
    *,
    seed: int,
    attempt: int,
    request_id: str,
    timeout_s: float,
    drawing: Drawing,
) -> ModelRun:
    """Return the worker's verified text for the ``attempt``-th draw, 1 for the first.

    Raises:
        WorkerAnswerInvalid: the text is cut off, empty, endless, or declines; another draw may
            do better.
        WorkerUnavailable, WorkerTimeout, PurityViolation: as ``infer_verified``.
    """
    run = await infer_verified(
        template,
        composed,
        seed=(seed + attempt - 1) % _SEEDS,
        request_id=request_id,
        nonce=drawing.ids.nonce(),
        timeout_s=timeout_s,
        worker=drawing.worker,
        required=drawing.require_receipts,
        prompt_ids=drawing.prompt_ids,
    )
    if len(run.text) > _LONGEST_OUTPUT_CHARS:
        raise WorkerAnswerInvalid("The worker's text is longer than a prompt can be.")
    if run.finish_reason == "length":
        raise WorkerAnswerInvalid("The model did not come to an end within max_tokens.")
    if not run.text.strip():
        raise WorkerAnswerInvalid("The model wrote nothing.")
    # In a chat, to decline can be the right answer. The user's own "I can't" comes back with
    # every output; only what the model added declines.
    if style_of(template) != "text" and is_refusal(without_echo(run.text, masked)):
        raise WorkerAnswerInvalid("The model declined instead of writing a prompt.")
    return run


def choice_of(seed: int, text: str) -> int:
    """Return what examples and alternatives are chosen by.

    The prompt takes part, so that one seed does not give a whole file of prompts the same words.
    """
    return crc32(f"{seed}:{text}".encode("utf-8", "surrogatepass"))


def why_no_model(template: Template, masked: Masked, counter: TokenCounter) -> str | None:
    """Return why a model has nothing to add to the prompt, or None where it has."""
    if not masked.text:
        return "The prompt has no words to enhance; it was passed through."
    if template.token_limit - counter.count(counter.canonical(masked.original)) < (
        _LEAST_ROOM_TOKENS
    ):
        return "The prompt fills the token limit; no model was asked to add to it."
    return None


def style_of(template: Template) -> Style:
    """Video models read sentences, SDXL's CLIP reads tags, people read the text as it is."""
    if template.use_case in ("chat", "playground"):
        return "text"
    return "sentences" if reader_of(template) == "wan" else "tags"


def reader_of(template: Template) -> Literal["sdxl", "wan"]:
    """Return which of the two kinds of generator reads the prompt."""
    return "wan" if template.target == "wan" or template.token_unit == "umt5" else "sdxl"
