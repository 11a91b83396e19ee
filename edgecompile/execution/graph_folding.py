"""Puts operators of a rank's own in place of the patterns that models write, in a loaded shard's graph of TorchScript.

Rotary position embeddings move into attention, which rotates as it reads; normalization, and what gates a product, go
with the scaling of the activations for the next one, or with the products of eight bits into stretches. What is not
used any more stays: eliminate dead code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from edgecompile.execution.attention import ATTEND
from edgecompile.execution.integer_kernels import join_products
from edgecompile.execution.low_precision import LINEAR_INT8
from edgecompile.execution.row_kernels import (
    GATE_AND_SCALE,
    NORMALIZE,
    NORMALIZE_AND_SCALE,
    SCALE,
    STRETCH,
    Link,
    Operand,
    PackedWeights,
    Stretch,
    native,
    register_row_kernels,
)

__all__ = ["fold_graph", "fold_products"]


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
        gate = _gate(product)
        if gate is not None and len(product.uses()) == 1:
            _put(graph, node, GATE_AND_SCALE, gate)
            folded += 1
    return folded


def _gate(value: Any) -> list[Any] | None:
    """gate and up of silu(gate) * up; None: it is something else."""
    factors = _inputs(value, "aten::mul")
    for one, up in () if factors is None else (factors, factors[::-1]):
        gate = _inputs(one, "aten::silu")
        if gate is not None:
            return [gate[0], up]
    return None


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


# --- products --------------------------------------------------------------------------------------------------------


def fold_products(graph: Any, *, consume: bool = False) -> list[Stretch]:
    """Products of eight bits whose weights are constants become stretches, with what stands between them.

    Args:
        graph: changed in place; it takes the stretches by their numbers, so they must be kept as long as it runs.
        consume: lets go of the codes themselves.
    """
    register_row_kernels()
    join_products(graph)
    found: dict[str, _Product] = {}
    for node in graph.findAllNodes(LINEAR_INT8, recurse=False):
        product = _product(graph, node, found)
        if product is None:
            continue
        product.consumed = consume and len(node.inputsAt(1).uses()) == 1
        _put_product(graph, node, product)
        found[product.result.debugName()] = product
    room = PackedWeights([product.weights[0].shape for product in found.values()])
    return [_put_stretch(graph, group, room) for group in _groups(graph, found)]


@dataclass
class _Product:
    """One link of a stretch, while its operands are values of the graph."""

    weights: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]
    """Codes, scale and bias."""
    x: _Part
    gated: _Part | None = None
    normalizing: torch.Tensor | None = None
    epsilon: float = 0.0
    added: _Part | None = None
    behind: Any = None
    """The node whose result is the link's."""
    result: Any = None
    consumed: bool = False
    """Whether the codes are let go of once they are packed."""

    def operands(self) -> list[_Part]:
        return [part for part in (self.x, self.gated, self.added) if part is not None]


@dataclass
class _Part:
    """A value of the graph, or a part of one."""

    value: Any
    size: int
    """How many numbers a row of the value has."""
    begin: int = 0


def _product(graph: Any, node: Any, found: dict[str, _Product]) -> _Product | None:
    """How a product is computed; None: not in a stretch."""
    x, *weights = node.inputs()
    if any(value.node().kind() != "prim::Constant" for value in weights):
        return None
    codes, scale = (value.node().t("value") for value in weights[:2])
    bias = weights[2].toIValue()
    size = codes.shape[1]
    if codes.dim() != 2 or size > native.most_summed or len(codes) == 0:
        return None
    product = _Product((codes, scale, bias), _Part(x, size), behind=node)
    normal = _normalization(graph, x.node()) if x.node().kind() == "aten::mul" else None
    gate = _gate(x)
    if normal is not None and normal[1].node().t("value").shape == (size,):
        product.x, product.normalizing = _part(normal[0], size, found), normal[1].node().t("value").contiguous()
        product.epsilon = _constant(normal[2])
    elif gate is not None:
        product.x, product.gated = (_part(value, size, found) for value in gate)
    uses = node.output().uses()
    added = uses[0].user if len(uses) == 1 else None
    if added is not None and added.kind() == "aten::add" and _constant(added.inputsAt(2)) == 1:
        (other,) = [value for value in list(added.inputs())[:2] if value.debugName() != node.output().debugName()] or [
            None
        ]
        if other is not None and other.type().kind() == "TensorType":
            product.added, product.behind = _part(other, len(codes), found), added
    return product


