"""All schedulers on all clusters of conf/devices: what each one's plan is predicted to do, beside the exact one's.

By data sheets: nothing is run. Prints a table in Markdown: the exact scheduler's items a second, and
the others' as a share of that; `-` where a plan does not fit into memory, with the reasons below. Then the
geometric means by cluster. Exit status 1 where a scheduler does better than the exact one.

Usage: schedulers.py [--models vit_base,vit_large] [--microbatch 8] [--csv FILE]
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from edgecompile.commands.compile_command import compose
from edgecompile.config.methods import ScheduleMethod
from edgecompile.config.request import capture_of, request_of
from edgecompile.contract.quantities import format_number
from edgecompile.frontend.capture.flat_model import FlatModel
from edgecompile.frontend.chain.build_chain import chain_of
from edgecompile.frontend.chain.units import Chain
from edgecompile.frontend.golden.golden_items import example_inputs, golden_inputs
from edgecompile.models import build_model
from edgecompile.partition.planning_costs import planning_inputs
from edgecompile.partition.stages import partition
from edgecompile.planning.problem import Infeasible
from edgecompile.profile.workload import costs_of

SCHEDULERS = [method.value for method in ScheduleMethod if method is not ScheduleMethod.manual]
MODELS = "vit_base,vit_large,bert_base,resnet50"


def clusters() -> list[str]:
    folder = Path(compose.__code__.co_filename).parents[1] / "conf" / "devices"
    return sorted(path.stem for path in folder.glob("*.yaml"))


def captured(model: str, microbatch: int) -> tuple[Chain, tuple[torch.Tensor, ...]]:
    """Once a model: its units are the same for all clusters."""
    conf = compose([f"model={model}", f"microbatch={microbatch}"])
    request = request_of(conf)
    spec = request.model.spec
    module = build_model(spec, request.model.seed)
    flat = FlatModel(module, [item.name for item in spec.inputs], spec.outputs)
    examples = example_inputs(spec, golden_inputs(spec, module, request.model.seed), microbatch)
    return chain_of(flat, spec, examples, capture_of(conf)), examples


def items_per_s(chain: Chain, examples: Sequence[torch.Tensor], *words: str) -> float:
    """Predicted. Raises Infeasible where the plan does not fit."""
    request = request_of(compose(list(words)))
    inputs = planning_inputs(request, chain, costs_of(request, chain, tuple(examples), None))
    return request.microbatch / partition(inputs, chain, request.schedule).period_s


def mean(shares: Sequence[float]) -> str:
    """Geometric."""
    return f"{math.exp(sum(map(math.log, shares)) / len(shares)):.0%}" if shares else "-"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--microbatch", type=int, default=8)
    parser.add_argument("--csv", type=Path)
    chosen = parser.parse_args()
    rows: list[dict[str, object]] = []
    reasons: list[str] = []
    shares: dict[tuple[str, str], list[float]] = {}
    print(f"| model | cluster | {' | '.join(SCHEDULERS)} |\n|---|---|{'---:|' * len(SCHEDULERS)}")
    for model in chosen.models.split(","):
        chain, examples = captured(model, chosen.microbatch)
        for cluster in clusters():
            found: dict[str, float | None] = {}
            for name in SCHEDULERS:
                words = (f"model={model}", f"devices={cluster}", f"schedule={name}", f"microbatch={chosen.microbatch}")
                try:
                    found[name] = items_per_s(chain, examples, *words)
                except Infeasible as reason:
                    found[name] = None
                    reasons.append(f"{model} on {cluster}: {reason}")
            best = found["exact"]
            cells = []
            for name, rate in found.items():
                if rate is None:
                    cells.append("-")
                elif name == "exact" or best is None:
                    cells.append(f"{format_number(rate)}/s")
                else:
                    shares.setdefault((cluster, name), []).append(rate / best)
                    cells.append(f"{rate / best:.0%}")
                rows.append({"model": model, "cluster": cluster, "scheduler": name, "items_per_s": rate})
            print(f"| {model} | {cluster} | {' | '.join(cells)} |", flush=True)
    others = [name for name in SCHEDULERS if name != "exact"]
    print(f"\n| cluster | {' | '.join(others)} |\n|---|{'---:|' * len(others)}")
    for cluster in clusters():
        print(f"| {cluster} | {' | '.join(mean(shares.get((cluster, name), [])) for name in others)} |")
    totals = [[share for (_, own), found in shares.items() if own == name for share in found] for name in others]
    print(f"| all | {' | '.join(map(mean, totals))} |")
    print("\n".join(reasons), file=sys.stderr)
    if chosen.csv is not None:
        with chosen.csv.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return int(any(share > 1 + 1e-9 for found in shares.values() for share in found))


if __name__ == "__main__":
    sys.exit(main())
