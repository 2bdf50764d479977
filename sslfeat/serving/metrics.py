"""Prometheus metrics of the service."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from sslfeat.data.results import Batch, Failed

STAGES = ("receive", "wait", "decode", "infer", "search")
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Metrics in a separate registry. ``stage`` can be called from any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._stages = Histogram("sslfeat_stage_seconds", "time of a stage", ["stage"], buckets=SECONDS, registry=self.registry)
        self._of = {stage: self._stages.labels(stage) for stage in STAGES}
        self._requests = Counter("sslfeat_requests", "requests answered", ["route", "method", "status"], registry=self.registry)
        self._seconds = Histogram(
            "sslfeat_request_seconds", "time of a request", ["route"], buckets=SECONDS, registry=self.registry
        )
        self._known: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}  # lookups are slow
        self._images = Counter("sslfeat_images", "images by what became of them", ["outcome"], registry=self.registry)
        self._batches = Histogram("sslfeat_batch_images", "images in a batch", buckets=SIZES, registry=self.registry)
        self.queue = Gauge("sslfeat_queue_images", "images waiting or worked on", registry=self.registry)
        self.buffered = Gauge("sslfeat_buffered_bytes", "bytes of bodies held", registry=self.registry)
        self.connections = Gauge("sslfeat_requests_open", "requests being answered", registry=self.registry)
        self.rows = Gauge("sslfeat_index_images", "images in the index", registry=self.registry)
        self.reloads = Counter("sslfeat_index_reloads", "reloads by outcome", ["outcome"], registry=self.registry)

    def stage(self, name: str, seconds: float) -> None:
        """Record the duration of a stage."""
        self._of[name].observe(seconds)

    def batch(self, batch: Batch) -> None:
        """Record an embedded batch."""
        failed = sum(isinstance(item, Failed) for item in batch.outcomes)
        self._images.labels("embedded").inc(len(batch.outcomes) - failed)
        self._images.labels("broken").inc(failed)
        self._batches.observe(len(batch.outcomes))
        self.stage("decode", batch.decode)
        self.stage("infer", batch.infer)

    def dropped(self, count: int) -> None:
        """Record dropped images of abandoned requests."""
        self._images.labels("dropped").inc(count)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Record a completed request."""
        key = (route, method, status)
        if key not in self._known:
            self._known[key] = (self._requests.labels(route, method, str(status)), self._seconds.labels(route))
        counter, histogram = self._known[key]
        counter.inc()
        histogram.observe(seconds)

    def text(self) -> bytes:
        """All metrics in the Prometheus text format."""
        return generate_latest(self.registry)
