"""Moves each view to its readers, one copy per reader, so that a cut sends the tensor and not its views."""

from __future__ import annotations

from torch import fx

from edgecompile.frontend.capture.graphs import TensorFacts, facts_of, is_view

__all__ = ["sink_views"]


def sink_views(graph_module: fx.GraphModule) -> int:
    """Sinks views that are as large as what they view. A view that selects a part stays with its producer."""
    moved = 0
    for node in reversed(list(graph_module.graph.nodes)):
        if not sinks(node):
            continue
        readers = list(node.users)
        for reader in readers:
            if reader.op == "output":
                continue
            with graph_module.graph.inserting_before(reader):
                twin = graph_module.graph.node_copy(node, lambda argument: argument)
            twin.meta = dict(node.meta)
            reader.replace_input_with(node, twin)
            moved += 1
        if not node.users:
            graph_module.graph.erase_node(node)
    return moved


def sinks(node: fx.Node) -> bool:
    """Whether this view belongs with its reader: one tensor, no smaller than the tensor that it views."""
    if not is_view(node) or not isinstance(node.meta.get("facts"), TensorFacts) or "as_strided" in str(node.target):
        return False
    if len(node.all_input_nodes) != 1:
        return False
    source = node.all_input_nodes[0].meta.get("facts")
    return isinstance(source, TensorFacts) and facts_of(node)[0].num_bytes >= source.num_bytes
