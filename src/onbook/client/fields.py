"""What a caller may send with a prompt."""

from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict


class EnhanceFields(TypedDict, total=False):
    """The fields of ``enhance-prompt`` besides ``prompt``; None means the same as leaving out.

    ``stream`` and ``dry_run`` are not among them: they are answered in another shape.
    """

    job_type: str | None
    format: Literal["image", "video"] | None
    quality: Literal["fast", "high"] | None
    selected_model: str | None
    content_type: Literal["sfw", "nsfw"] | None
    user_id: str | None
    target: str | None
    template_name: str | None
    template_version: int | None
    variables: Mapping[str, str | int | float | bool]
    seed: int | None
    regeneration: bool
    selected_presets: Sequence[str]
    negative_prompt: str | None
    allow_fallback: bool
