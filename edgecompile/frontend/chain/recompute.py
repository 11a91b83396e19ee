"""Sends a smaller tensor in place of a larger one that the receiver can recompute with cheap operators.

A mask (B, 1, T, T) that came from one of (B, T) travels as that one, and an expanded view as what it shows.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from edgecompile.frontend.capture.graphs import TensorFacts, facts_of, is_view, op_name

__all__ = ["find_sources", "sources_of"]

_CHEAP = frozenset(
    {"to", "_to_copy", "clone", "contiguous", "reshape", "expand", "repeat", "tile", "where", "masked_fill",
     "__and__", "__or__", "__xor__", "outer"}
)  # fmt: skip
"""Beside what torch itself tags as pointwise."""
_MOST_OPERATORS = 24
"""That a stage may run again for one tensor."""
_RANDOM = ("rand", "bernoulli", "normal", "dropout", "exponential", "uniform")


def find_sources(graph: fx.Graph, constant: set[fx.Node]) -> None:
    """Leaves `sources` in each node's meta: the tensors that travel where it is alive at a cut, mostly itself alone.

    `remade`: it is computed of them, not only viewed: they must be exact, since a comparison makes little errors large.
    """
    operators: dict[fx.Node, int] = {}
    for node in graph.nodes:
        node.meta["sources"], node.meta["remade"], operators[node] = (node,), False, 0
        if node.op == "output" or node in constant or not _is_cheap(node):
            continue
        varying = [argument for argument in node.all_input_nodes if argument not in constant]
        found = tuple(dict.fromkeys(item for argument in varying for item in sources_of(argument)))
        count = 1 + sum(operators[argument] for argument in varying)
        own = _num_bytes(node)
        fixed = sum(_dense_bytes(argument) for argument in node.all_input_nodes if argument in constant)
        size = sum(_num_bytes(item) for item in found)
        smaller = size < own or (size == own and is_view(node))  # two views of one tensor shall travel as that one
        if smaller and fixed <= own and count <= _MOST_OPERATORS:
            node.meta["sources"], operators[node] = found, count
            node.meta["remade"] = not is_view(node) or any(argument.meta.get("remade") for argument in varying)


def sources_of(node: fx.Node) -> tuple[fx.Node, ...]:
    """Itself where nothing smaller is known."""
    sources: tuple[fx.Node, ...] = node.meta.get("sources", (node,))
    return sources


def _is_cheap(node: fx.Node) -> bool:
    """One tensor of tensors, element by element, or in another place; the same at every run."""
    if node.op not in ("call_function", "call_method") or node.meta.get("writes"):
        return False
    if not all(isinstance(item.meta.get("facts"), TensorFacts) for item in (node, *node.all_input_nodes)):
        return False
    name = op_name(node)
    if "as_strided" in name or any(word in name for word in _RANDOM):
        return False
    return is_view(node) or name in _CHEAP or _is_pointwise(node.target)


def _is_pointwise(target: Any) -> bool:
    return isinstance(target, torch._ops.OpOverload) and torch.Tag.pointwise in target.tags


def _num_bytes(node: fx.Node) -> int:
    return sum(item.num_bytes for item in facts_of(node))


def _dense_bytes(node: fx.Node) -> int:
    """Of a constant: what it takes in memory, where an expanded view takes no more than what it shows."""
    total = 0
    for item in facts_of(node):
        elements = math.prod(item.shape)
        kept = math.prod(extent for extent, stride in zip(item.shape, item.strides, strict=True) if stride)
        total += item.num_bytes * min(kept, elements) // max(1, elements)
    return total
