"""Traffic splits: which callers get the candidate. Sticky by who asks and for what, not random."""

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from onbook.domain.template_history import SplitArm
    from onbook.domain.templates import TemplateKey

_BUCKETS: Final = 10_000


@dataclass(frozen=True, slots=True)
class SplitInfo:
    """The running split of a template, and the side of it that this request is on."""

    candidate_version: int
    percent: int
    arm: "SplitArm"


def arm_of(key: "TemplateKey", percent: int, *, key_id: str, user_id: str | None) -> "SplitArm":
    """Return the side that a caller is on, the same one for as long as the split runs.

    A caller of the candidate stays with it when ``percent`` (of 100) grows.

    Args:
        key: The template's key: each template divides its callers in a way of its own.
        percent: The candidate's share.
        key_id: The caller's access key.
        user_id: The end user that the key speaks for, or None.
    """
    place = f"{key.model_type}/{key.use_case}/{key.content_mode}/{key.target or ''}"
    text = f"{key_id}\n{user_id or ''}\n{place}"
    digest = sha256(text.encode("utf-8", "surrogatepass")).digest()
    # 64 bits over 10,000 buckets: no bucket is larger than another by more than 1 in 10**15.
    bucket = int.from_bytes(digest[:8]) % _BUCKETS
    return "candidate" if bucket < percent * (_BUCKETS // 100) else "current"
