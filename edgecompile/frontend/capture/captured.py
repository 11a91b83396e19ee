"""A captured model: its graph, and the sizes that it holds for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import fx

from edgecompile.contract.plan import Dim
from edgecompile.frontend.capture.graphs import propagate
from edgecompile.frontend.capture.sampling import Sampling

__all__ = ["Captured"]


@dataclass(frozen=True, kw_only=True)
class Captured:
    """The whole model as one graph: a placeholder for each input, in order, and one flat tuple of outputs."""

    graph_module: fx.GraphModule
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    sampling: Sampling | None = None
    """Of a graph that takes any sizes within its dimensions; None: it holds for the captured shapes alone."""
    unpassed: fx.GraphModule | None = None
    """Of such a graph: as it was before any pass."""
    why_fixed: str = ""
    """Why the shapes are fixed, where the model option would let them vary, or the model itself fixes the batch."""

    @property
    def dims(self) -> Mapping[str, Dim]:
        return self.sampling.dims if self.sampling is not None else {}

    def look(self, graph_module: fx.GraphModule, inputs: Sequence[torch.Tensor]) -> None:
        """propagate(), at each of the sampled sizes where sizes vary."""
        if self.sampling is None:
            propagate(graph_module, inputs)
        else:
            self.sampling.look(graph_module, inputs)
