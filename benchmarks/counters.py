"""What the counters that are always on cost each microbatch of a stage with a link on either side.

    python benchmarks/counters.py

The same calls as in a rank, reading the clock included: one StageClock, a series for each link, and on the data host
the ends' series and the latency of each item.
"""

from __future__ import annotations

import statistics
import sys
from time import perf_counter_ns

from edgelaunch.transport.counters import Latencies, Series, StageClock

TARGET_US = 5.0
MICROBATCHES = 20_000
ROUNDS = 9


def count_once(clock: StageClock, send: Series, receive: Series, latencies: Latencies) -> None:
    begin = perf_counter_ns()
    got, computed, acquired, packed = perf_counter_ns(), perf_counter_ns(), perf_counter_ns(), perf_counter_ns()
    clock.add(begin, got, computed, acquired, packed)
    for link in (send, receive):
        started = perf_counter_ns()
        link.add(perf_counter_ns() - started)
    latencies.add(packed - begin)


def main() -> int:
    clock, send, receive, latencies = StageClock(), Series(), Series(), Latencies()
    rounds_us = []
    for _ in range(ROUNDS):
        begin = perf_counter_ns()
        for _ in range(MICROBATCHES):
            count_once(clock, send, receive, latencies)
        rounds_us.append((perf_counter_ns() - begin) / MICROBATCHES / 1e3)
    cost_us = statistics.median(rounds_us)
    print(f"counters: {cost_us:.2f} us a microbatch (median of {ROUNDS} rounds of {MICROBATCHES}); "
          f"target <= {TARGET_US:.0f} us: {'met' if cost_us <= TARGET_US else 'MISSED'}")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
