"""Replaces what the graph computes from shapes and dtypes by literal numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

__all__ = ["fold_literals"]


def fold_literals(graph_module: fx.GraphModule) -> int:
    """Writes each number into the arguments of its readers; shapes are fixed once the model is captured."""
    folded = 0
    for node in list(graph_module.graph.nodes):
        literal = node.meta.get("literal")
        if literal is None or node.op in ("placeholder", "get_attr", "output"):
            continue
        value: Any = tuple(literal) if isinstance(literal, torch.Size) else literal
        for reader in list(node.users):
            reader.args = _with(reader.args, node, value)
            reader.kwargs = _with(reader.kwargs, node, value)
        graph_module.graph.erase_node(node)
        folded += 1
    return folded


def _with(arguments: Any, old: fx.Node, new: Any) -> Any:
    return fx.map_arg(arguments, lambda item: new if item is old else item)
