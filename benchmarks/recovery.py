"""The recovery core under random faults, as long as it takes, and every interleaving of small clusters.

    python benchmarks/recovery.py --runs 100000 --processes 2
    python benchmarks/recovery.py --runs 0 --exhaustive

Prints how many runs there were and how many a second; stops at the first invariant that does not hold, with its seed.
What is simulated: tests/launch/control/core/simulated.py and exhaustive.py.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "launch" / "control" / "core"))

from exhaustive import KINDS, Wrong, explore
from faults import random_run
from simulated import Cluster

BATCH = 500
CLOSING = frozenset(("kill", "break", "drop"))
SEARCHES = (
    (2, 3, KINDS, True),
    (2, 6, KINDS, False),
    (2, 6, CLOSING, True),
    (2, 6, CLOSING | {"cut"}, False),
    (3, 1, KINDS, True),
    (3, 2, CLOSING, True),
    (3, 3, CLOSING, False),
    (3, 6, frozenset(("kill",)), False),
)
"""Ranks, faults, their kinds, and whether they happen between any two rounds or between two units of time."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--faults", type=int, default=20, help="in each run")
    parser.add_argument("--first", type=int, default=10_000_000, help="the first seed")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="no run begins after so long")
    parser.add_argument("--exhaustive", action="store_true", help="also search small clusters")
    parser.add_argument("--states", type=int, default=20_000_000, help="at most, in each search")
    arguments = parser.parse_args()
    failed = _random(arguments) if arguments.runs else False
    if arguments.exhaustive:
        failed = _exhaustive(arguments.states) or failed
    sys.exit(int(failed))


def _random(arguments: argparse.Namespace) -> bool:
    """Whether an invariant did not hold."""
    begin = time.monotonic()
    ends: Counter[str] = Counter()
    longest_s = 0.0
    with multiprocessing.Pool(arguments.processes) as pool:
        for found, settled_s, violations in pool.imap_unordered(_batch, _batches(arguments, begin)):
            ends.update(found)
            longest_s = max(longest_s, settled_s)
            if violations:
                print("\n".join(violations))
                return True
            if sum(ends.values()) % (10 * BATCH) == 0:
                print(f"{sum(ends.values()):,} runs", flush=True)
    elapsed_s, count = time.monotonic() - begin, sum(ends.values())
    print(f"{count:,} runs of {arguments.faults} faults, {count / elapsed_s:.0f} a second; {dict(ends)}; results came "
          f"again within {longest_s:.1f} s of the last fault, of which 2 s are the time of detection")  # fmt: skip
    return False


def _batches(arguments: argparse.Namespace, begin: float) -> Iterator[tuple[int, int, int]]:
    for offset in range(0, arguments.runs, BATCH):
        if time.monotonic() - begin > arguments.seconds:
            return
        yield arguments.first + offset, min(BATCH, arguments.runs - offset), arguments.faults


def _batch(task: tuple[int, int, int]) -> tuple[Counter[str], float, list[str]]:
    first, count, num_faults = task
    ends: Counter[str] = Counter()
    longest_s, violations = 0.0, []
    for seed in range(first, first + count):
        try:
            cluster: Cluster = random_run(seed, num_faults)
        except AssertionError as error:
            violations.append(str(error))
            continue
        ends["finished" if cluster.finished else type(cluster.failure).__name__] += 1
        longest_s = max(longest_s, cluster.settled_s)
    return ends, longest_s, violations


def _exhaustive(most_states: int) -> bool:
    """Whether an invariant did not hold."""
    for num_ranks, most_faults, kinds, anywhere in SEARCHES:
        begin = time.monotonic()
        try:
            found = explore(num_ranks, most_faults, kinds=kinds, anywhere=anywhere, most_states=most_states)
        except Wrong as error:
            print(error)
            return True
        where = "between any two rounds" if anywhere else "between units of time"
        rest = "" if found.complete else ", and there are more"
        print(f"{num_ranks} ranks, up to {most_faults} faults ({', '.join(sorted(kinds))}) {where}: "
              f"{found.num_states:,} states{rest}, {found.num_steps:,} steps in {time.monotonic() - begin:.0f} s; "
              f"by faults {found.by_faults}; a result within {found.longest} units",
              flush=True)  # fmt: skip
    return False


if __name__ == "__main__":
    main()
