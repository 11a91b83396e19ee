"""Counts requests for Prometheus, beside what the rank counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily

__all__ = ["RequestCounts"]

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)


class RequestCounts:
    def __init__(self, gauges: Callable[[], dict[str, tuple[str, float]]]) -> None:
        """`gauges`: by name, what it is and its value now."""
        self.registry = CollectorRegistry()
        self._gauges = gauges
        self._requests = Counter("edgelaunch_http_requests", "Answered requests", ("route", "status"),
                                 registry=self.registry)  # fmt: skip
        self._seconds = Histogram("edgelaunch_http_request_seconds", "From a request to the end of its answer",
                                  ("route",), buckets=SECONDS, registry=self.registry)  # fmt: skip
        self.registry.register(self)
        self.num_requests = 0

    def add(self, route: str, status: int, seconds: float) -> None:
        self.num_requests += 1
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def collect(self) -> Iterator[Any]:
        for name, (what, value) in self._gauges().items():
            yield GaugeMetricFamily(f"edgelaunch_{name}", what, value=value)

    def text(self) -> bytes:
        """In Prometheus's format."""
        return bytes(generate_latest(self.registry))
