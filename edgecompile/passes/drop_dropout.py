"""Drops dropout, which passes its input on in eval mode; in training mode purity.check_graph has refused it."""

from __future__ import annotations

from torch import fx

from edgecompile.graphs import drop_each, op_name

__all__ = ["drop_dropout"]

_NAMES = frozenset(
    {
        "dropout", "dropout1d", "dropout2d", "dropout3d", "alphadropout", "featurealphadropout", "alpha_dropout",
        "feature_dropout", "feature_alpha_dropout", "dropout_", "alpha_dropout_", "feature_dropout_",
    }
)  # fmt: skip


def drop_dropout(graph_module: fx.GraphModule) -> int:
    """Replaces each dropout by its input."""
    return drop_each(graph_module.graph, lambda node: node.args[0] if op_name(node) in _NAMES else None)
