"""Removes attention masks that keep everything: attention is faster without, and no mask crosses a cut."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx

from edgecompile.frontend.capture.graphs import TensorFacts, constant_nodes, op_name
from edgecompile.frontend.capture.sampling import extents_of, sampling_in
from edgecompile.frontend.passes.fold_constants import ConstantValues

__all__ = ["drop_true_masks"]

_MASK = 3  # the place of the mask among the arguments of scaled_dot_product_attention
_AND = frozenset({"__and__", "bitwise_and", "logical_and", "and_"})


def drop_true_masks(graph_module: fx.GraphModule) -> int:
    """Removes constant masks that keep all (true, or zero where added), and conjunctions with all-true tensors."""
    constant = constant_nodes(graph_module.graph)
    sampling = sampling_in(graph_module.graph)
    values = [ConstantValues(graph_module, sizes) for sizes in (sampling.checked if sampling else (None,))]
    dropped = 0
    for node in list(graph_module.graph.nodes):
        if op_name(node) == "scaled_dot_product_attention":
            mask = node.args[_MASK] if len(node.args) > _MASK else node.kwargs.get("attn_mask")
            if isinstance(mask, fx.Node) and mask in constant and _keeps_all(mask, values):
                _remove_mask(node)
                dropped += 1
        elif op_name(node) in _AND and len(node.all_input_nodes) == 2:
            dropped += _drop_conjunction(graph_module.graph, node, constant, values)
    return dropped


def _keeps_all(mask: fx.Node, values: Sequence[ConstantValues]) -> bool:
    """At all sizes that a message may have."""
    return all(_is_open(value.value(mask)) for value in values)


def _is_open(mask: torch.Tensor) -> bool:
    return bool(mask.all()) if mask.dtype == torch.bool else not bool(mask.any())


def _remove_mask(node: fx.Node) -> None:
    if len(node.args) > _MASK:
        node.args = (*node.args[:_MASK], None, *node.args[_MASK + 1 :])
    else:
        node.kwargs = {name: value for name, value in node.kwargs.items() if name != "attn_mask"}


def _drop_conjunction(graph: fx.Graph, node: fx.Node, constant: set[fx.Node], values: Sequence[ConstantValues]) -> int:
    """`all_true & x` is x, widened to the shape of both."""
    for mine, other in (node.all_input_nodes, node.all_input_nodes[::-1]):
        facts, theirs = node.meta["facts"], other.meta.get("facts")
        if mine not in constant or other in constant or not isinstance(theirs, TensorFacts):
            continue
        if facts.dtype != "bool" or theirs.dtype != "bool" or not _keeps_all(mine, values):
            continue
        extents = extents_of(node)
        if extents is None:
            continue
        with graph.inserting_before(node):
            wide = graph.call_function(torch.ops.aten.expand.default, (other, extents))
        wide.meta = {key: value for key, value in node.meta.items() if key == "nn_module_stack"}
        node.replace_all_uses_with(wide)
        graph.erase_node(node)
        return 1
    return 0
