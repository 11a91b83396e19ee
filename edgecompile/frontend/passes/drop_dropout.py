"""Removes dropout operators, which do nothing in eval mode."""

from __future__ import annotations

from torch import fx

from edgecompile.frontend.capture.graphs import called_module, drop_each, op_name

__all__ = ["drop_dropout"]

_NAMES = frozenset(
    {
        "dropout", "dropout1d", "dropout2d", "dropout3d", "alphadropout", "featurealphadropout", "alpha_dropout",
        "feature_dropout", "feature_alpha_dropout", "dropout_", "alpha_dropout_", "feature_dropout_",
    }
)  # fmt: skip


def drop_dropout(graph_module: fx.GraphModule) -> int:
    """Replaces each dropout by its input, but for those that drop in eval mode too, which are random."""
    return drop_each(graph_module.graph, _passed_on)


def _passed_on(node: fx.Node) -> object:
    if op_name(node) not in _NAMES:
        return None
    if node.op == "call_module":
        drops = called_module(node).training
    else:
        # torch.nn.functional's have p and training by name or in these places; so do the operators of aten.
        drops = node.args[2] if len(node.args) > 2 else node.kwargs.get("training", node.kwargs.get("train", True))
    first = next(iter([*node.args, *node.all_input_nodes]), None)
    return None if drops else first
