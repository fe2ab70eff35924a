"""What the server counts, in Prometheus' terms. One registry per server; the engine and pool are read when asked."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

if TYPE_CHECKING:
    from zerogate.serving.engine import Engine
    from zerogate.serving.pool import AdapterPool

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_WINDOW = 10.0


class Metrics:
    """Counters of requests and tokens by model, and what engine and pool are doing."""

    def __init__(self, engine: Engine, pool: AdapterPool) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "zerogate_requests", "Requests that have ended, by model and how.", ["model", "outcome"],
            registry=self.registry,
        )  # fmt: skip
        self.prompt_tokens = Counter("zerogate_prompt_tokens", "Tokens read.", ["model"], registry=self.registry)
        self.tokens = Counter("zerogate_tokens", "Tokens made.", ["model"], registry=self.registry)
        self.first = Histogram(
            "zerogate_time_to_first_token_seconds", "From a request's arrival to its first token.",
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.whole = Histogram(
            "zerogate_request_seconds", "From a request's arrival to its end.", buckets=_SECONDS, registry=self.registry
        )
        self.registry.register(_Live(engine, pool))  # type: ignore[arg-type]

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self.registry)


class _Live:
    """What is true at the moment of asking."""

    def __init__(self, engine: Engine, pool: AdapterPool) -> None:
        self.engine, self.pool = engine, pool
        self.seen: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])

    def collect(self) -> Iterator[Metric]:
        engine, pool = self.engine, self.pool
        loaded = pool.loaded
        gauges = {
            "zerogate_running": ("Requests in the batch.", engine.batch.running),
            "zerogate_queue": ("Requests that wait for the batch.", engine.batch.waiting),
            "zerogate_cache_share": ("Share of the key/value cache in use or kept.", engine.batch.filled),
            "zerogate_tokens_per_second": ("Tokens made per second, of late.", self._rate()),
            "zerogate_adapters": ("Adapters that are known.", len(pool.entries)),
            "zerogate_adapters_loaded": ("Adapters in memory.", len(loaded)),
            "zerogate_adapter_bytes": ("What they take.", sum(held.size for held in loaded)),
            "zerogate_up": ("1 while the engine runs.", int(engine.alive)),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(name, text, value)
        yield CounterMetricFamily("zerogate_steps", "Steps of the batch.", engine.steps)
        yield CounterMetricFamily("zerogate_adapters_evicted", "Adapters forgotten to make room.", pool.evicted)

    def _rate(self) -> float:
        """Over the last ten seconds, or since the last question where that is longer ago."""
        now, made = time.monotonic(), self.engine.tokens_made
        self.seen.append((now, made))
        while len(self.seen) > 2 and now - self.seen[1][0] >= _WINDOW:
            self.seen.popleft()
        then, before = self.seen[0]
        return (made - before) / (now - then) if now > then else 0.0
