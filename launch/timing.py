"""Counters that are always on: a few integers a microbatch, into memory that was allocated before the run."""

from __future__ import annotations

from array import array
from typing import Any

__all__ = ["Series", "StageClock"]

KEPT = 4096


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
