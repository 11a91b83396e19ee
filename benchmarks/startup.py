"""How long from process start to the first result, beside importing torch and loading the larger shard.

    python benchmarks/startup.py                     # vit_base, two ranks on this machine: two minutes
    python benchmarks/startup.py --quick             # deit_tiny

Pairs, one after the other and in turns: a Python process that imports torch and loads the plan's largest shard, until
it has; and `edgelaunch PLAN --local --items 1`, until it prints that item's result, which it does after all ranks have
said what they measured.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from commands import compile_plan

from edgecompile.contract.plan_file import read_plan

TARGET = 1.5
LOAD = """import sys, torch
from pathlib import Path
from edgecompile.contract.plan_file import read_plan
from edgecompile.execution.opened_shard import open_stage
path = Path(sys.argv[1])
open_stage(read_plan(path).stages[int(sys.argv[2])], path.parent)
print('loaded', flush=True)"""


def first_line_s(*words: object) -> float:
    """Seconds from starting a Python process until it prints something."""
    begin = time.perf_counter()
    command = [sys.executable, *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        elapsed = time.perf_counter() - begin
        process.stdout.read()
        errors = process.stderr.read()
    if process.returncode or not line:
        raise SystemExit(errors)
    return elapsed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_base")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="deit_tiny, five pairs")
    args = parser.parse_args()
    if args.quick:
        args.model, args.pairs = "deit_tiny", 5
    with tempfile.TemporaryDirectory(prefix="edgebench-") as folder:
        path = compile_plan(Path(folder), f"model={args.model}", f"hosts.count={args.ranks}", "schedule=even")
        plan = read_plan(path)
        sizes = [sum((path.parent / name).stat().st_size for name, _ in stage.files) for stage in plan.stages]
        size = max(sizes)
        largest = sizes.index(size)
        first_line_s("-c", LOAD, path, largest)  # files into the page cache, for both alike
        loads, starts = [], []
        for _ in range(args.pairs):
            loads.append(first_line_s("-c", LOAD, path, largest))
            starts.append(first_line_s("-m", "edgelaunch", path, "--local", "--items", 1))
    ratio = statistics.median(start / load for start, load in zip(starts, loads, strict=True))
    print(f"{plan.model.name}, {len(plan.hosts)} ranks, {args.pairs} pairs; medians")
    print(f"  import torch and load the larger shard ({size / 1e6:.0f} MB): {statistics.median(loads):.2f} s")
    print(f"  edgelaunch PLAN --local --items 1, to the first result: {statistics.median(starts):.2f} s")
    print(f"  ratio {ratio:.2f} (from {min(s / b for s, b in zip(starts, loads, strict=True)):.2f} "
          f"to {max(s / b for s, b in zip(starts, loads, strict=True)):.2f}); "
          f"target <= {TARGET}: {'met' if ratio <= TARGET else 'MISSED'}")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
