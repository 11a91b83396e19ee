"""Removes checks of shapes and dtypes, which hold once the model has been traced."""

from __future__ import annotations

from torch import fx

from edgecompile.frontend.capture.graphs import op_name

__all__ = ["drop_guards"]

_GUARDS = frozenset(
    {"_assert_tensor_metadata", "_assert_async", "_assert_scalar", "_assert", "sym_constrain_range_for_size"}
)


def drop_guards(graph_module: fx.GraphModule) -> int:
    """Erases guards that nothing reads."""
    guards = [node for node in graph_module.graph.nodes if op_name(node) in _GUARDS and not node.users]
    for node in guards:
        graph_module.graph.erase_node(node)
    return len(guards)
