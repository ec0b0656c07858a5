"""What is sent: prompts, the template of the measurement, and how a right answer looks."""

import json
from typing import Final

import msgspec

from benchmarks.load import http_post
from onbook.domain.messages import compose
from onbook.domain.templates import Example, Template, TemplateSampling, checked
from onbook.wire.worker_api import InferenceRequest, Message

ENHANCE_PATH: Final = "/functions/v1/enhance-prompt"
ACCESS_KEY: Final = "onb_key-for-measuring-on-loopback-only"
TARGET: Final = "benchmark"

# Different ones, so that nothing that is remembered by text flatters the figures.
_SUBJECTS: Final = (
    "a red fox",
    "an old lighthouse",
    "two wooden sailing boats",
    "a small robot with a watering can",
    "a steam train",
    "a baker in a blue apron",
    "three paper lanterns",
    "a stone bridge",
)
_PLACES: Final = (
    "in the snow at sunrise",
    "by the sea, oil painting",
    'under a sign that says "OPEN"',
    "in a garden with (yellow tulips:1.2)",
    "on a hill before a storm, wide shot",
    "at a busy night market",
    "reflected in still water, no people",
    "in an autumn forest",
)
PROMPTS: Final = tuple(f"{subject} {place}" for place in _PLACES for subject in _SUBJECTS)

BENCHMARK_TEMPLATE: Final = checked(
    Template(
        template_name="benchmark_tags",
        version=1,
        model_type="qwen_instruct",
        use_case="enhancement",
        content_mode="sfw",
        target=TARGET,
        system_prompt="You turn a short idea into one prompt for an image model. Repeat the idea "
        "first, word for word, then add comma-separated visual tags for details, setting, light, "
        "camera and style. Keep every number and color of the idea. Answer with the prompt only.",
        token_limit=75,
        token_unit="clip",  # noqa: S106 - a unit, no password
        max_tokens=225,
        sampling=TemplateSampling(temperature=0.4, top_p=0.95, min_p=0.1, repetition_penalty=1.05),
        examples=tuple(
            Example(
                f"{subject} {_PLACES[0]}",
                f"{subject} {_PLACES[0]}, with fine worn details, in a wide open setting, pale "
                "morning light, eye level view, muted tones, crisp texture, calm mood",
            )
            for subject in _SUBJECTS
        ),
        examples_sent=4,
        negative_prompt="lowres, blurry, watermark",
        description="For measuring; the packaged templates are left alone.",
    )
)


class _Integrity(msgspec.Struct):
    status: str


class _Metadata(msgspec.Struct):
    fallback_level: int
    template_source: str
    token_count: int
    token_limit: int
    integrity: _Integrity


class _Enhanced(msgspec.Struct):
    success: bool
    original_prompt: str
    enhanced_prompt: str
    enhancement_strategy: str
    enhancement_metadata: _Metadata


class _WorkerAnswer(msgspec.Struct):
    success: bool
    enhanced_prompt: str


_enhanced: Final = msgspec.json.Decoder(_Enhanced)
_worker_answer: Final = msgspec.json.Decoder(_WorkerAnswer)


def enhance_body(prompt: str, *, target: str | None) -> bytes:
    """Return the body of one call; without ``target`` the packaged SDXL template serves it."""
    body: dict[str, object] = {
        "prompt": prompt,
        "jobType": "sdxl_image",
        "quality": "high",
        "selectedModel": "qwen_instruct",
        "user_id": "5f0c5f0a-6a0e-4f39-9a63-0d4d8a6a7c11",
    }
    return json.dumps(body if target is None else {**body, "target": target}).encode()


def gateway_requests(*, target: str | None) -> list[bytes]:
    """Return the calls to the gateway, with the access key."""
    headers = [("authorization", f"Bearer {ACCESS_KEY}")]
    return [
        http_post(ENHANCE_PATH, enhance_body(prompt, target=target), headers) for prompt in PROMPTS
    ]


def worker_requests() -> list[bytes]:
    """Return what the gateway sends for these calls, to be sent to the stub without it."""
    requests = []
    for number, prompt in enumerate(PROMPTS):
        composed = compose(BENCHMARK_TEMPLATE, prompt, seed=number)
        body = InferenceRequest(
            messages=[Message(item.role, item.content) for item in composed.messages],
            max_tokens=BENCHMARK_TEMPLATE.max_tokens,
            temperature=0.4,
            top_p=0.95,
            min_p=0.1,
            repetition_penalty=1.05,
            seed=number,
            nonce=f"{number:032x}",
        )
        requests.append(http_post("/enhance", msgspec.json.encode(body)))
    return requests


def worker_answered(body: bytes) -> bool:
    """Tell whether the stub answered with a result."""
    try:
        answer = _worker_answer.decode(body)
    except msgspec.DecodeError:
        return False
    return answer.success and len(answer.enhanced_prompt) > 0


def went_whole_way(body: bytes, integrity: str) -> bool:
    """Tell whether the gateway's answer came from the database template and the worker's text.

    An answer by rules, from a fallback, over its token limit, or with another ``integrity`` would
    be cheaper or dearer than the one that is measured.
    """
    try:
        answer = _enhanced.decode(body)
    except msgspec.DecodeError:
        return False
    metadata = answer.enhancement_metadata
    return (
        answer.success
        and answer.enhancement_strategy == "template"
        and metadata.fallback_level == 0
        and metadata.template_source == "database"
        and metadata.integrity.status == integrity
        and 0 < metadata.token_count <= metadata.token_limit
        # Every user's words come first: the worker's text, not another request's.
        and answer.enhanced_prompt.startswith(answer.original_prompt[:8])
        and len(answer.enhanced_prompt) > len(answer.original_prompt)
    )
