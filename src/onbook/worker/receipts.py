"""What this worker states about each execution, signed with the key of its ring in force."""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from onbook.wire.canonical import sha256_of_text
from onbook.wire.receipt import (
    EffectiveSampling,
    Receipt,
    request_sha256,
    signed,
    token_ids_sha256,
)
from onbook.wire.signing import Signer
from onbook.wire.worker_api import InferenceRequest, ModelInfo


@dataclass(frozen=True, slots=True)
class ReceiptSigner:
    """Signs receipts as one worker, over one model.

    ``signer`` gives the key in force now: a ring rotates while the worker runs.
    """

    worker_id: str
    signer: Callable[[], Signer]
    model: ModelInfo

    @property
    def public_key(self) -> str:
        """The key to check a receipt of this moment with, base64."""
        return self.signer().public_key

    def receipt(
        self,
        request: InferenceRequest,
        *,
        sampling: EffectiveSampling,
        rendering: str,
        prompt_tokens: int,
        token_ids: Sequence[int] | None,
        finish_reason: str,
        output: str,
    ) -> Receipt:
        """Return the signed receipt for one finished execution.

        ``token_ids`` None: an upstream rendered the messages itself, so the receipt speaks of the
        request only.
        """
        nonce = request.nonce or ""
        signer = self.signer()
        return signed(
            Receipt(
                receipt_id=str(uuid.uuid4()),
                worker_id=self.worker_id,
                issued_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
                request_sha256=request_sha256(request.messages, sampling, nonce),
                nonce=nonce,
                rendering=rendering,
                verification="request_only" if token_ids is None else "token_ids",
                prompt_tokens=prompt_tokens,
                token_ids_sha256=None if token_ids is None else token_ids_sha256(token_ids),
                chat_template_sha256=self.model.chat_template_sha256,
                model_sha256=self.model.file_sha256,
                sampling=sampling,
                added_text="",
                finish_reason=finish_reason,
                output_sha256=sha256_of_text(output),
                key_id=signer.key_id,
            ),
            signer.key,
        )
