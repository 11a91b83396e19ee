"""How much of the shards' time their matrix products account for, at the rate of one large product in the same run.

    python benchmarks/compute.py                      # vit_base, microbatch 8
    python benchmarks/compute.py --model deit_tiny --microbatch 1

One thread. Each round runs every shard once and the large product a few times, so that a machine that others slow down
is slow for both. A unit counts as a matrix product where it does at least ten operations for each byte of live
activations: linear layers, convolutions and attention do, all others do about one or less.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from commands import compile_plan
from contenders import boundary_tensors, load_stage
from torch import nn

from edgecompile.artifacts.shards import freeze_module
from edgecompile.contract.costs import UnitEntry
from edgecompile.contract.plan import Plan
from edgecompile.contract.plan_file import read_plan
from edgecompile.execution.prepack import pays_here, prepack_traced

TARGET = 0.85
OPERATIONS_A_BYTE = 7
PRODUCTS_A_ROUND = 4
WARM_UP = 3


def is_product(unit: UnitEntry) -> bool:
    return unit.flops >= OPERATIONS_A_BYTE * max(unit.activation_bytes, 1)


def is_attention(unit: UnitEntry) -> bool:
    return "attention" in unit.op.rpartition(":")[2] if ":" in unit.op else False


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def as_ranks_compute(module: nn.Module, example: torch.Tensor) -> Callable[..., Any]:
    """Prepacked where ranks on this machine do so."""
    frozen = freeze_module(module.eval(), (example,))
    return prepack_traced(frozen.module, frozen.rows) if pays_here("auto") else frozen.module


def measure(plan: Plan, folder: Path, shape: tuple[int, int, int], rounds: int) -> tuple[list[float], float]:
    """Median seconds of each shard, and of the product (rows, inner) x (inner, columns), fp32."""
    rows, inner, columns = shape
    left, product = torch.rand(rows, inner), as_ranks_compute(nn.Linear(inner, columns), torch.rand(rows, inner))
    shards = [load_stage(plan, folder, stage.stage) for stage in plan.stages]
    inputs = [boundary_tensors(plan, folder, stage.stage) for stage in plan.stages]
    shard_s: list[list[float]] = [[] for _ in shards]
    product_s: list[float] = []
    with torch.inference_mode():
        for number in range(WARM_UP + rounds):
            measured = [
                seconds(lambda shard=shard, values=values: shard(*values))
                for shard, values in zip(shards, inputs, strict=True)
            ]
            products = [seconds(lambda: product(left)) for _ in range(PRODUCTS_A_ROUND)]
            if number >= WARM_UP:
                for series, value in zip(shard_s, measured, strict=True):
                    series.append(value)
                product_s += products
    return [statistics.median(series) for series in shard_s], statistics.median(product_s)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_base")
    parser.add_argument("--microbatch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--shape", type=int, nargs=3, metavar=("ROWS", "INNER", "COLUMNS"),
                        help="the large product; default: what fc1 of a block does")  # fmt: skip
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="edgebench-") as folder:
        path = compile_plan(
            Path(folder), f"model={args.model}", "schedule=even", "hosts.count=2", f"microbatch={args.microbatch}"
        )
        plan = read_plan(path)
        boundary = max(plan.stages[0].outputs, key=lambda spec: spec.num_bytes)
        hidden = min(boundary.shape[-1], plan.stages[-1].inputs[0].shape[-1])
        tokens = boundary.num_bytes // 4 // boundary.shape[-1]
        shape = tuple(args.shape) if args.shape else (tokens, hidden, 4 * hidden)
        shard_s, product_s = measure(plan, path.parent, shape, args.rounds)
    rate = 2 * shape[0] * shape[1] * shape[2] / product_s
    tell(plan, shard_s, rate, shape)
    return 0


def tell(plan: Plan, shard_s: list[float], rate: float, shape: tuple[int, ...]) -> None:
    print(f"{plan.model.name}, microbatch {plan.model.microbatch}, 1 thread; one product of "
          f"{shape[0]} x {shape[1]} x {shape[2]}: {rate / 1e9:.1f} GFLOPS")  # fmt: skip
    sums = {"linear and convolution": 0.0, "attention's products": 0.0}
    for stage, measured_s in zip(plan.stages, shard_s, strict=True):
        units = [unit for unit in plan.units[stage.units[0] : stage.units[1] + 1] if is_product(unit)]
        products_s = sum(unit.flops for unit in units) / rate
        attention_s = sum(unit.flops for unit in units if is_attention(unit)) / rate
        sums["linear and convolution"] += products_s - attention_s
        sums["attention's products"] += attention_s
        print(f"  shard {stage.stage}: {measured_s * 1e3:.1f} ms, its products at that rate {products_s * 1e3:.1f} ms: "
              f"{products_s / measured_s:.1%}")  # fmt: skip
    whole = sum(shard_s)
    for name, value in sums.items():
        print(f"  {name}: {value / whole:.1%} of the shards' {whole * 1e3:.1f} ms")
    share = sum(sums.values()) / whole
    print(f"  all matrix products: {share:.1%}; target >= {TARGET:.0%}: {'met' if share >= TARGET else 'MISSED'}")


if __name__ == "__main__":
    sys.exit(main())
