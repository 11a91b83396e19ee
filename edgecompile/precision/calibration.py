"""Static eight bits: the range of each convolution's activations, seen on items of the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from edgecompile.artifacts.lowering import RANGE
from edgecompile.artifacts.shards import stage_module
from edgecompile.contract.errors import UserError
from edgecompile.frontend.chain.products import convolution_of
from edgecompile.frontend.chain.units import Chain
from edgecompile.frontend.golden.eager import Batch

__all__ = ["calibrate"]

_PLACE = "calibrated"
"""The key of a node's meta that says which convolution it is; copies of the node have it too."""


def calibrate(chain: Chain, messages: Sequence[Batch]) -> int:
    """Keeps the range of each convolution's activations on its node, where the lowering finds it.

    Returns:
        how many convolutions were calibrated.

    Raises:
        UserError: an activation is not finite.
    """
    root = chain.captured.graph_module
    nodes = [node for unit in chain.units for node in unit.nodes if convolution_of(node, root) is not None]
    for place, node in enumerate(nodes):
        node.meta[_PLACE] = place
    module = stage_module(chain, 0, len(chain.units) - 1, generic=chain.captured.sampling is not None)
    watched = _Watched(module)
    with torch.no_grad():
        for message in messages:
            watched.run(*(value.clone() for value in message))
    for place, (low, high) in watched.ranges.items():
        node = nodes[place]
        if not (torch.isfinite(torch.tensor(low)) and torch.isfinite(torch.tensor(high))):
            raise UserError(f"the activations of {node.name} are not finite", key="precision.calibration",
                            fix="leave out the items that make them so")  # fmt: skip
        node.meta[RANGE] = (low, high)
    return len(watched.ranges)


class _Watched(fx.Interpreter):
    """Runs a module and keeps the least and the largest value that each convolution reads."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.ranges: dict[int, tuple[float, float]] = {}

    def run_node(self, n: fx.Node) -> Any:
        place = n.meta.get(_PLACE)
        if place is not None:
            x = self.env[n.all_input_nodes[0]]
            low, high = self.ranges.get(place, (float("inf"), float("-inf")))
            self.ranges[place] = (min(low, float(x.min())), max(high, float(x.max())))
        return super().run_node(n)
