"""fx passes that keep the result, one a file, in the order in which they run.

Each has a switch: `passes.NAME=false`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import fx

from edgecompile.capture import Captured
from edgecompile.errors import UserError, choices
from edgecompile.graphs import propagate, rebuild
from edgecompile.passes.drop_devices import drop_devices
from edgecompile.passes.drop_dropout import drop_dropout
from edgecompile.passes.drop_guards import drop_guards
from edgecompile.passes.drop_identities import drop_identities
from edgecompile.passes.fold_constants import fold_constants
from edgecompile.passes.fold_literals import fold_literals
from edgecompile.passes.sink_views import sink_views

__all__ = ["PASSES", "run_passes"]

Pass = Callable[[fx.GraphModule], int]
"""Edits the graph in place, whose nodes carry `facts` (see graphs.propagate); returns how many nodes it changed."""

PASSES: Mapping[str, Pass] = {
    "drop_guards": drop_guards,
    "drop_dropout": drop_dropout,
    "fold_literals": fold_literals,
    "fold_constants": fold_constants,
    "drop_devices": drop_devices,
    "drop_identities": drop_identities,
    "sink_views": sink_views,
}


def run_passes(captured: Captured, inputs: Sequence[torch.Tensor], switches: Mapping[str, bool]) -> Captured:
    """Runs every pass that is not switched off.

    Raises:
        UserError: a switch names no pass.
    """
    unknown = sorted(set(switches) - set(PASSES))
    if unknown:
        raise UserError(f"passes.{unknown[0]}: no such pass: the passes are {choices(PASSES)}")
    graph_module = captured.graph_module
    propagate(graph_module, inputs)
    for name, run in PASSES.items():
        if switches.get(name, True) and run(graph_module):
            graph_module = rebuild(graph_module)
            propagate(graph_module, inputs)
    return replace(captured, graph_module=graph_module)
