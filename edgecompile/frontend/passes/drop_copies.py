"""Removes copies that the trace introduced and that nothing needs.

Copies for an operator that reads their layout stay (settle_layouts).
"""

from __future__ import annotations

from torch import fx

from edgecompile.frontend.capture.graphs import TensorFacts, drop_each, op_name
from edgecompile.frontend.passes.settle_layouts import reads_layout

__all__ = ["drop_copies"]

_COPIES = frozenset({"clone", "contiguous", "detach", "alias", "lift_fresh_copy", "detach_copy"})


def drop_copies(graph_module: fx.GraphModule) -> int:
    """Replaces each copy by what it copies; a reshape that needs the copy's layout makes one itself."""
    return drop_each(graph_module.graph, _copied)


def _copied(node: fx.Node) -> fx.Node | None:
    source = node.args[0] if node.args else None
    if op_name(node) not in _COPIES or not isinstance(source, fx.Node):
        return None
    if any(reads_layout(user) for user in node.users):
        return None
    mine, theirs = node.meta.get("facts"), source.meta.get("facts")
    if not isinstance(mine, TensorFacts) or not isinstance(theirs, TensorFacts):
        return None
    # A copy of a lazy conjugate or negative holds its values: that is what resolve_conj becomes when decomposed.
    same = (mine.dtype, mine.conjugated, mine.negated) == (theirs.dtype, theirs.conjugated, theirs.negated)
    return source if same else None
