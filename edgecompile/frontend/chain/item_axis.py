"""Finds the axis of each tensor that indexes the items of a microbatch, for wire formats with per-item scale.

Followed from the inputs, whose first axis it is, through the graph. Where an operator may have put it elsewhere it is
unknown, which costs bytes and never precision: such a tensor travels as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from edgecompile.frontend.capture.graphs import TensorFacts, facts_of, op_name

__all__ = ["find_item_axes", "item_axis_of"]

_KEEPS = frozenset(
    {"linear", "layer_norm", "rms_norm", "group_norm", "instance_norm", "batch_norm", "softmax", "_softmax",
     "log_softmax", "scaled_dot_product_attention", "matmul", "bmm", "baddbmm", "conv1d", "conv2d", "conv3d", "to",
     "_to_copy", "clone", "contiguous", "expand", "slice", "cat", "masked_fill", "where", "cumsum", "flip", "roll",
     "pad", "constant_pad_nd", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "__and__", "__or__", "__xor__",
     "topk", "sort", "split", "split_with_sizes", "chunk", "detach", "alias", "masked_fill_"}
)  # fmt: skip
"""Beside what torch itself tags as pointwise: an axis of the result is the argument's in the same place."""
_REDUCES = frozenset(
    {"mean", "sum", "amax", "amin", "max", "min", "argmax", "argmin", "any", "all", "var", "std", "prod", "logsumexp",
     "select", "linalg_vector_norm"}
)  # fmt: skip
"""One axis or several go, or shrink to one entry."""
_LOOKS_UP = frozenset({"embedding", "one_hot"})
_RESHAPES = frozenset({"reshape", "view", "_unsafe_view", "flatten", "unflatten", "unsqueeze", "squeeze"})
_SWAPS = frozenset({"transpose", "t", "permute", "numpy_T"})


def find_item_axes(graph: fx.Graph, microbatch: int) -> None:
    """Leaves `items` in each node's meta: how many elements in a row belong to one item before the next one's begin.

    The item of the element with the number n, in the order of the axes, is n // items modulo the microbatch.
    None where that is unknown, or the tensor belongs to no item.
    """
    for node in graph.nodes:
        if node.op == "placeholder":
            shape = facts_of(node)[0].shape
            node.meta["items"] = math.prod(shape[1:]) if shape else None
        elif node.op != "output":
            node.meta["items"] = _followed(node, microbatch)


def item_axis_of(node: fx.Node, microbatch: int) -> int | None:
    """The axis each of whose entries belongs to one item; None where there is none, or it is not known."""
    facts = node.meta.get("facts")
    if not isinstance(facts, TensorFacts) or not facts.shape:
        return None
    if microbatch == 1:
        return 0
    inner = node.meta.get("items")
    return None if not inner else _axis(facts.shape, inner, microbatch)


def _axis(shape: Sequence[int], inner: int, microbatch: int) -> int | None:
    for axis in range(len(shape)):
        after, own = math.prod(shape[axis + 1 :]), math.prod(shape[axis:])
        if after and inner % after == 0 and own % (inner * microbatch) == 0:
            return axis
    return None


def _followed(node: fx.Node, microbatch: int) -> int | None:
    facts = _first(node.meta.get("facts"))
    found = set()
    for argument in node.all_input_nodes:
        source, inner = _first(argument.meta.get("facts")), argument.meta.get("items")
        if facts is not None and source is not None and inner:
            found.add(_through(node, source.shape, facts.shape, inner, microbatch))
    return found.pop() if len(found) == 1 else None


def _first(facts: Any) -> TensorFacts | None:
    """Of several results all are taken to have the first one's axes."""
    while isinstance(facts, tuple) and facts:
        facts = facts[0]
    return facts if isinstance(facts, TensorFacts) else None


def _through(node: fx.Node, before: tuple[int, ...], after: tuple[int, ...], inner: int, microbatch: int) -> int | None:
    name = op_name(node)
    if (name == "getitem" and before == after) or (name in _RESHAPES and math.prod(before) == math.prod(after)):
        return inner
    axis = _axis(before, inner, microbatch)
    if axis is None:
        return None
    within = inner // max(1, math.prod(before[axis + 1 :]))
    move = _mover(node, before, after)
    place = move(axis) if move is not None else None
    if place is None or not 0 <= place < len(after) or after[place] != before[axis]:
        return None
    return within * math.prod(after[place + 1 :])


def _mover(node: fx.Node, before: tuple[int, ...], after: tuple[int, ...]) -> Callable[[int], int | None] | None:
    """From an axis of the argument to the same one of the result."""
    name = op_name(node)
    if name in _SWAPS:
        order = _order(node, len(before))
        return None if order is None else order.index
    if name in _REDUCES:
        return _after_reduction(node, before, after)
    if name in _LOOKS_UP:
        return lambda axis: axis
    pointwise = isinstance(node.target, torch._ops.OpOverload) and torch.Tag.pointwise in node.target.tags
    if pointwise or name in _KEEPS:
        return lambda axis: axis + len(after) - len(before)
    return _alone(before, after)


def _after_reduction(node: fx.Node, before: Sequence[int], after: Sequence[int]) -> Callable[[int], int | None] | None:
    given = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    named = given if isinstance(given, (list, tuple)) else [given]
    if not named or not all(isinstance(dim, int) for dim in named):
        return None
    gone = {int(dim) % len(before) for dim in named}  # type: ignore[arg-type]
    kept = len(before) == len(after)
    return lambda axis: None if axis in gone else axis if kept else axis - sum(dim < axis for dim in gone)


def _alone(before: Sequence[int], after: Sequence[int]) -> Callable[[int], int | None]:
    """Any other operator: the axis of that extent, if there is but one on both sides."""

    def place(axis: int) -> int | None:
        extent = before[axis]
        return list(after).index(extent) if list(before).count(extent) == 1 == list(after).count(extent) else None

    return place


def _order(node: fx.Node, rank: int) -> list[int] | None:
    """For each axis of the result the argument's."""
    name = op_name(node)
    given: list[Any] = [value for value in node.args[1:] if not isinstance(value, fx.Node)]
    order = list(range(rank))
    if name in ("t", "numpy_T"):
        return order[::-1]
    if node.kwargs:
        return None
    if name == "permute":
        dims = list(given[0]) if len(given) == 1 and isinstance(given[0], (list, tuple)) else given
        return [int(dim) % rank for dim in dims]
    first, second = (int(dim) % rank for dim in given)
    order[first], order[second] = second, first
    return order
