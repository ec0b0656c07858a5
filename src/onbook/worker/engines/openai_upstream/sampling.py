"""How each kind of server is told to draw tokens: everything stated, or the request refused.

llama-server: all fields of its samplers, so that none of its own settings takes part; what the
receipt does not know is off, and the windows of the penalties are the ones of the in-process
engine. vLLM and SGLang: their protocols' fields (``CompletionRequest`` of each); neither has DRY,
and their penalties look at the whole text instead of llama.cpp's last 64 tokens. Of an unknown
server only what OpenAI's API has is known, and only that is asked for.
"""

import math
from typing import Final, Literal

from onbook.wire.receipt import EffectiveSampling
from onbook.worker.engines.base import UnsupportedSamplingError

Flavour = Literal["llama", "vllm", "vllm_guided", "sglang", "sglang_seeded", "other"]

# The order in which llama.cpp applies its samplers when nobody says otherwise.
_ORDER: Final = (
    "penalties",
    "dry",
    "top_n_sigma",
    "top_k",
    "typ_p",
    "top_p",
    "min_p",
    "xtc",
    "temperature",
)
_OFF: Final[dict[str, object]] = {
    "samplers": list(_ORDER),
    "repeat_last_n": 64,
    "dry_base": 1.75,
    "dry_allowed_length": 2,
    "dry_penalty_last_n": 64,
    "dry_sequence_breakers": ["\n", ":", '"', "*"],
    "typical_p": 1.0,
    "top_n_sigma": -1.0,
    "xtc_probability": 0.0,
    "xtc_threshold": 0.1,
    "dynatemp_range": 0.0,
    "dynatemp_exponent": 1.0,
    "mirostat": 0,
    "mirostat_tau": 5.0,
    "mirostat_eta": 0.1,
    "adaptive_target": -1.0,
    "adaptive_decay": 0.9,
    "min_keep": 0,
    "logit_bias": [],
    "ignore_eos": False,
    "n_probs": 0,
    "n_keep": 0,
    "n_discard": 0,
    "n_indent": 0,
    "n_cache_reuse": 0,
    "t_max_predict_ms": -1,
    "reasoning_budget_tokens": -1,
    "post_sampling_probs": False,
    "backend_sampling": False,
    "timings_per_token": False,
    "cache_prompt": True,
}
# What llama-server reports of them, by the name that it reports it under.
_REPORTED: Final[tuple[str, ...]] = (
    "samplers",
    "repeat_last_n",
    "dry_base",
    "dry_allowed_length",
    "dry_penalty_last_n",
    "dry_sequence_breakers",
    "typical_p",
    "top_n_sigma",
    "xtc_probability",
    "dynatemp_range",
    "mirostat",
    "adaptive_target",
    "min_keep",
    "logit_bias",
    "ignore_eos",
    "n_keep",
    "stop",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repeat_penalty",
    "frequency_penalty",
    "presence_penalty",
    "dry_multiplier",
    "n_predict",
)


def llama_sampling(sampling: EffectiveSampling, grammar: str | None) -> dict[str, object]:
    """Return llama-server's fields for ``sampling``, every one of them stated."""
    fields: dict[str, object] = {
        **_OFF,
        "n_predict": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repeat_penalty": sampling.repetition_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "presence_penalty": sampling.presence_penalty,
        "dry_multiplier": sampling.dry_multiplier,
        "seed": sampling.seed,
        "stop": [text for text in sampling.stop if text],
        "stream": True,
    }
    if grammar is not None:
        fields["grammar"] = grammar
        fields["grammar_lazy"] = False
    return fields


def differences(asked: dict[str, object], used: dict[str, object]) -> list[str]:
    """Return which of llama-server's reported settings are not the ones that were asked for.

    A field that the server does not report is not judged: releases differ in what they report.
    """
    found = [name for name in _REPORTED if name in used and not _same(asked[name], used[name])]
    if used.get("grammar", "") != asked.get("grammar", ""):
        found.append("grammar")
    # A negative seed asks for any.
    if asked["seed"] != -1 and "seed" in used and asked["seed"] != used["seed"]:
        found.append("seed")
    return found


def openai_sampling(
    flavour: Flavour, sampling: EffectiveSampling, grammar: str | None
) -> dict[str, object]:
    """Return the fields of ``/v1/completions`` and ``/v1/chat/completions`` for ``sampling``.

    Raises:
        UnsupportedSamplingError: the server has no such sampler, or would pass it over.
    """
    if flavour == "llama":
        fields = {**llama_sampling(sampling, grammar), "n": 1}
        fields["max_tokens"] = fields.pop("n_predict")
        return fields | {"stream_options": {"include_usage": True}}
    missing = _missing(flavour, sampling, grammar)
    if missing:
        raise UnsupportedSamplingError(missing)
    fields = {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "frequency_penalty": sampling.frequency_penalty,
        "presence_penalty": sampling.presence_penalty,
        "n": 1,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if sampling.stop:
        fields["stop"] = [text for text in sampling.stop if text]
    if sampling.seed != -1:
        fields["seed"] = sampling.seed
    if flavour != "other":
        fields |= {
            # Zero is llama.cpp's word for off; both of these say -1.
            "top_k": sampling.top_k or -1,
            "min_p": sampling.min_p,
            "repetition_penalty": sampling.repetition_penalty,
            "min_tokens": 0,
            "ignore_eos": False,
            "skip_special_tokens": True,
        }
    if grammar is not None:
        fields |= _constrained(flavour, grammar)
    return fields


def _missing(flavour: Flavour, sampling: EffectiveSampling, grammar: str | None) -> list[str]:
    asked = {"dry_multiplier": sampling.dry_multiplier != 0.0}
    if flavour == "sglang":
        # Without deterministic inference SGLang takes a seed and passes it over.
        asked["seed"] = sampling.seed != -1
    if flavour == "other":
        asked |= {
            "top_k": sampling.top_k != 0,
            "min_p": sampling.min_p != 0.0,
            "repetition_penalty": sampling.repetition_penalty != 1.0,
            "temperature": sampling.temperature > 2.0,
            "stop": len(sampling.stop) > 4,
            "grammar": grammar is not None,
        }
    return [name for name, is_asked in asked.items() if is_asked]


def _constrained(flavour: Flavour, grammar: str) -> dict[str, object]:
    if flavour == "vllm":
        return {"structured_outputs": {"grammar": grammar}}
    if flavour == "vllm_guided":
        return {"guided_grammar": grammar}
    return {"ebnf": grammar}


def _same(asked: object, used: object) -> bool:
    if isinstance(asked, bool) or isinstance(used, bool):
        return asked is used
    if isinstance(asked, int | float) and isinstance(used, int | float):
        # The server computes in single precision.
        return math.isclose(asked, used, rel_tol=1e-6, abs_tol=1e-9)
    return asked == used
