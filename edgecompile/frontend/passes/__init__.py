"""Graph passes that preserve the results, one per file, in the order in which they run.

Each has a switch: `passes.NAME=false`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import fx

from edgecompile.contract.errors import UserError, choices
from edgecompile.frontend.capture.captured import Captured
from edgecompile.frontend.capture.export_graph import explain_operator
from edgecompile.frontend.capture.graphs import OperatorFailed, rebuild
from edgecompile.frontend.passes.drop_copies import drop_copies
from edgecompile.frontend.passes.drop_devices import drop_devices
from edgecompile.frontend.passes.drop_dropout import drop_dropout
from edgecompile.frontend.passes.drop_guards import drop_guards
from edgecompile.frontend.passes.drop_identities import drop_identities
from edgecompile.frontend.passes.drop_true_masks import drop_true_masks
from edgecompile.frontend.passes.fold_constants import fold_constants
from edgecompile.frontend.passes.fold_literals import fold_literals
from edgecompile.frontend.passes.fold_prefixes import fold_prefixes
from edgecompile.frontend.passes.push_selection_up import push_selection_up
from edgecompile.frontend.passes.settle_layouts import settle_layouts
from edgecompile.frontend.passes.sink_views import sink_views

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
    "drop_copies": drop_copies,
    "drop_true_masks": drop_true_masks,
    "fold_prefixes": fold_prefixes,
    "push_selection_up": push_selection_up,
    "sink_views": sink_views,
}


_REPEATED = frozenset({"push_selection_up"})
"""Passes whose result may give them more to do; each ends, since every round moves a selection further up."""


def run_passes(captured: Captured, inputs: Sequence[torch.Tensor], switches: Mapping[str, bool]) -> Captured:
    """Runs every pass that is not switched off.

    Raises:
        UserError: a switch names no pass, or the model has an operator whose result is not known before it runs.
    """
    unknown = sorted(set(switches) - set(PASSES))
    if unknown:
        raise UserError(f"passes.{unknown[0]}: no such pass: the passes are {choices(PASSES, unknown[0])}")
    graph_module = captured.graph_module
    try:
        captured.look(graph_module, inputs)
    except OperatorFailed as failed:
        raise UserError(explain_operator(failed)) from failed
    if settle_layouts(graph_module):
        graph_module = rebuild(graph_module)
        captured.look(graph_module, inputs)
    for name, run in PASSES.items():
        while switches.get(name, True) and run(graph_module):
            graph_module = rebuild(graph_module)
            captured.look(graph_module, inputs)
            if name not in _REPEATED:
                break
    if captured.sampling is not None and captured.sampling.one != captured.sampling.largest:
        captured.sampling.settle(graph_module, inputs)
    return replace(captured, graph_module=graph_module)
