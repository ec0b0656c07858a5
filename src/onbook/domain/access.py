"""Access keys: how they look, what they are stored as, and the scopes they carry."""

import hmac
from hashlib import sha256
from typing import Final

KEY_PREFIX: Final = "onb_"
# 256 bits: a key cannot be guessed, so a fast keyed hash is enough to store it.
KEY_BYTES: Final = 32

SCOPES: Final[dict[str, str]] = {
    "enhance": "Call enhance-prompt.",
    "chat": "Call playground-chat.",
    "jobs": "Queue, read and cancel jobs.",
    "nsfw": "Be served nsfw where the deployment allows it.",
    "templates:read": "Read templates, the text of drafts included; make dry runs, which show "
    "composed messages.",
    "templates:edit": "Draft and try out templates; name a draft's version in a request, which "
    "runs it.",
    "templates:activate": "Activate, roll back and deactivate templates.",
    "logs:read": "Read the audit log and the metrics.",
    "worker": "Register and report as a worker.",
    "admin": "Everything.",
}


def key_hmac(key: str, pepper: bytes) -> str:
    """Return what is stored of a key: HMAC-SHA256 under the deployment's pepper, hexadecimal."""
    return hmac.new(pepper, key.encode("utf-8", "surrogatepass"), sha256).hexdigest()
