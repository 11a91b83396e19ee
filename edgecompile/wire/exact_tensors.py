"""Finds the tensors of a boundary that must not be encoded lossily: masks, ids and the like.

Rounded, a mask lets through what it should hide: bfloat16 turns the least float into -inf, half precision clips it, and
a code for every value between it and zero leaves one code for all the rest. Decided before scheduling, so that the
scheduler's bytes are those that travel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx

from edgecompile.frontend.capture.graphs import attribute, constant_nodes, facts_of, op_name
from edgecompile.frontend.chain.units import Boundary, Chain
from edgecompile.frontend.golden.eager import groups_of

__all__ = ["LARGEST_ENCODED", "keep_exact"]

LARGEST_ENCODED = 8192.0
"""Larger values stand for infinity (older models mask with -10,000), or would cost all others their precision."""

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_READS_ROWS = frozenset({"embedding", "index_select", "gather", "index"})
_WRITES_VALUES = frozenset({"masked_fill", "masked_fill_", "where", "full", "full_like", "new_full", "fill", "fill_"})


def keep_exact(chain: Chain, golden: Sequence[torch.Tensor], microbatch: int, lossy: bool) -> Chain:
    """The chain, with the float32 tensors marked that no wire format may encode.

    These are the ones that are computed from whole numbers and truth values alone, without weights, those that are
    filled with values beyond LARGEST_ENCODED, and those that on the golden items hold such, infinities, NaN, or two
    values.

    Args:
        golden: one tensor an input, the golden items first.
        lossy: whether the plan may encode anything. If not, the graph is run only where it writes such values.
    """
    graph_module = chain.captured.graph_module
    inner = [tensor for boundary in chain.boundaries[1:-1] for tensor in boundary.tensors]
    candidates = {tensor.node for tensor in inner if tensor.dtype == "float32"}
    exact = candidates & _computed_without_weights(graph_module)
    exact |= {node for node in candidates if op_name(node) in _WRITES_VALUES and _reads_extremes(graph_module, node)}
    if candidates and (lossy or _writes_extremes(graph_module)):
        exact |= _extreme(graph_module, golden, microbatch, candidates)
    return replace(chain, boundaries=tuple(_marked(boundary, exact) for boundary in chain.boundaries))


def _marked(boundary: Boundary, exact: set[fx.Node]) -> Boundary:
    tensors = tuple(replace(tensor, exact=True) if tensor.node in exact else tensor for tensor in boundary.tensors)
    return replace(boundary, tensors=tensors)


def _computed_without_weights(graph_module: fx.GraphModule) -> set[fx.Node]:
    """Nodes that depend on no float but for single numbers, and on no product."""
    found: set[fx.Node] = set()
    for node in graph_module.graph.nodes:
        floats = any(item.dtype.startswith(("float", "bfloat")) for item in facts_of(node))
        if node.op == "placeholder":
            plain = not floats
        elif node.op == "get_attr":
            plain = not floats or all(math.prod(item.shape) == 1 for item in facts_of(node))
        else:
            plain = op_name(node) not in _READS_ROWS and not _is_product(node)
        if plain and node.op != "output" and all(argument in found for argument in node.all_input_nodes):
            found.add(node)
    return found - constant_nodes(graph_module.graph)


def _is_product(node: fx.Node) -> bool:
    """Whether it computes more than an operation or two for each of its results, or holds weights of its own."""
    return node.op == "call_module" or int(node.meta["flops"]) > 2 * sum(
        math.prod(item.shape) for item in facts_of(node)
    )


def _writes_extremes(graph_module: fx.GraphModule) -> bool:
    """Whether anything in the graph may bring values beyond the limit into its tensors."""
    nodes = graph_module.graph.nodes
    return any(op_name(node) in _WRITES_VALUES or _reads_extremes(graph_module, node) for node in nodes)


def _reads_extremes(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a number or a constant that the operator reads is beyond the limit."""
    if any(_is_extreme(value) for value in (*node.args, *node.kwargs.values()) if isinstance(value, float)):
        return True
    stored = [argument for argument in node.all_input_nodes if argument.op == "get_attr"]
    values = [attribute(graph_module, str(argument.target)) for argument in stored]
    return any(
        _is_extreme(float(end))
        for value in values
        if isinstance(value, torch.Tensor)
        and value.dtype in _FLOATS
        and value.layout is torch.strided
        and value.numel()
        for end in value.detach().aminmax()
    )


def _is_extreme(value: float) -> bool:
    return not abs(value) <= LARGEST_ENCODED


@dataclass
class _Seen:
    """What the values of one tensor have been."""

    is_extreme: bool = False
    ends: set[float] = field(default_factory=set)
    """The least and the largest value of every microbatch."""
    inside: bool = False
    """Whether anything lay between the two."""

    def add(self, value: torch.Tensor) -> None:
        if not value.numel():
            return
        low, high = (float(item) for item in value.aminmax())  # NaN where there is one
        self.is_extreme = self.is_extreme or _is_extreme(low) or _is_extreme(high)
        if not self.inside:
            self.ends.update((low, high))
            self.inside = len(self.ends) > 2 or not bool(((value == low) | (value == high)).all())

    @property
    def is_exact(self) -> bool:
        return self.is_extreme or (len(self.ends) == 2 and not self.inside)


def _extreme(
    graph_module: fx.GraphModule, golden: Sequence[torch.Tensor], microbatch: int, candidates: set[fx.Node]
) -> set[fx.Node]:
    """The candidates that hold two values, or values beyond the limit, on the golden items."""
    seen = {node: _Seen() for node in candidates}
    watching = _Watching(graph_module, seen)
    # A model that fails on its golden items is refused in the user's words when the eager model runs.
    with suppress(Exception), torch.no_grad():
        for group in groups_of(len(golden[0]), microbatch):
            watching.run(*(value[group] for value in golden))
    return {node for node, values in seen.items() if values.is_exact}


class _Watching(fx.Interpreter):
    def __init__(self, graph_module: fx.GraphModule, seen: dict[fx.Node, _Seen]) -> None:
        super().__init__(graph_module)
        self._seen = seen

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n in self._seen:
            self._seen[n].add(result)
        return result
