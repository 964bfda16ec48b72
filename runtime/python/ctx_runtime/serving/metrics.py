"""What Prometheus reads: latency by bucket, padding, the queue, evictions, fallbacks, and what was refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ctx_runtime.generation.tally import GenerationStats
from ctx_runtime.results import RequestStats, Stats
from ctx_runtime.runtime import Runtime

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """The metrics of one server.

    Args:
        runtime: what it serves.
        waiting: how many prompts wait for their turn to be generated.
    """

    def __init__(self, runtime: Runtime, waiting: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        self._latency = Histogram(
            "ctx_request_seconds", "From a whole request to its answer, by the bucket of its longest row.",
            ("endpoint", "bucket"), buckets=_SECONDS, registry=self._registry,
        )  # fmt: skip
        self._responses = Counter(
            "ctx_responses", "Responses by status; 4xx and 5xx were refused.", ("status",), registry=self._registry
        )
        self._registry.register(_RuntimeCollector(runtime, waiting))

    def observe(self, endpoint: str, bucket: str, seconds: float) -> None:
        """Count an answered request."""
        self._latency.labels(endpoint, bucket).observe(seconds)

    def count_response(self, status: int) -> None:
        """Count a response, whatever it says."""
        self._responses.labels(str(status)).inc()

    def page(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class Counted:
    """Counts responses by status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.count_response(message["status"])
            await send(message)

        await self._app(scope, receive, counting)


class _RuntimeCollector(Collector):
    """What the runtime counts itself, read when it is asked for."""

    def __init__(self, runtime: Runtime, waiting: Callable[[], int]) -> None:
        self._runtime, self._waiting = runtime, waiting

    def collect(self) -> Iterator[Metric]:
        stats = self._runtime.stats()
        yield from _by_bucket(stats)
        yield from _requests(stats.requests)
        if stats.generation is not None:
            yield from _generated(stats.generation)
        yield GaugeMetricFamily("ctx_generation_queue", "Prompts that wait for their turn.", value=self._waiting())
        yield GaugeMetricFamily("ctx_open_sessions", "Sessions that are open.", value=stats.open_sessions)
        yield GaugeMetricFamily("ctx_resident_bytes", "Their private memory, an estimate.", value=stats.resident_bytes)
        yield CounterMetricFamily("ctx_evictions", "Sessions closed to make room.", value=stats.evictions)
        yield CounterMetricFamily(
            "ctx_fallbacks", "Backends that could not serve a bucket, weights not shared.", value=len(stats.fallbacks)
        )


def _requests(requests: RequestStats) -> Iterator[Metric]:
    yield GaugeMetricFamily("ctx_queue", "Inputs that wait to be run.", value=requests.queued)
    yield GaugeMetricFamily("ctx_running", "Inputs that run.", value=requests.running)
    ended = CounterMetricFamily("ctx_inputs", "Inputs by how they ended.", labels=["outcome"])
    for outcome in ("finished", "failed", "cancelled", "expired", "refused"):
        ended.add_metric([outcome], getattr(requests, outcome))
    yield ended


def _generated(generation: GenerationStats) -> Iterator[Metric]:
    tokens = CounterMetricFamily("ctx_generation_tokens", "Tokens of prompts and answers.", labels=["kind"])
    tokens.add_metric(["prompt"], generation.prompt_tokens)
    tokens.add_metric(["reused"], generation.reused_tokens)
    tokens.add_metric(["new"], generation.new_tokens)
    yield tokens
    yield CounterMetricFamily("ctx_generation_moves", "Moves of a cache to a larger bucket.", value=generation.moves)


def _by_bucket(stats: Stats) -> Iterator[Metric]:
    counters = {
        "runs": CounterMetricFamily("ctx_runs", "Runs of a graph.", labels=["bucket"]),
        "rows": CounterMetricFamily("ctx_rows", "Rows that ran.", labels=["bucket"]),
        "tokens": CounterMetricFamily("ctx_tokens", "Tokens that ran, padding aside.", labels=["bucket"]),
        "padding": CounterMetricFamily("ctx_padding_tokens", "Tokens of padding.", labels=["bucket"]),
        "seconds": CounterMetricFamily("ctx_run_seconds", "Wall time of the runs.", labels=["bucket"]),
    }
    share = GaugeMetricFamily("ctx_padding_share", "Padding among all tokens since the start.", labels=["bucket"])
    for bucket, counted in stats.buckets.items():
        for field, family in counters.items():
            family.add_metric([bucket], getattr(counted, field))
        share.add_metric([bucket], counted.padding / max(counted.tokens + counted.padding, 1))
    yield from counters.values()
    yield share
