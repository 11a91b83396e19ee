"""Removes operators that return their argument unchanged: casts to the same dtype, views of the same shape."""

from __future__ import annotations

from torch import fx

from edgecompile.frontend.capture.graphs import TensorFacts, drop_each, is_view
from edgecompile.frontend.capture.sampling import axes_of

__all__ = ["drop_identities"]


def drop_identities(graph_module: fx.GraphModule) -> int:
    """Replaces each view that equals its only tensor argument, in shape, strides and dtype, by that argument."""
    return drop_each(graph_module.graph, _unchanged)


def _unchanged(node: fx.Node) -> fx.Node | None:
    if not is_view(node) or node.op == "get_attr" or len(node.all_input_nodes) != 1:
        return None
    (source,) = node.all_input_nodes
    facts = node.meta["facts"]
    # A view at an offset has the same facts only when nothing was cut off, since the sizes are equal.
    same = isinstance(facts, TensorFacts) and facts == source.meta["facts"] and _keeps_order(node)
    same = same and axes_of(node) == axes_of(source)
    return source if same else None


def _keeps_order(node: fx.Node) -> bool:
    """Transposes of equal extents over stride 0 or size 1 have equal facts too: harmless. as_strided may not."""
    return "as_strided" not in str(node.target)