def _part(value: Any, size: int, found: dict[str, _Product]) -> _Part:
    """Of a product's result where it is cut out of one."""
    cut = _inputs(value, "aten::slice")
    if cut is not None and cut[0].debugName() in found:
        whole, axis, begin, end, step = (cut[0], *(_constant(bound) for bound in cut[1:]))
        if axis == -1 and step == 1 and isinstance(begin, int) and isinstance(end, int) and end - begin == size:
            return _Part(whole, len(found[whole.debugName()].weights[1]), begin)
    return _Part(value, size)


def _put_product(graph: Any, node: Any, product: _Product) -> None:
    """In the place of a node and of what was put into the product: a node that stands for a link."""
    graph.setInsertPoint(product.behind)
    made = graph.create("edgecompile::link", [part.value for part in product.operands()], 1)
    graph.insertNode(made)
    product.result = made.output()
    product.result.setType(product.behind.output().type())
    product.behind.output().replaceAllUsesWith(product.result)
    _remove(product.behind)
    product.behind = made


def _remove(node: Any) -> None:
    """A node that nothing uses, and what was there for it alone."""
    if not node.kind().startswith(("aten::", "prim::ListConstruct", LINEAR_INT8)) or node.kind().endswith("_"):
        return
    if any(value.uses() for value in node.outputs()):
        return
    before = [value.node() for value in node.inputs()]
    node.destroy()
    for other in {str(id(one)): one for one in before}.values():
        _remove(other)


def _groups(graph: Any, found: dict[str, _Product]) -> list[list[_Product]]:
    """Products that can be computed where the first of them stands: each takes a value that those before it know."""
    place = {value.debugName(): -1 for value in graph.inputs()}
    groups: list[list[_Product]] = []
    begin, known, results = 0, set[str](), set[str]()
    for index, node in enumerate(graph.nodes()):
        place.update((value.debugName(), index) for value in node.outputs())
        product = found.get(node.output().debugName()) if node.kind() == "edgecompile::link" else None
        if product is None:
            continue
        names = {part.value.debugName() for part in product.operands()}
        if not names & known or any(place[name] >= begin for name in names - results):
            groups.append([])
            begin, known, results = index, set(), set()
        groups[-1].append(product)
        results.add(product.result.debugName())
        known |= names | results
    return groups


def _put_stretch(graph: Any, group: Sequence[_Product], room: PackedWeights) -> Stretch:
    """One node in the place of the group's."""
    for product in group:  # what a stretch before this one computes has another value by now
        for part, value in zip(product.operands(), product.behind.inputs(), strict=True):
            part.value = value
    results = [product.result.debugName() for product in group]
    given = {part.value.debugName(): part for product in group for part in product.operands()
             if part.value.debugName() not in results}  # fmt: skip
    order = [*given, *results]

    def operand(part: _Part | None) -> Operand | None:
        return None if part is None else Operand(order.index(part.value.debugName()), part.begin)

    links = []
    for product in group:
        (codes, scale, bias), num_inputs = product.weights, product.weights[0].shape[1]
        x = operand(product.x)
        assert x is not None
        links.append(Link(packed=room.add(codes), scale=scale.contiguous(), bias=bias, num_inputs=num_inputs,
                          x=x, gated=operand(product.gated), normalizing=product.normalizing, epsilon=product.epsilon,
                          added=operand(product.added)))  # fmt: skip
        if product.consumed:
            codes.set_()  # type: ignore[call-overload]
    nodes = [product.behind for product in group]
    own = set(results)

    def is_own(user: Any) -> bool:
        return user.kind() == "edgecompile::link" and user.output().debugName() in own

    wanted = [any(not is_own(use.user) for use in product.result.uses()) for product in group]
    made = Stretch([part.size for part in given.values()], links, wanted)
    graph.setInsertPoint(nodes[0])
    listed = graph.create("prim::ListConstruct", [part.value for part in given.values()], 1)
    listed.output().setType(torch._C.ListType(torch._C.TensorType.get()))
    graph.insertNode(listed)
    call = graph.create(STRETCH, [listed.output(), graph.insertConstant(made.number)], 1)
    call.output().setType(torch._C.ListType(torch._C.TensorType.get()))
    graph.insertNode(call)
    asked = [product for product, one in zip(group, wanted, strict=True) if one]
    parts = graph.create("prim::ListUnpack", [call.output()], len(asked))
    graph.insertNode(parts)
    for product, value in zip(asked, parts.outputs(), strict=True):
        value.setType(torch._C.TensorType.get())
        product.result.replaceAllUsesWith(value)
    for node in reversed(nodes):
        node.destroy()
    return made


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
