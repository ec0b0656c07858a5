"""Job types: what the front end calls a piece of work, and which generator reads its prompt."""

from dataclasses import dataclass
from typing import Final, Literal

from onbook.domain.errors import InvalidJobType

Quality = Literal["fast", "high"]
MediaFormat = Literal["image", "video"]
Target = Literal["sdxl", "wan"]


@dataclass(frozen=True, slots=True)
class JobType:
    """A job type in its full form."""

    name: str
    target: Target
    media_format: MediaFormat
    quality: Quality


def _family(pattern: str, target: Target, media_format: MediaFormat) -> tuple[JobType, ...]:
    qualities: tuple[Quality, ...] = ("fast", "high")
    return tuple(
        JobType(pattern.format(quality), target, media_format, quality) for quality in qualities
    )


# image_* and image7b_* are still images of the *video* model: its template, its limit.
JOB_TYPES: Final[dict[str, JobType]] = {
    job.name: job
    for family in (
        _family("sdxl_image_{}", "sdxl", "image"),
        _family("image_{}", "wan", "image"),
        _family("video_{}", "wan", "video"),
        _family("image7b_{}_enhanced", "wan", "image"),
        _family("video7b_{}_enhanced", "wan", "video"),
        _family("wan_video_{}", "wan", "video"),
    )
    for job in family
}
SHORT_FORMS: Final = ("sdxl_image", "wan_video")


def normalise_job_type(
    name: str | None,
    *,
    quality: Quality | None,
    media_format: MediaFormat | None,
    target: str | None = None,
) -> JobType:
    """Return the full job type for what the caller sent.

    A full name decides its own quality; a short form takes the caller's, ``fast`` without one.
    Without a name the target decides, then the format: ``wan`` or ``video`` mean ``wan_video``,
    anything else ``sdxl_image``.

    Raises:
        InvalidJobType: with the valid names in ``details.valid_job_types``.
    """
    if name is None:
        video = target == "wan" or (target is None and media_format == "video")
        name = "wan_video" if video else "sdxl_image"
    if name in SHORT_FORMS:
        name = f"{name}_{quality or 'fast'}"
    job = JOB_TYPES.get(name)
    if job is None:
        raise InvalidJobType(
            "The job type is not known.",
            details={"valid_job_types": [*SHORT_FORMS, *JOB_TYPES]},
        )
    return job
