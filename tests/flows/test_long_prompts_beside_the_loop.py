"""What is recomputed for a long prompt holds up no other request."""

import threading
from collections.abc import Sequence
from dataclasses import replace

import pytest

from onbook.adapters.files.packaged import packaged_templates
from onbook.domain.errors import PurityViolation
from onbook.domain.messages import Composed, Message
from onbook.flows.infer_verified import infer_verified
from onbook.wire.receipt import EffectiveSampling, Receipt
from support import FakeWorker, completion

RECEIPT = Receipt(
    receipt_id="r",
    worker_id="fake",
    issued_at="2026-11-22T10:00:00.000+00:00",
    request_sha256="1" * 64,
    nonce="n",
    rendering="chatml",
    verification="token_ids",
    prompt_tokens=12,
    token_ids_sha256="2" * 64,
    chat_template_sha256=None,
    model_sha256="4" * 64,
    sampling=EffectiveSampling(
        max_tokens=5,
        temperature=0.0,
        top_p=1.0,
        top_k=0,
        min_p=0.0,
        repetition_penalty=1.0,
        frequency_penalty=0.0,
        presence_penalty=0.0,
        dry_multiplier=0.0,
        seed=1,
        stop=[],
        grammar_sha256=None,
    ),
    added_text="",
    finish_reason="stop",
    output_sha256="5" * 64,
)


class Watched:
    """Tells which thread its ids are computed in."""

    model_sha256 = "4" * 64
    family = "chatml"

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []

    def ids(
        self, messages: Sequence[Message], *, raw: bool, rendering: str | None
    ) -> Sequence[int] | None:
        assert messages
        assert (raw, rendering) == (False, "chatml")
        self.threads.append(threading.current_thread())
        return [1]


@pytest.mark.parametrize(
    ("text", "beside"), [("a cat", False), ("a cat " * 400, True), ("猫" * 800, True)]
)
async def test_ids_of_a_long_prompt_are_computed_beside_the_loop(
    text: str, *, beside: bool
) -> None:
    held = Watched()
    worker = FakeWorker(lambda _endpoint, _request: replace(completion("x"), receipt=RECEIPT))
    template = next(one for one in packaged_templates() if not one.is_completion)
    composed = Composed((Message("system", "s" * 5_000), Message("user", text)), None)
    with pytest.raises(PurityViolation, match="token_ids_sha256"):
        await infer_verified(
            template,
            composed,
            seed=1,
            request_id="r",
            nonce="n",
            timeout_s=5,
            worker=worker,
            required=False,
            prompt_ids=held,
        )
    assert [thread is not threading.main_thread() for thread in held.threads] == [beside]
