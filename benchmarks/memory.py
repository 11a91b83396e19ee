"""Each rank's peak of anonymous memory beside the plan's memory_bytes, over models and microbatch sizes.

    python benchmarks/memory.py                              # four models, microbatch 1 and 8: ten minutes
    python benchmarks/memory.py --quick                      # deit_tiny
    python benchmarks/memory.py --model gpt2 --microbatch 2 --ranks 3

All ranks are processes of this machine, and the data host is one of them. Their anonymous memory is read every few
milliseconds from before the shards are loaded to the end, so that what loading takes for a moment counts too.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from commands import compile_plan
from processes import LocalRun

from edgecompile.contract.plan import Plan
from edgecompile.contract.plan_file import read_plan

MODELS = ("vit_base", "bert_base", "resnet50", "deit_small")
SHARE, LEAST_BYTES = 0.10, 20e6
"""A prediction may be off by the larger of the two."""
EVERY_S = 0.004


def peaks(path: Path, plan: Plan, microbatches: int) -> dict[int, int]:
    """Each rank's peak of anonymous bytes."""
    found: dict[int, int] = {}
    for _, ranks in LocalRun(path, "--items", microbatches * plan.model.microbatch).samples(EVERY_S):
        for rank, seen in ranks.items():
            found[rank] = max(found.get(rank, 0), seen.anonymous_bytes)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=MODELS)
    parser.add_argument("--microbatch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--microbatches", type=int, default=12, help="so many in each run")
    parser.add_argument("--quick", action="store_true", help="deit_tiny alone")
    parser.add_argument("--overrides", nargs="*", default=[], help="further words for edgecompile")
    args = parser.parse_args()
    if args.quick:
        args.model = ["deit_tiny"]
    print("     model  microbatch  rank  stage  predicted  measured  difference", flush=True)
    worst = 0.0
    for model in args.model:
        for microbatch in args.microbatch:
            with tempfile.TemporaryDirectory(prefix="edgebench-") as folder:
                words = [f"model={model}", f"microbatch={microbatch}", f"hosts.count={args.ranks}", "schedule=even"]
                path = compile_plan(Path(folder), *words, *args.overrides)
                plan = read_plan(path)
                measured = peaks(path, plan, args.microbatches)
            for stage in plan.stages:
                predicted = stage.predicted.memory_bytes
                off = measured[stage.rank] - predicted
                allowed = max(SHARE * predicted, LEAST_BYTES)
                worst = max(worst, abs(off) / allowed)
                print(f"{model:>10}  {microbatch:10}  {stage.rank:4}  {stage.stage:5}  {predicted / 1e6:6.1f} MB"
                      f"  {measured[stage.rank] / 1e6:5.1f} MB  {off / 1e6:+6.1f} MB ({off / predicted:+.1%})"
                      + ("" if abs(off) <= allowed else "  MISSED"), flush=True)  # fmt: skip
    print(f"target: within {SHARE:.0%} or {LEAST_BYTES / 1e6:.0f} MB: {'met' if worst <= 1 else 'MISSED'} "
          f"(the worst takes {worst:.0%} of what is allowed)")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
