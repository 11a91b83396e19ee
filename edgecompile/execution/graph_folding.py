"""Puts operators of a rank's own in place of the patterns that models write, in a loaded shard's graph of TorchScript.

Rotary position embeddings move into attention, which rotates as it reads; normalization, and what gates a product, go
with the scaling of the activations for the next one. What is not used any more stays: eliminate dead code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from edgecompile.execution.attention import ATTEND
from edgecompile.execution.row_kernels import (
    GATE_AND_SCALE,
    NORMALIZE,
    NORMALIZE_AND_SCALE,
    SCALE,
    register_row_kernels,
)

__all__ = ["fold_graph"]


def fold_graph(graph: Any) -> int:
    """Of a language model's stage, changed in place; returns how many patterns it found."""
    register_row_kernels()
    _merge_views(graph)
    return _fold_rotations(graph) + _fold_normalization(graph) + _fold_gates(graph)


def _merge_views(graph: Any) -> None:
    """Angles of rotations are unsqueezed for queries and for keys, in each layer: the same view is one value.

    A stage computes views again rather than receive them; torch's own pass keeps those of what the stage also sends.
    """
    first: dict[tuple[str, Any], Any] = {}
    for node in graph.findAllNodes("aten::unsqueeze", recurse=False):
        whole, axis = node.inputs()
        known = first.setdefault((whole.debugName(), _constant(axis)), node)
        if known is not node:
            node.output().replaceAllUsesWith(known.output())


# --- rows ------------------------------------------------------------------------------------------------------------


def _fold_normalization(graph: Any) -> int:
    """Of the root mean square, transformers': weights * (x * rsqrt(mean(x ** 2) + epsilon))."""
    folded = 0
    for node in graph.findAllNodes("aten::mul", recurse=False):
        found = _normalization(graph, node)
        if found is None:
            continue
        folded += 1
        uses = [use.user for use in node.output().uses()]
        if all(user.kind() == SCALE for user in uses):
            for user in uses:
                _put(graph, user, NORMALIZE_AND_SCALE, found)
        else:
            _put(graph, node, NORMALIZE, found)
    return folded


def _normalization(graph: Any, node: Any) -> list[Any] | None:
    """x, the weights and epsilon; None: it is something else."""
    for weights, normal in (list(node.inputs()), list(node.inputs())[::-1]):
        factors = _inputs(normal, "aten::mul")
        if factors is None or not _is_vector(weights):
            continue
        x, root = factors
        inside = _inputs(root, "aten::rsqrt")
        added = None if inside is None else _inputs(inside[0], "aten::add")
        mean = None if added is None else _inputs(added[0], "aten::mean")
        power = None if mean is None else _inputs(mean[0], "aten::pow")
        if added is None or mean is None or power is None:
            continue
        axes = _inputs(mean[1], "prim::ListConstruct")
        last = (axes is not None and [_constant(axis) for axis in axes] == [-1]) or _constant(mean[1]) == [-1]
        squares = _constant(power[1]) == 2 and power[0].debugName() == x.debugName()
        epsilon = _constant(added[1])
        if isinstance(epsilon, torch.Tensor) and epsilon.dim() == 0:  # as export writes numbers
            epsilon = float(epsilon)
        if last and squares and isinstance(epsilon, float) and _constant(added[2]) == 1:
            graph.setInsertPoint(node)
            return [x, weights, graph.insertConstant(epsilon)]
    return None


def _fold_gates(graph: Any) -> int:
    """silu(gate) * up, where nothing but the next product takes it."""
    folded = 0
    for node in graph.findAllNodes(SCALE, recurse=False):
        product = node.inputsAt(0)
        factors = _inputs(product, "aten::mul")
        if factors is None or len(product.uses()) != 1:
            continue
        for one, up in (factors, factors[::-1]):
            gate = _inputs(one, "aten::silu")
            if gate is not None:
                _put(graph, node, GATE_AND_SCALE, [gate[0], up])
                folded += 1
                break
    return folded


def _put(graph: Any, node: Any, kind: str, inputs: list[Any]) -> None:
    """Another operator in the place of a node, with the same results."""
    graph.setInsertPoint(node)
    made = graph.create(kind, inputs, node.outputsSize())
    graph.insertNode(made)
    for old, new in zip(list(node.outputs()), list(made.outputs()), strict=True):
        new.setType(old.type())
        old.replaceAllUsesWith(new)
    node.destroy()


def _is_vector(value: Any) -> bool:
    return bool(value.node().kind() == "prim::Constant" and value.type().kind() == "TensorType"
                and value.node().t("value").dim() == 1)  # fmt: skip


# --- attention -------------------------------------------------------------------------------------------------------


def _fold_rotations(graph: Any) -> int:
    folded = 0
    for node in graph.findAllNodes(ATTEND, recurse=False):
        q, k, *rest = node.inputs()
        of_queries, of_keys = _rotation(q), _rotation(k)
        if of_queries is None or of_keys is None or of_queries.angles() != of_keys.angles():
            continue
        rotation = [of_queries.cos, of_queries.sin, of_queries.half]
        _put(graph, node, f"{ATTEND}_rotated", [of_queries.x, of_keys.x, rest[0], *rotation, *rest[1:]])
        folded += 1
    return folded


@dataclass(frozen=True)
class _Rotated:
    """Values of a graph: x * cos + cat(-x[..., half:], x[..., :half]) * sin, as transformers writes it."""

    x: Any
    cos: Any
    sin: Any
    half: Any

    def angles(self) -> tuple[str, str, int]:
        return self.cos.debugName(), self.sin.debugName(), self.half.toIValue()


def _rotation(value: Any) -> _Rotated | None:
    """How a value is rotated; None: it is not."""
    added = _inputs(value, "aten::add")
    if added is None or _constant(added[2]) != 1:
        return None
    plain, turned = _inputs(added[0], "aten::mul"), _inputs(added[1], "aten::mul")
    if plain is None or turned is None:
        return None
    (x, cos), (other, sin) = plain, turned
    joined = _inputs(other, "aten::cat")
    if joined is None or _constant(joined[1]) not in (-1, 3):
        return None
    parts = _inputs(joined[0], "prim::ListConstruct")
    if parts is None or len(parts) != 2:
        return None
    negated, first = _inputs(parts[0], "aten::neg"), _inputs(parts[1], "aten::slice")
    second = None if negated is None else _inputs(negated[0], "aten::slice")
    if first is None or second is None:
        return None
    half = first[3]
    alike = first[0].debugName() == second[0].debugName() == x.debugName()
    last = all(_constant(part[1]) in (-1, 3) and _constant(part[4]) == 1 for part in (first, second))
    whole = _constant(first[2]) in (0, None) and _constant(second[2]) == _constant(half) and _ends(second[3])
    return _Rotated(x, cos, sin, half) if alike and last and whole and isinstance(_constant(half), int) else None


# --- values ----------------------------------------------------------------------------------------------------------


def _inputs(value: Any, kind: str) -> list[Any] | None:
    """Of the node that makes a value, if it is of that kind."""
    node = value.node()
    return list(node.inputs()) if node.kind() == kind else None


def _constant(value: Any) -> Any:
    return value.toIValue() if value.node().kind() == "prim::Constant" else value


def _ends(value: Any) -> bool:
    """Whether a slice goes to the end: export writes the largest number that there is."""
    end = _constant(value)
    return end is None or (isinstance(end, int) and end >= 2**31)
