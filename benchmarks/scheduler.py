"""Times the scheduler against the targets of its issue and against the textbook dynamic programme.

    python benchmarks/scheduler.py [--repeat N] [--textbook BINARY]

One thread; medians. The textbook programme is C++ of this repository, built for this comparison only:

    cmake -S . -B build/bench -DNATIVE_SCHED_PYTHON=OFF -DNATIVE_SCHED_BENCHMARKS=ON && cmake --build build/bench
    python benchmarks/scheduler.py --textbook build/bench/native_sched/benchmarks/textbook
"""

from __future__ import annotations

import argparse
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from edgecompile.planning.native_bridge import native_module, spec_of
from edgecompile.planning.problem import HostLinks, Kind, PairwiseLinks, Problem, SchedHost, SharedMedium


@dataclass(frozen=True)
class Case:
    name: str
    problem: Problem
    target_ms: float


def chain(seed: int, units: int, kinds: int, hosts: int, *, tight: float = 0.0, distinct_cuts: bool = True) -> Problem:
    """A chain of random units on `hosts` hosts of each kind; `tight` > 0: memory as a share of an even split."""
    rng = random.Random(seed)
    base = [rng.uniform(0.2, 1.0) * 1e-2 for _ in range(units)]
    speeds = [2.0**-k for k in range(kinds)]
    sizes = [
        rng.randint(10_000, 400_000) if distinct_cuts else rng.choice((200_000, 400_000)) for _ in range(units + 1)
    ]
    weights = [rng.randint(100_000, 3_000_000) for _ in range(units)]
    room = int(tight * sum(weights) / (kinds * hosts)) if tight else 1 << 40
    return Problem(
        kinds=tuple(
            Kind(name=f"kind{k}", unit_s=tuple(value / speeds[k] * rng.uniform(0.8, 1.2) for value in base))
            for k in range(kinds)
        ),
        hosts=tuple(
            SchedHost(
                name=f"host{k}-{h}",
                kind=k,
                memory_bytes=int(room * (1.0 + 0.3 * k)),
                bandwidth_bytes_per_s=(4 - k % 4) * 5e6,
            )
            for k in range(kinds)
            for h in range(hosts)
        ),
        links=HostLinks(latency_s=1e-3),
        cut_bytes=tuple(sizes),
        weight_bytes=tuple(weights),
        activation_bytes=tuple(rng.randint(0, 500_000) for _ in range(units)),
        entry_bytes=tuple(2 * size for size in sizes),
        exit_bytes=tuple(2 * size for size in sizes),
    )


def pairwise(seed: int, units: int, hosts: int, *, speed: float = 1.0) -> Problem:
    """Hosts that all differ, each pair with a link of its own."""
    rng = random.Random(seed)
    rows = range(hosts)
    return replace(
        chain(seed, units, hosts, 1),
        links=PairwiseLinks(
            bandwidth_bytes_per_s=tuple(tuple(speed * rng.uniform(5e6, 2e7) for _ in rows) for _ in rows),
            latency_s=tuple(tuple(rng.uniform(1e-4, 5e-3) for _ in rows) for _ in rows),
        ),
        kinds=tuple(
            Kind(name=f"kind{k}", unit_s=tuple(rng.uniform(0.2, 1.0) * 1e-2 * (1 + k / hosts) for _ in range(units)))
            for k in rows
        ),
        data_host=0,
    )


def cases() -> list[Case]:
    return [
        Case("96 x 4 x 4", chain(1, 96, 4, 4), 1.0),
        Case("96 x 4 x 8", chain(2, 96, 4, 8), 3.0),
        Case("192 x 4 x 4", chain(3, 192, 4, 4), 1.0),
        Case("500 x 2 x 8", chain(4, 500, 2, 8), 1.0),
        Case("500 x 3 x 6", chain(5, 500, 3, 6), 2.0),
        Case("1,000 x 4 x 12", chain(6, 1000, 4, 12), 50.0),
        Case("1,000 x 4 x 12, tight memory", chain(7, 1000, 4, 12, tight=1.15), 500.0),
        Case("1,000 units, 12 all different, pairwise", pairwise(8, 1000, 12), 200.0),
        Case("the same, 33 times slower links", pairwise(21, 1000, 12, speed=0.03), 200.0),
        Case("500 x 3 x 6, data host", replace(chain(5, 500, 3, 6), data_host=0), 2.0),
        Case("10,000 x 4 x 12", chain(9, 10_000, 4, 12), 2000.0),
        Case(
            "192 x 2 x 4, shared medium",
            replace(chain(10, 192, 2, 4), links=SharedMedium(bandwidth_bytes_per_s=2e7)),
            100.0,
        ),
    ]


def median_ms(problem: Problem, *, settle_ties: bool, repeat: int) -> tuple[float, object]:
    """Median of whole calls from Python, at most about four seconds of them."""
    module = native_module()
    times = []
    begun = time.perf_counter()
    while len(times) < repeat and (not times or time.perf_counter() - begun < 4.0):
        start = time.perf_counter()
        spec = spec_of(problem)
        spec.settle_ties = settle_ties
        solution = module.solve(spec)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3, solution


def textbook_ms(binary: Path, problem: Problem) -> tuple[float, int]:
    """The textbook programme's time and its period in picoseconds."""
    lines = [f"{len(problem.weight_bytes)} {len(problem.kinds)} {len(problem.hosts) // len(problem.kinds)}"]
    lines += [" ".join(str(round(value * 1e12)) for value in kind.unit_s) for kind in problem.kinds]
    rates = [
        next(host for host in problem.hosts if host.kind == k).bandwidth_bytes_per_s for k in range(len(problem.kinds))
    ]
    lines += [" ".join(repr(rate) for rate in rates), " ".join(map(str, problem.cut_bytes))]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(lines) + "\n")
        file.flush()
        output = subprocess.run([binary, file.name], check=True, capture_output=True, text=True).stdout.split()
    return float(output[0]), int(output[1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=31)
    parser.add_argument("--textbook", type=Path)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    args = parser.parse_args()
    print(f"{'case':42} {'period':>10} {'target':>8}   {'all ties':>10} {'target':>8}  {'gap':>6} {'method':16} probes")
    missed = 0
    for case in cases():
        if args.only not in case.name:
            continue
        period_ms, _ = median_ms(case.problem, settle_ties=False, repeat=args.repeat)
        ties_ms, solution = median_ms(case.problem, settle_ties=True, repeat=args.repeat)
        plan = solution.plan
        gap = 1 - solution.lower_bound_ps / plan.period_ps
        late = period_ms > case.target_ms or ties_ms > 10 * case.target_ms
        missed += late
        print(
            f"{case.name:42} {period_ms:7.2f} ms {case.target_ms:5.0f} ms   "
            f"{ties_ms:7.2f} ms {10 * case.target_ms:5.0f} ms  "
            f"{gap:6.4f} {solution.method.name:16} {solution.num_probes}{'  MISSED' if late else ''}",
            flush=True,
        )
        if args.textbook and case.name == "500 x 3 x 6":
            textbook, period = textbook_ms(args.textbook, case.problem)
            same = "the same period" if period == plan.period_ps else f"ANOTHER PERIOD: {period}"
            print(f"  textbook dynamic programme: {textbook:.1f} ms, {textbook / period_ms:.0f} times ours; {same}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory of this process: {peak:.0f} MiB; targets missed: {missed}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
