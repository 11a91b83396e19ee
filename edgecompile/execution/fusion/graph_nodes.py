"""Reads and rewrites nodes of TorchScript's graphs, and knows the patterns that models write between products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["Normalization", "constant_of", "gate_of", "inputs_of", "normalization_of", "share_out"]


def inputs_of(value: Any, kind: str) -> list[Any] | None:
    """Of the node that makes a value, if it is of that kind."""
    node = value.node()
    return list(node.inputs()) if node.kind() == kind else None


def constant_of(value: Any) -> Any:
    """What a value always is; the value itself where nobody knows."""
    return value.toIValue() if value.node().kind() == "prim::Constant" else value


def share_out(graph: Any, nodes: Sequence[Any], result: Any, sizes: Sequence[int]) -> None:
    """Each node's part of the common result takes its place."""
    end = 0
    for node, size in zip(nodes, sizes, strict=True):
        begin, end, part = end, end + size, result
        if len(nodes) > 1:
            bounds = [graph.insertConstant(number) for number in (-1, begin, end, 1)]
            cut = graph.create("aten::slice", [result, *bounds], 1)
            part = graph.insertNode(cut).output()
        node.output().replaceAllUsesWith(part)
    for node in nodes:
        node.destroy()


@dataclass(frozen=True)
class Normalization:
    """Of the root mean square, transformers': weights * (x * rsqrt(mean(x ** 2) + epsilon))."""

    x: Any
    weights: Any
    """Values of the graph; the weights are a constant vector."""
    epsilon: float


def normalization_of(value: Any) -> Normalization | None:
    """How a value is normalized; None: it is not."""
    found = inputs_of(value, "aten::mul")
    for weights, normal in () if found is None else (found, found[::-1]):
        factors = inputs_of(normal, "aten::mul")
        if factors is None or not _is_vector(weights):
            continue
        x, root = factors
        inside = inputs_of(root, "aten::rsqrt")
        added = None if inside is None else inputs_of(inside[0], "aten::add")
        mean = None if added is None else inputs_of(added[0], "aten::mean")
        power = None if mean is None else inputs_of(mean[0], "aten::pow")
        if added is None or mean is None or power is None:
            continue
        axes = inputs_of(mean[1], "prim::ListConstruct")
        last = (axes is not None and [constant_of(axis) for axis in axes] == [-1]) or constant_of(mean[1]) == [-1]
        squares = constant_of(power[1]) == 2 and power[0].debugName() == x.debugName()
        epsilon = constant_of(added[1])
        if isinstance(epsilon, torch.Tensor) and epsilon.dim() == 0:  # as export writes numbers
            epsilon = float(epsilon)
        if last and squares and isinstance(epsilon, float) and constant_of(added[2]) == 1:
            return Normalization(x, weights, epsilon)
    return None


def gate_of(value: Any) -> tuple[Any, Any] | None:
    """gate and up of silu(gate) * up; None: it is something else."""
    factors = inputs_of(value, "aten::mul")
    for one, up in () if factors is None else (factors, factors[::-1]):
        gate = inputs_of(one, "aten::silu")
        if gate is not None:
            return gate[0], up
    return None


def _is_vector(value: Any) -> bool:
    return bool(value.node().kind() == "prim::Constant" and value.type().kind() == "TensorType"
                and value.node().t("value").dim() == 1)  # fmt: skip
