"""Prometheus metrics of a gateway. Every label is bounded: by code, never by what callers send."""

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from onbook.domain.worker_health import WorkerStanding
from onbook.flows.resolve_template import TemplateBook

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64)
_TOKENS: Final = (10, 20, 30, 40, 50, 60, 70, 75, 100, 150, 200, 300)


class GatewayMetrics:
    """The metrics of one gateway process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "onbook_requests_total",
            "Requests by function and outcome (ok, or an error code).",
            ("function", "outcome"),
            registry=registry,
        )
        self.execution_seconds = Histogram(
            "onbook_execution_seconds",
            "Seconds from the checked request to the finished text.",
            ("function",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.worker_response_seconds = Histogram(
            "onbook_worker_response_seconds",
            "Seconds from sending to a worker to its whole answer.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.worker_failures = Counter(
            "onbook_worker_failures_total",
            "Attempts without a usable result, by error code.",
            ("error_code",),
            registry=registry,
        )
        self.template_cache = Counter(
            "onbook_template_cache_total",
            "Template look-ups by result: hit, or miss for the first use after a reload.",
            ("result",),
            registry=registry,
        )
        self.fallback_level = Counter(
            "onbook_fallback_level_total",
            "Enhancements by fallback level, 0 to 3.",
            ("level",),
            registry=registry,
        )
        self.tokens = Histogram(
            "onbook_prompt_tokens",
            "Tokens of the enhanced prompt, in the reader's own tokenizer.",
            ("tokenizer",),
            buckets=_TOKENS,
            registry=registry,
        )
        self.compressions = Counter(
            "onbook_compressions_total",
            "Enhancements that were over the limit and were cut to it.",
            registry=registry,
        )
        self.purity_violations = Counter(
            "onbook_purity_violations_total",
            "Results thrown away because the receipt did not match.",
            registry=registry,
        )
        self.worker_quarantines = _worker_quarantines(registry)
        self._registry = registry

    def watch(self, book: TemplateBook) -> None:
        """Report the age of the served templates, in seconds."""
        Gauge(
            "onbook_templates_age_seconds",
            "Seconds since the database last confirmed the served templates.",
            registry=self._registry,
        ).set_function(lambda: book.state().age_seconds)

    def watch_worker(self, standing: Callable[[], WorkerStanding]) -> None:
        """Report whether the worker is in quarantine: 1 or 0."""
        Gauge(
            "onbook_worker_quarantined",
            "1 while the worker gets no requests because a receipt did not match, else 0.",
            registry=self._registry,
        ).set_function(lambda: float(standing().quarantine.in_force))


def _worker_quarantines(registry: CollectorRegistry) -> Counter:
    return Counter(
        "onbook_worker_quarantines_total",
        "Receipts that did not match, each of which puts the worker into quarantine.",
        registry=registry,
    )
