"""Looks at a graph of varying sizes at two choices of them, and finds which dimension each axis of a tensor is."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import fx

from edgecompile.contract.dim_rules import BATCH
from edgecompile.contract.plan import Dim, product
from edgecompile.frontend.capture.dims import DimInt, Expression, NotSymbolic, Sizes, fitted, resize
from edgecompile.frontend.capture.graphs import TensorFacts, propagate, shapes_of

__all__ = ["InputDims", "Sampling", "axes_of", "cut", "extents_of", "sampling_in", "sampling_of"]

InputDims = tuple[tuple[str | None, ...], ...]
"""For each input the dimension of each axis, the batch first; None where its extent is fixed."""
_PRIMES = (11, 13, 17, 19, 23, 7, 29, 31, 5, 37, 41, 3, 2)
_BATCHES = (3, 5)
_MOST_TRIED = 32


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Sizes whose extents have no common factors, so that only one product of dimensions fits an axis."""

    dims: Mapping[str, Dim]
    input_dims: InputDims
    one: Sizes
    other: Sizes

    @property
    def largest(self) -> Sizes:
        return {name: dim.max for name, dim in self.dims.items()}

    @property
    def checked(self) -> tuple[Sizes, ...]:
        """Where what shall hold at all sizes is tried."""
        if len(self.dims) == 1:
            return ({BATCH: 2},)
        least = {name: dim.min for name, dim in self.dims.items()}
        second = {name: max(dim.min, dim.max - 1) for name, dim in self.dims.items()}
        return tuple({**sizes, BATCH: 2} for sizes in (least, self.one, self.other, second, self.largest))

    def look(self, graph_module: fx.GraphModule, examples: Sequence[torch.Tensor]) -> None:
        """Leaves what propagate leaves, at the first sizes, and `axes`: for each axis an Expression or None."""
        self.propagate_at(graph_module, examples, self.one)
        if all(self._is_known(node) for node in graph_module.graph.nodes):
            return  # a pass that only takes nodes away leaves the others their axes
        resize(graph_module.graph, self.other)
        shapes = shapes_of(graph_module, cut(examples, self.input_dims, self.other))
        resize(graph_module.graph, self.one)
        graph_module.recompile()
        names = sorted(self.dims)
        one, other = (tuple((name, sizes[name]) for name in names) for sizes in (self.one, self.other))
        for node in graph_module.graph.nodes:
            node.meta["sampling"] = self
            before, after = shapes.get(node), _shape(node)
            known = before is not None and after is not None and len(before) == len(after)
            node.meta["axes"] = (
                tuple(
                    fitted({one: first, other: second}) for first, second in zip(after or (), before or (), strict=True)
                )
                if known
                else None
            )

    def _is_known(self, node: fx.Node) -> bool:
        """Whether the node was looked at before, and has the shape of that time."""
        if node.meta.get("sampling") is not self:
            return False
        axes, shape = axes_of(node), _shape(node)
        if axes is None or shape is None:
            return axes is None and shape is None
        return len(axes) == len(shape) and all(
            axis is not None and axis.at(self.one) == extent for axis, extent in zip(axes, shape, strict=True)
        )

    def settle(self, graph_module: fx.GraphModule, examples: Sequence[torch.Tensor]) -> None:
        """As look, but at the largest sizes, which buffers and memory must hold."""
        self.look(graph_module, examples)
        self.propagate_at(graph_module, examples, self.largest)

    def propagate_at(self, graph_module: fx.GraphModule, examples: Sequence[torch.Tensor], sizes: Sizes) -> None:
        """propagate() at these sizes, whose numbers the graph has from then on."""
        resize(graph_module.graph, sizes)
        graph_module.recompile()
        propagate(graph_module, cut(examples, self.input_dims, sizes))


def _shape(node: fx.Node) -> tuple[int, ...] | None:
    facts = node.meta.get("facts")
    return facts.shape if isinstance(facts, TensorFacts) else None


def axes_of(node: fx.Node) -> tuple[Expression | None, ...] | None:
    """What each axis of the node's tensor is; None where the graph's sizes are fixed, or it is not a single tensor."""
    axes: tuple[Expression | None, ...] | None = node.meta.get("axes")
    return axes


def extents_of(node: fx.Node) -> list[int] | None:
    """The shape of the node's tensor for the arguments of another operator; None where an axis is not understood."""
    axes, sampling = axes_of(node), node.meta.get("sampling")
    if sampling is None:
        facts = node.meta["facts"]
        return list(facts.shape) if isinstance(facts, TensorFacts) else None
    if axes is None or any(axis is None for axis in axes):
        return None
    known = [axis for axis in axes if axis is not None]
    return [DimInt(axis, sampling.one) if axis.names else axis.at({}) for axis in known]


def sampling_in(graph: fx.Graph) -> Sampling | None:
    """None where the graph's sizes are fixed."""
    return next((node.meta.get("sampling") for node in graph.nodes), None)


def cut(examples: Sequence[torch.Tensor], input_dims: InputDims, sizes: Sizes) -> tuple[torch.Tensor, ...]:
    """The examples at these sizes: rows are repeated as needed, other axes cut off.

    Args:
        examples: a tensor an input, at the largest extents but for the batch.
    """
    return tuple(_cut(value, dims, sizes) for value, dims in zip(examples, input_dims, strict=True))


def _cut(value: torch.Tensor, dims: Sequence[str | None], sizes: Sizes) -> torch.Tensor:
    for axis, name in enumerate(dims):
        if name == BATCH:
            value = value[torch.arange(sizes[name]) % len(value)]
        elif name is not None:
            value = value.narrow(axis, 0, product(name, sizes))
    return value.contiguous()


def sampling_of(dims: Mapping[str, Dim], input_dims: InputDims) -> Sampling:
    """
    Raises:
        NotSymbolic: a dimension has not two extents to look at.
    """
    one, other = ({BATCH: extent} for extent in _BATCHES)
    if len(dims) == 1:  # any two numbers of items tell what follows from them
        most = dims[BATCH].max
        one = {BATCH: most if most > 1 else _BATCHES[0]}
        other = {BATCH: _BATCHES[0] if one[BATCH] != _BATCHES[0] else _BATCHES[1]}
    taken: set[int] = set()
    steps = {_BATCHES[1] - _BATCHES[0]}
    for name, dim in dims.items():
        if name == BATCH:
            continue
        within = [extent for extent in range(dim.max, max(2, dim.min) - 1, -1) if extent not in taken]
        primes = [extent for extent in _PRIMES if extent in within and extent not in _BATCHES]
        found = _apart(primes, steps) or _apart(within[:_MOST_TRIED], steps)
        if found is None:
            raise NotSymbolic(f"{name} has too few extents, {dim.min} to {dim.max}")
        one[name], other[name] = found
        steps.add(found[1] - found[0])
        taken |= set(found)
    return Sampling(dims=dims, input_dims=input_dims, one=one, other=other)


def _apart(extents: Sequence[int], steps: Collection[int]) -> tuple[int, int] | None:
    """Two whose difference no other dimension has, so that no sum fits two dimensions."""
    pairs = ((first, second) for first in extents for second in extents if first != second)
    return next((pair for pair in pairs if pair[1] - pair[0] not in steps), None)
