"""What a worker counts, for Prometheus. Labels are bounded: endpoints, outcomes and reasons."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from onbook.worker.execution import Executor

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64)
_TOKENS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


class WorkerMetrics:
    """The metrics of one worker."""

    def __init__(self, registry: CollectorRegistry, executor: Executor) -> None:
        self.requests = Counter(
            "onbook_worker_requests_total",
            "Requests to the worker, by endpoint and outcome (ok, or an error code).",
            ("endpoint", "outcome"),
            registry=registry,
        )
        self.refused_signatures = Counter(
            "onbook_worker_refused_signatures_total",
            "Requests refused for their signature, by reason.",
            ("reason",),
            registry=registry,
        )
        self.generation_seconds = Histogram(
            "onbook_worker_generation_seconds",
            "Seconds in the engine, without the queue.",
            ("endpoint",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.prompt_tokens = Histogram(
            "onbook_worker_prompt_tokens",
            "Tokens of the rendered prompt.",
            buckets=_TOKENS,
            registry=registry,
        )
        self.generated_tokens = Histogram(
            "onbook_worker_generated_tokens",
            "Tokens generated per request.",
            buckets=_TOKENS,
            registry=registry,
        )
        Gauge("onbook_worker_running", "Requests in a slot.", registry=registry).set_function(
            lambda: executor.running
        )
        Gauge(
            "onbook_worker_waiting", "Requests waiting for a slot.", registry=registry
        ).set_function(lambda: executor.waiting)
