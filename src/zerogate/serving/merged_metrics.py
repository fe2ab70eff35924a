"""The metrics of several replicas as one text: each sample with its replica's number, and those of the router."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families


def merged(texts: Mapping[int, str], live: int, wanted: int, retried: int) -> bytes:
    """Everything, in Prometheus' text format.

    Args:
        texts: by the replica's number, what it says of itself.
        live, wanted: how many replicas there are, and how many there should be.
        retried: requests that were given to another replica, as theirs died.
    """
    registry = CollectorRegistry()
    registry.register(_Merged(texts, live, wanted, retried))  # type: ignore[arg-type]
    return generate_latest(registry)


class _Merged:
    def __init__(self, texts: Mapping[int, str], live: int, wanted: int, retried: int) -> None:
        self.texts, self.live, self.wanted, self.retried = texts, live, wanted, retried

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("zerogate_replicas", "Replicas that answer.", self.live)
        yield GaugeMetricFamily("zerogate_replicas_wanted", "Replicas that there should be.", self.wanted)
        yield CounterMetricFamily(
            "zerogate_requests_retried", "Requests given to another replica, as theirs had died.", self.retried
        )
        found: dict[str, Metric] = {}
        for number, text in sorted(self.texts.items()):
            for family in text_string_to_metric_families(text):
                kept = found.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    labels = {**sample.labels, "replica": str(number)}
                    kept.add_sample(sample.name, labels, sample.value, sample.timestamp)
        yield from found.values()
