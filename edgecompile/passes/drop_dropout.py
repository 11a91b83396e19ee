"""Drops dropout, which passes its input on in eval mode."""

from __future__ import annotations

from torch import fx

from edgecompile.graphs import op_name

__all__ = ["drop_dropout"]

_NAMES = frozenset(
    {"dropout", "dropout1d", "dropout2d", "dropout3d", "alphadropout", "alpha_dropout", "feature_dropout", "dropout_"}
)


def drop_dropout(graph_module: fx.GraphModule) -> int:
    """Replaces each dropout by its input."""
    dropped = 0
    for node in list(graph_module.graph.nodes):
        if op_name(node) in _NAMES and isinstance(node.args[0], fx.Node):
            node.replace_all_uses_with(node.args[0])
            graph_module.graph.erase_node(node)
            dropped += 1
    return dropped
