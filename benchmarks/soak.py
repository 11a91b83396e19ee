"""Whether a long run's memory, threads and open files stay what they were.

    python benchmarks/soak.py                               # 50,000 microbatches of a small ViT, two ranks: minutes
    python benchmarks/soak.py --microbatches 1000000 --ranks 3

Every rank's resident size after the last microbatches, beside that after the first 1,000.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from commands import compile_plan
from processes import Figures, LocalRun

TARGET_BYTES = 2 << 20
BEGIN = 1000
EVERY_S = 0.2


def watch(run: LocalRun, microbatch: int) -> tuple[dict[int, Figures], dict[int, Figures], int]:
    """Each rank's figures after 1,000 microbatches and at the last look while all ranks ran, and how many were done."""
    first: dict[int, Figures] = {}
    last: dict[int, Figures] = {}
    seen_at = 0
    for _, ranks in run.samples(EVERY_S):
        done = run.progress[-1][1] // microbatch if run.progress else 0
        if done < BEGIN or (first and len(ranks) < len(first)):
            continue
        if not first:
            print(f"after {done} microbatches: {_resident(ranks)}", flush=True)
            first = ranks
        last, seen_at = ranks, done
    return first, last, seen_at


def _resident(ranks: dict[int, Figures]) -> str:
    return ", ".join(f"rank {rank} {seen.resident_bytes / 2**20:.1f} MiB, {seen.num_threads} threads, "
                     f"{seen.num_files} files" for rank, seen in ranks.items())  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_digits")
    parser.add_argument("--microbatch", type=int, default=1)
    parser.add_argument("--microbatches", type=int, default=50_000)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--overrides", nargs="*", default=[], help="further words for edgecompile")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgebench-") as folder:
        words = [f"model={args.model}", f"microbatch={args.microbatch}", f"hosts.count={args.ranks}", "schedule=even",
                 *args.overrides]  # fmt: skip
        path = compile_plan(Path(folder), *words)
        run = LocalRun(path, "--items", args.microbatches * args.microbatch)
        first, last, seen_at = watch(run, args.microbatch)
    if not first or last is first:
        raise SystemExit("the run was over before two looks at it: ask for more --microbatches")
    print(f"after {seen_at} of {args.microbatches} microbatches: {_resident(last)}")
    print(run.report.rstrip())
    grown = {rank: last[rank].resident_bytes - seen.resident_bytes for rank, seen in first.items()}
    steady = all(  # fewer at the last look: the run was ending
        last[rank].num_threads <= seen.num_threads and last[rank].num_files <= seen.num_files
        for rank, seen in first.items()
    )
    met = max(grown.values()) <= TARGET_BYTES and steady
    print("resident size grew by " + ", ".join(f"{size / 2**20:+.2f} MiB (rank {rank})" for rank, size in grown.items())
          + f"; threads and files {'no more' if steady else 'MORE'}; "
          f"target <= {TARGET_BYTES / 2**20:.0f} MiB: {'met' if met else 'MISSED'}")  # fmt: skip
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
