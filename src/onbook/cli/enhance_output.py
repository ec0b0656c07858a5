"""Showing an enhancement to a person."""

from typing import TYPE_CHECKING, Final

from rich.text import Text

from onbook.cli.terminal import visible

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console

    from onbook.wire.gateway_api import EnhancementMetadata, EnhanceResponse

_BAR_CELLS: Final = 15
_INDENT: Final = 13
_LEAST_WIDTH: Final = 20
_TOKENIZERS: Final = {
    "clip": "CLIP tokens",
    "umt5": "UMT5 tokens",
    "qwen": "Qwen tokens",
    "chars": "characters",
}
_STRATEGIES: Final = {
    "template": "written by the model",
    "template_retry": "written by the model at the second attempt",
    "rules": "written by rules, without a model",
    "passthrough": "your own text, without a model",
}
_FALLBACKS: Final = {
    1: "1, the database is away: the last good templates served",
    2: "2, no template in the database fits: a packaged one served",
    3: "3, no model output was used",
}
_INTEGRITY: Final = {
    "verified": "verified: the model saw exactly what was sent",
    "unverified": "not verified: the worker gave no receipt",
    "not_applicable": "not applicable: no model output was used",
    "violation": "violation: the model's output was thrown away",
}


def show(response: "EnhanceResponse", console: "Console") -> None:
    """Print the enhanced prompt in full, and below it what happened."""
    # Soft wrap: the terminal breaks the line, so that what is copied has no line ends of ours.
    console.print(Text(visible(response.enhanced_prompt), style="bold"), soft_wrap=True)
    console.print()
    for name, value in _facts(response, console):
        _print_fact(name, value, console)
    for warning in response.enhancement_metadata.warnings:
        _print_fact("Warning", Text(visible(warning), style="yellow"), console)


def _print_fact(name: str, value: Text, console: "Console") -> None:
    """Print one fact, its further lines under the first one, none padded to the full width."""
    width = max(_LEAST_WIDTH, console.width - _INDENT)
    for number, line in enumerate(value.wrap(console, width, overflow="fold")):
        line.rstrip()
        head = f"  {name}".ljust(_INDENT) if number == 0 else " " * _INDENT
        console.print(Text(head, style="dim") + line, soft_wrap=True)


def _facts(response: "EnhanceResponse", console: "Console") -> "Iterator[tuple[str, Text]]":
    meta = response.enhancement_metadata
    yield "Kept", _list(meta.kept)
    yield "Added", _list(meta.added)
    yield "Cut", _list(meta.dropped)
    yield "Tokens", _tokens(meta, console)
    if response.negative_prompt:
        yield "Negative", Text(visible(response.negative_prompt))
    yield "Template", _plain(_template(meta))
    yield "Model", _plain(meta.model_used or "none")
    yield "Mode", _plain(meta.content_mode)
    yield "Strategy", _plain(_STRATEGIES[response.enhancement_strategy])
    if meta.fallback_level > 0:
        yield "Fallback", Text(_FALLBACKS[meta.fallback_level], style="yellow")
    yield "Integrity", _plain(_INTEGRITY[meta.integrity.status])
    yield "Seed", _plain(str(meta.seed))
    yield "Time", _plain(_time(meta))


def _tokens(meta: "EnhancementMetadata", console: "Console") -> Text:
    unit = _TOKENIZERS.get(meta.tokenizer, f"{meta.tokenizer} tokens")
    full, empty = ("█", "░") if console.encoding.lower().startswith("utf") else ("#", ".")
    share = meta.token_count / max(meta.token_limit, 1)
    # Neither empty with a token in it, nor full with room left.
    filled = min(_BAR_CELLS, max(1 if meta.token_count else 0, int(share * _BAR_CELLS)))
    text = f"{full * filled}{empty * (_BAR_CELLS - filled)} "
    text += f"{meta.token_count} of {meta.token_limit} {unit}"
    if meta.compression_applied:
        text += f", compressed from {meta.tokens_before_compression}"
    return Text(text)


def _template(meta: "EnhancementMetadata") -> str:
    if meta.template_name is None:
        return "none"
    return f"{visible(meta.template_name)}, version {meta.template_version}"


def _time(meta: "EnhancementMetadata") -> str:
    total = f"{meta.execution_time_ms:.0f} ms"
    if meta.worker_response_time_ms is None:
        return total
    return f"{total}, of which the worker took {meta.worker_response_time_ms:.0f} ms"


def _list(items: "Sequence[str]") -> Text:
    return Text(" | ".join(visible(item) for item in items) or "nothing")


def _plain(text: str) -> Text:
    return Text(visible(text))
