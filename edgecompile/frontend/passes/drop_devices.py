"""Removes device names from the graph, so that a shard runs on any device."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edgecompile.frontend.capture.graphs import facts_of, op_name

__all__ = ["drop_devices"]

_CASTS = frozenset({"to", "_to_copy", "cpu", "cuda"})


def drop_devices(graph_module: fx.GraphModule) -> int:
    """Turns `to(device, dtype)` into a cast or nothing, and drops device arguments elsewhere."""
    changed = 0
    for node in list(graph_module.graph.nodes):
        if not _names_device(node):
            continue
        if op_name(node) in _CASTS:
            _replace_cast(graph_module.graph, node)
        else:
            node.kwargs = {key: value for key, value in node.kwargs.items() if key not in ("device", "pin_memory")}
        changed += 1
    return changed


def _names_device(node: fx.Node) -> bool:
    values: list[Any] = [*node.args, *node.kwargs.values()]
    if any(isinstance(value, torch.device) for value in values) or node.kwargs.get("device") is not None:
        return True
    # The method may take a device's name; aten's operators take devices alone.
    name = op_name(node)
    return node.op == "call_method" and name in _CASTS and (name != "to" or any(isinstance(v, str) for v in values))


def _replace_cast(graph: fx.Graph, node: fx.Node) -> None:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    dtype = facts_of(node)[0].dtype
    if dtype == facts_of(source)[0].dtype:
        node.replace_all_uses_with(source)
    else:
        with graph.inserting_before(node):
            cast = graph.call_function(torch.ops.aten.to.dtype, (source, getattr(torch, dtype)))
        cast.meta = dict(node.meta)
        node.replace_all_uses_with(cast)
    graph.erase_node(node)
