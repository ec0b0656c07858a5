"""What this worker states about each execution, signed with its own key."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from onbook.wire.canonical import sha256_of_text
from onbook.wire.receipt import (
    EffectiveSampling,
    Receipt,
    public_key_of,
    request_sha256,
    signed,
    token_ids_sha256,
)
from onbook.wire.worker_api import InferenceRequest, ModelInfo


@dataclass(frozen=True, slots=True)
class ReceiptSigner:
    """Signs receipts as one worker, over one model."""

    worker_id: str
    key: Ed25519PrivateKey
    model: ModelInfo

    @property
    def public_key(self) -> str:
        """The key to check this worker's receipts with, base64."""
        return public_key_of(self.key)

    def receipt(
        self,
        request: InferenceRequest,
        *,
        sampling: EffectiveSampling,
        rendering: str,
        token_ids: Sequence[int],
        finish_reason: str,
        output: str,
    ) -> Receipt:
        """Return the signed receipt for one finished execution."""
        nonce = request.nonce or ""
        return signed(
            Receipt(
                receipt_id=str(uuid.uuid4()),
                worker_id=self.worker_id,
                issued_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
                request_sha256=request_sha256(request.messages, sampling, nonce),
                nonce=nonce,
                rendering=rendering,
                verification="token_ids",
                prompt_tokens=len(token_ids),
                token_ids_sha256=token_ids_sha256(token_ids),
                chat_template_sha256=self.model.chat_template_sha256,
                model_sha256=self.model.file_sha256,
                sampling=sampling,
                added_text="",
                finish_reason=finish_reason,
                output_sha256=sha256_of_text(output),
            ),
            self.key,
        )
