"""What mypy makes of a program that compiles; `make types` checks it, nothing runs it."""

from __future__ import annotations

import torch
from torch import nn
from typing_extensions import assert_type

import edgecompile
from edgelaunch import Pipeline


def use(module: nn.Module) -> str:
    try:
        plan = edgecompile.compile(module, {"x": torch.zeros(1, 3)}, devices="local", microbatch=4, wire="fp16")
    except edgecompile.UserError as error:
        assert_type(error, edgecompile.UserError)
        raise
    assert_type(plan, edgecompile.CompiledPlan)
    assert_type(edgecompile.solve(plan, drop=["nano"]), edgecompile.Partition)
    assert_type(edgecompile.simulate(plan).simulation.throughput_items_per_s, float | None)
    edgecompile.simulate(plan, changes={"hosts.nano.bandwidth": "50Mbps"})
    return repr(Pipeline(plan, local=True))
