"""Puts operators of a rank's own in place of the patterns that models write, in a loaded shard's graph of TorchScript.

Rotary position embeddings move into attention, which rotates as it reads; normalization, and what gates a product, go
with the scaling of the activations for the next one, where `fusion` has not put them into one call with the products.
What is not used any more stays: eliminate dead code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgecompile.execution.attention import ATTEND
from edgecompile.execution.fusion.graph_nodes import constant_of, gate_of, inputs_of, normalization_of
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
        known = first.setdefault((whole.debugName(), constant_of(axis)), node)
        if known is not node:
            node.output().replaceAllUsesWith(known.output())


# --- rows ------------------------------------------------------------------------------------------------------------


def _fold_normalization(graph: Any) -> int:
    folded = 0
    for node in graph.findAllNodes("aten::mul", recurse=False):
        normal = normalization_of(node.output())
        if normal is None:
            continue
        folded += 1
        graph.setInsertPoint(node)
        found = [normal.x, normal.weights, graph.insertConstant(normal.epsilon)]
        uses = [use.user for use in node.output().uses()]
        if all(user.kind() == SCALE for user in uses):
            for user in uses:
                _put(graph, user, NORMALIZE_AND_SCALE, found)
        else:
            _put(graph, node, NORMALIZE, found)
    return folded


def _fold_gates(graph: Any) -> int:
    """silu(gate) * up, where nothing but the next product takes it."""
    folded = 0
    for node in graph.findAllNodes(SCALE, recurse=False):
        product = node.inputsAt(0)
        gate = gate_of(product)
        if gate is not None and len(product.uses()) == 1:
            _put(graph, node, GATE_AND_SCALE, list(gate))
            folded += 1
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
    added = inputs_of(value, "aten::add")
    if added is None or constant_of(added[2]) != 1:
        return None
    plain, turned = inputs_of(added[0], "aten::mul"), inputs_of(added[1], "aten::mul")
    if plain is None or turned is None:
        return None
    (x, cos), (other, sin) = plain, turned
    joined = inputs_of(other, "aten::cat")
    if joined is None or constant_of(joined[1]) not in (-1, 3):
        return None
    parts = inputs_of(joined[0], "prim::ListConstruct")
    if parts is None or len(parts) != 2:
        return None
    negated, first = inputs_of(parts[0], "aten::neg"), inputs_of(parts[1], "aten::slice")
    second = None if negated is None else inputs_of(negated[0], "aten::slice")
    if first is None or second is None:
        return None
    half = first[3]
    alike = first[0].debugName() == second[0].debugName() == x.debugName()
    last = all(constant_of(part[1]) in (-1, 3) and constant_of(part[4]) == 1 for part in (first, second))
    whole = constant_of(first[2]) in (0, None) and constant_of(second[2]) == constant_of(half) and _ends(second[3])
    return _Rotated(x, cos, sin, half) if alike and last and whole and isinstance(constant_of(half), int) else None


def _ends(value: Any) -> bool:
    """Whether a slice goes to the end: export writes the largest number that there is."""
    end = constant_of(value)
    return end is None or (isinstance(end, int) and end >= 2**31)
