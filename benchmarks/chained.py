"""Compiles a config and runs its shards one after the other in this process, as its ranks would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from edgecompile.commands.compile_command import compose
from edgecompile.contract.plan import Plan
from edgecompile.pipeline import compile_model
from edgelaunch.pipeline.stage_shard import load_shard, run_shard


@contextmanager
def silent(name: str) -> Iterator[None]:
    """A step of the compiler of which nobody is told."""
    yield


def compiled(words: list[str], folder: Path) -> Plan:
    """The plan that these overrides give, below `folder`."""
    return compile_model(compose([*words, f"output_dir={folder}"]), silent)


def outputs(plan: Plan, folder: Path, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """The plan's first output for every item, (items, ...); the last microbatch is padded with its last item.

    Args:
        inputs: (items, ...) each, in the order of the plan's inputs.
    """
    microbatch, count = plan.model.microbatch, len(inputs[0])
    shards = [load_shard(stage, folder, "cpu") for stage in plan.stages]
    results = []
    with torch.inference_mode():
        for start in range(0, count, microbatch):
            rows = torch.arange(start, start + microbatch).clamp(max=count - 1)
            values = [value[rows].contiguous() for value in inputs]
            named = zip(plan.inputs, values, strict=True)
            sizes = {
                dim: extent
                for spec, value in named
                for dim, extent in zip(spec.dims, value.shape, strict=False)
                if dim is not None
            }
            for shard, stage in zip(shards, plan.stages, strict=True):
                values = list(run_shard(shard, stage, values, "cpu", sizes))
            results.append(values[0].clone())
    return torch.cat(results)[:count]


def cut_bytes(plan: Plan) -> int:
    """What crosses all cuts, in bytes an item."""
    sent = sum(spec.num_bytes for stage in plan.stages[:-1] for spec in stage.outputs)
    return sent // plan.model.microbatch
