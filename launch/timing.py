"""Counters that are always on: a few integers a microbatch, into memory that was allocated before the run."""

from __future__ import annotations

import math
from array import array
from typing import Any

__all__ = ["Latencies", "Series", "StageClock"]

KEPT = 4096
BUCKETS_A_DECADE = 500
"""Two neighbours differ by 0.46 %."""
DECADES = 14
"""From 1 ns to 28 hours."""


class Series:
    """Durations in nanoseconds: the sum of all, and the last 4,096 for a median. Memory does not grow."""

    def __init__(self) -> None:
        self._kept = array("q", bytes(8 * KEPT))
        self.count = 0
        self.total_ns = 0
        self.least_ns = 0

    def add(self, duration_ns: int) -> None:
        self._kept[self.count % KEPT] = duration_ns
        if duration_ns < self.least_ns or not self.count:
            self.least_ns = duration_ns
        self.count += 1
        self.total_ns += duration_ns

    def summary(self) -> dict[str, Any]:
        """`count`, `total_s`, `least_s`; of the kept, but for the first two, `mean_s`, `median_s` and `max_s`."""
        kept = sorted(self._kept[2 if 4 <= self.count <= KEPT else 0 : min(self.count, KEPT)])
        return {
            "count": self.count,
            "total_s": self.total_ns / 1e9,
            "least_s": self.least_ns / 1e9,
            "mean_s": sum(kept) / len(kept) / 1e9 if kept else 0.0,
            "median_s": kept[len(kept) // 2] / 1e9 if kept else 0.0,
            "max_s": kept[-1] / 1e9 if kept else 0.0,
        }


class Latencies:
    """Percentiles of durations in nanoseconds, to half a percent, in 56 KB however many there are."""

    def __init__(self) -> None:
        self._buckets = array("q", bytes(8 * BUCKETS_A_DECADE * DECADES))
        self.count = 0
        self.max_ns = 0

    def add(self, duration_ns: int) -> None:
        place = int(math.log10(max(duration_ns, 1)) * BUCKETS_A_DECADE)
        self._buckets[min(place, len(self._buckets) - 1)] += 1
        self.count += 1
        self.max_ns = max(self.max_ns, duration_ns)

    def percentile_s(self, percent: float) -> float:
        """The least duration that so many percent of all stay below or reach; 0 where there are none."""
        wanted = math.ceil(self.count * percent / 100)
        seen = 0
        for place, count in enumerate(self._buckets):
            seen += count
            if count and seen >= wanted:
                return min(10 ** ((place + 0.5) / BUCKETS_A_DECADE), self.max_ns) / 1e9
        return 0.0

    def summary(self) -> dict[str, Any]:
        """`count`, and `p50_s`, `p95_s`, `p99_s`, `max_s`."""
        percentiles = {f"p{percent}_s": self.percentile_s(percent) for percent in (50, 95, 99)}
        return {"count": self.count, **percentiles, "max_s": self.max_ns / 1e9}


class StageClock:
    """Where one stage's time goes, each microbatch."""

    def __init__(self) -> None:
        self.wait_input, self.compute, self.wait_output, self.pack = Series(), Series(), Series(), Series()

    def add(self, begin_ns: int, got_ns: int, computed_ns: int, acquired_ns: int, packed_ns: int) -> None:
        self.wait_input.add(got_ns - begin_ns)
        self.compute.add(computed_ns - got_ns)
        self.wait_output.add(acquired_ns - computed_ns)
        self.pack.add(packed_ns - acquired_ns)

    def summary(self) -> dict[str, Any]:
        parts = ("wait_input", "compute", "wait_output", "pack")
        return {name: getattr(self, name).summary() for name in parts}
