"""Metrics in Prometheus form, on one registry per process.

The factories return the metric that already has the name, so that a module may declare its metrics at
import and be imported again.
"""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

CONTENT_TYPE: str = CONTENT_TYPE_LATEST
LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

# The `_created` series double the output and no Kubernetes dashboard reads them.
disable_created_metrics()  # type: ignore[no-untyped-call]

_known: dict[str, Counter | Gauge | Histogram] = {}


def counter(name: str, help: str, labels: Sequence[str] = ()) -> Counter:
    metric = _known.get(name)
    if metric is None:
        metric = _known[name] = Counter(name, help, labels)
    assert isinstance(metric, Counter)
    return metric


def gauge(name: str, help: str, labels: Sequence[str] = ()) -> Gauge:
    metric = _known.get(name)
    if metric is None:
        metric = _known[name] = Gauge(name, help, labels)
    assert isinstance(metric, Gauge)
    return metric


def histogram(
    name: str, help: str, labels: Sequence[str] = (), buckets: Sequence[float] = LATENCY_BUCKETS
) -> Histogram:
    metric = _known.get(name)
    if metric is None:
        metric = _known[name] = Histogram(name, help, labels, buckets=tuple(buckets))
    assert isinstance(metric, Histogram)
    return metric


def render(registry: CollectorRegistry = REGISTRY) -> bytes:
    """The text exposition of every metric."""
    return generate_latest(registry)
