"""Job types: every name of the contract, the short forms, and nothing else."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onbook.domain.errors import InvalidJobType
from onbook.domain.jobs import (
    JOB_TYPES,
    SHORT_FORMS,
    JobType,
    MediaFormat,
    Quality,
    Target,
    normalise_job_type,
)

# Written out, not computed: the front end sends these names.
CONTRACT: list[tuple[str, Target, MediaFormat, Quality]] = [
    ("sdxl_image_fast", "sdxl", "image", "fast"),
    ("sdxl_image_high", "sdxl", "image", "high"),
    ("image_fast", "wan", "image", "fast"),
    ("image_high", "wan", "image", "high"),
    ("video_fast", "wan", "video", "fast"),
    ("video_high", "wan", "video", "high"),
    ("image7b_fast_enhanced", "wan", "image", "fast"),
    ("image7b_high_enhanced", "wan", "image", "high"),
    ("video7b_fast_enhanced", "wan", "video", "fast"),
    ("video7b_high_enhanced", "wan", "video", "high"),
    ("wan_video_fast", "wan", "video", "fast"),
    ("wan_video_high", "wan", "video", "high"),
]
QUALITIES: tuple[Quality | None, ...] = (None, *get_args(Quality))
FORMATS: tuple[MediaFormat | None, ...] = (None, *get_args(MediaFormat))


def test_the_job_types_are_those_of_the_contract() -> None:
    assert list(JOB_TYPES) == [row[0] for row in CONTRACT]


@pytest.mark.parametrize("row", CONTRACT, ids=lambda row: row[0])
@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("media_format", FORMATS)
def test_a_full_name_decides_everything_itself(
    row: tuple[str, Target, MediaFormat, Quality],
    quality: Quality | None,
    media_format: MediaFormat | None,
) -> None:
    job = normalise_job_type(row[0], quality=quality, media_format=media_format)
    assert job == JobType(*row)


@pytest.mark.parametrize(
    ("name", "quality", "full"),
    [
        ("sdxl_image", None, "sdxl_image_fast"),
        ("sdxl_image", "fast", "sdxl_image_fast"),
        ("sdxl_image", "high", "sdxl_image_high"),
        ("wan_video", None, "wan_video_fast"),
        ("wan_video", "fast", "wan_video_fast"),
        ("wan_video", "high", "wan_video_high"),
    ],
)
def test_a_short_form_takes_the_callers_quality(
    name: str, quality: Quality | None, full: str
) -> None:
    for media_format in FORMATS:
        job = normalise_job_type(name, quality=quality, media_format=media_format)
        assert job is JOB_TYPES[full]


@pytest.mark.parametrize(
    ("media_format", "quality", "full"),
    [
        (None, None, "sdxl_image_fast"),
        ("image", "high", "sdxl_image_high"),
        ("video", None, "wan_video_fast"),
        ("video", "high", "wan_video_high"),
    ],
)
def test_without_a_name_the_format_decides(
    media_format: MediaFormat | None, quality: Quality | None, full: str
) -> None:
    assert normalise_job_type(None, quality=quality, media_format=media_format).name == full


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "sdxl",
        "sdxl_image_",
        "SDXL_IMAGE",
        "sdxl_image_slow",
        "image",
        "image7b_fast",
        "sdxl_image_fast\n",
        "wan_video_high_enhanced",
        "flux_image_fast",
    ],
)
def test_any_other_name_is_an_error_that_lists_the_valid_ones(name: str) -> None:
    with pytest.raises(InvalidJobType) as caught:
        normalise_job_type(name, quality=None, media_format=None)
    assert caught.value.status == 400
    assert caught.value.code == "INVALID_JOB_TYPE"
    assert caught.value.details == {
        "valid_job_types": ["sdxl_image", "wan_video", *(row[0] for row in CONTRACT)]
    }


@given(st.text())
def test_an_unknown_name_is_not_repeated(name: str) -> None:
    if name in JOB_TYPES or name in SHORT_FORMS:
        return
    with pytest.raises(InvalidJobType) as caught:
        normalise_job_type(name, quality="high", media_format="video")
    assert caught.value.message == "The job type is not known."
