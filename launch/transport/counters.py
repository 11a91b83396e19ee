"""Always-on counters: a few integers per microbatch, in preallocated memory."""

from __future__ import annotations

import math
from array import array

import numpy as np
import numpy.typing as npt

from edgecompile.contract.run_record import Percentiles
from edgelaunch.common.rank_figures import LinkCount
from edgelaunch.common.rank_summary import Durations, StageSummary, Stamps

__all__ = ["ItemRates", "Latencies", "Series", "StageClock", "Transfers"]

KEPT = 4096
BUCKETS_A_DECADE = 500
"""Two neighbours differ by 0.46 %."""
NUM_STAMPS = 5
TRACED = 256
"""The last microbatches whose times are kept."""
STRETCHES = 240
FIRST_STRETCH_NS = 100_000_000
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

    def summary(self) -> Durations:
        kept = sorted(self._kept[2 if 4 <= self.count <= KEPT else 0 : min(self.count, KEPT)])
        return Durations(
            count=self.count,
            total_s=self.total_ns / 1e9,
            least_s=self.least_ns / 1e9,
            mean_s=sum(kept) / len(kept) / 1e9 if kept else 0.0,
            median_s=kept[len(kept) // 2] / 1e9 if kept else 0.0,
            max_s=kept[-1] / 1e9 if kept else 0.0,
        )


class Transfers(Series):
    """The messages of a link: how long each took, and how much they were."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = self.timed_bytes = 0
        """Of all messages; those of them that the durations are of."""

    def add_message(self, duration_ns: int, num_bytes: int, timed_bytes: int) -> None:
        self.add(duration_ns)
        self.num_bytes += num_bytes
        self.timed_bytes += timed_bytes

    def counted(self) -> LinkCount:
        return LinkCount(num_bytes=self.num_bytes, busy_ns=self.total_ns, timed_bytes=self.timed_bytes)

    @property
    def share_timed(self) -> float:
        return self.timed_bytes / self.num_bytes if self.num_bytes else 0.0


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
        return self._reached(np.cumsum(np.frombuffer(self._buckets, np.int64)), percent)

    def _reached(self, seen: npt.NDArray[np.int64], percent: float) -> float:
        """`seen`: up to each bucket, how many."""
        if not seen[-1]:
            return 0.0
        place = int(np.searchsorted(seen, max(1, math.ceil(int(seen[-1]) * percent / 100))))
        return float(min(10 ** ((place + 0.5) / BUCKETS_A_DECADE), self.max_ns)) / 1e9

    def summary(self) -> Percentiles:
        seen = np.cumsum(np.frombuffer(self._buckets, np.int64))
        p50_s, p95_s, p99_s = (self._reached(seen, percent) for percent in (50, 95, 99))
        return Percentiles(count=self.count, p50_s=p50_s, p95_s=p95_s, p99_s=p99_s, max_s=self.max_ns / 1e9)


class StageClock:
    """Where one stage's time goes, each microbatch."""

    def __init__(self) -> None:
        self.wait_input, self.compute, self.wait_output, self.pack = Series(), Series(), Series(), Series()
        self._stamps = array("q", bytes(8 * NUM_STAMPS * TRACED))

    def add(self, begin_ns: int, got_ns: int, computed_ns: int, acquired_ns: int, packed_ns: int) -> None:
        place = self.compute.count % TRACED * NUM_STAMPS
        stamps = self._stamps
        stamps[place] = begin_ns
        stamps[place + 1] = got_ns
        stamps[place + 2] = computed_ns
        stamps[place + 3] = acquired_ns
        stamps[place + 4] = packed_ns
        self.wait_input.add(got_ns - begin_ns)
        self.compute.add(computed_ns - got_ns)
        self.wait_output.add(acquired_ns - computed_ns)
        self.pack.add(packed_ns - acquired_ns)

    def summary(self) -> StageSummary:
        return StageSummary(
            wait_input=self.wait_input.summary(), compute=self.compute.summary(),
            wait_output=self.wait_output.summary(), pack=self.pack.summary(), trace=self.trace(),
        )  # fmt: skip

    def trace(self) -> tuple[Stamps, ...]:
        """The times given to `add` of the last 256 microbatches, oldest first."""
        count = self.compute.count
        first = max(0, count - TRACED)
        stamps, places = self._stamps, (number % TRACED * NUM_STAMPS for number in range(first, count))
        return tuple((stamps[at], stamps[at + 1], stamps[at + 2], stamps[at + 3], stamps[at + 4]) for at in places)


class ItemRates:
    """How many items came in each stretch of time. Stretches grow with the run, so that 240 of them do."""

    def __init__(self) -> None:
        self.step_ns = FIRST_STRETCH_NS
        self._counts = [0] * STRETCHES
        self._begin_ns = self._last = 0

    def add(self, count: int, now_ns: int) -> None:
        self._begin_ns = self._begin_ns or now_ns
        while (place := (now_ns - self._begin_ns) // self.step_ns) >= STRETCHES:
            pairs = zip(self._counts[::2], self._counts[1::2], strict=True)
            self._counts = [first + second for first, second in pairs] + [0] * (STRETCHES // 2)
            self.step_ns *= 2
        self._counts[place] += count
        self._last = place

    def counts(self) -> list[int]:
        """Up to the last item's stretch."""
        return self._counts[: self._last + 1] if self._begin_ns else []
