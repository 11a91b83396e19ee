"""Stores, for the largest sizes, what follows from the sizes of a message alone: positions, masks, biases.

A message of other sizes reads the beginning of the table. What a stage would make at every message, on the CPU wherever
it runs, is a buffer of the shard then.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx

from edgecompile.contract.dim_rules import BATCH
from edgecompile.frontend.capture.dims import DimInt, Expression, is_sized
from edgecompile.frontend.capture.graphs import TensorFacts, constant_nodes, is_view, op_name
from edgecompile.frontend.capture.sampling import Sampling, axes_of, sampling_in
from edgecompile.frontend.passes.fold_constants import ConstantValues

__all__ = ["fold_prefixes"]

_MOST_BYTES = 64 << 20
_ITEMS = Expression({(BATCH,): 1})


def fold_prefixes(graph_module: fx.GraphModule) -> int:
    """Replaces each by a slice of a buffer `prefix_N`, where that gives the same values at all sizes that are tried."""
    sampling = sampling_in(graph_module.graph)
    if sampling is None:
        return 0
    sized = _sized_constants(graph_module.graph)
    largest = {**sampling.largest, BATCH: 2}
    values = [ConstantValues(graph_module, sizes) for sizes in (*sampling.checked, {**sampling.one, BATCH: 3}, largest)]
    folded = 0
    for node in list(graph_module.graph.nodes):
        if node not in sized or not _worth_folding(node, sized):
            continue
        axes = _plain_axes(node)
        table = None if axes is None else _table(node, axes, values)
        if axes is None or table is None:
            continue
        name = f"prefix_{folded}"
        while hasattr(graph_module, name):
            name += "_"
        graph_module.register_buffer(name, table)
        node.replace_all_uses_with(_reading(graph_module.graph, node, name, axes, sampling))
        folded += 1
    return folded


def _sized_constants(graph: fx.Graph) -> set[fx.Node]:
    """What no input reaches and the sizes do."""
    constant, found = constant_nodes(graph), set()
    for node in graph.nodes:
        if node in constant and (is_sized(node) or any(argument in found for argument in node.all_input_nodes)):
            found.add(node)
    return found


def _worth_folding(node: fx.Node, sized: set[fx.Node]) -> bool:
    """One tensor that something else reads, and that is more than a view of what is stored."""
    if not isinstance(node.meta.get("facts"), TensorFacts) or all(user in sized for user in node.users):
        return False
    pending = [node]
    while pending:
        earlier = pending.pop()
        if earlier.op != "get_attr" and not is_view(earlier) and op_name(earlier) != "expand":
            return True
        pending.extend(earlier.all_input_nodes)
    return False


def _plain_axes(node: fx.Node) -> list[Expression] | None:
    """What each axis is, where none mixes items with other extents."""
    axes = axes_of(node)
    known = [axis for axis in axes or () if axis is not None]
    if axes is None or len(known) < len(axes):
        return None
    return known if all(axis == _ITEMS or BATCH not in axis.names for axis in known) else None


def _table(node: fx.Node, axes: Sequence[Expression], values: Sequence[ConstantValues]) -> torch.Tensor | None:
    """The values at the largest sizes, of one item; None where those at other sizes are not its beginning."""
    with torch.no_grad():
        whole = values[-1].value(node)
        for axis, what in enumerate(axes):
            whole = whole.narrow(axis, 0, 1) if what == _ITEMS else whole
        table: torch.Tensor = whole.detach().clone(memory_format=torch.contiguous_format)
        if table.numel() * table.element_size() > _MOST_BYTES:
            return None
        for value in values[:-1]:
            wanted = value.value(node)
            part = table
            for axis, what in enumerate(axes):
                if what != _ITEMS:
                    part = part.narrow(axis, 0, min(wanted.shape[axis], part.shape[axis]))
            if part.dim() != wanted.dim() or not torch.equal(part.expand_as(wanted), wanted):
                return None
    return table


def _reading(graph: fx.Graph, node: fx.Node, name: str, axes: Sequence[Expression], sampling: Sampling) -> fx.Node:
    with graph.inserting_before(node):
        made = graph.get_attr(name)
        for axis, what in enumerate(axes):
            if what.names and what != _ITEMS:
                bounds = (made, axis, 0, DimInt(what, sampling.one))
                made = graph.call_function(torch.ops.aten.slice.Tensor, bounds)
        if _ITEMS in axes:
            extents = [DimInt(what, sampling.one) if what == _ITEMS else -1 for what in axes]
            made = graph.call_function(torch.ops.aten.expand.default, (made, extents))
    made.meta = {"nn_module_stack": node.meta.get("nn_module_stack")}
    return made
