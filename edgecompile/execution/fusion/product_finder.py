"""Finds products of codes in a loaded shard's graph of TorchScript, and puts one call in the place of several.

Between two attentions a language model's rows go through products one behind the other: of what attention gave, of the
gate, of the way back, of the next queries, keys and values; with normalizations, gates and sums between them. A call of
Python costs as much as a small product, so all of it is one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from edgecompile.execution.fusion.fused_products import (
    FUSED_PRODUCTS,
    FusedProducts,
    Operand,
    Product,
    register_fused_products,
)
from edgecompile.execution.fusion.graph_nodes import constant_of, gate_of, inputs_of, normalization_of, share_out
from edgecompile.execution.fusion.product_kinds import KINDS, Codes, Kind, WeightRoom

__all__ = ["fuse_products"]

_PLACE = "edgecompile::product"
"""A node that stands for a product and what was put into it, until those that go together are one."""


def fuse_products(graph: Any, *, consume: bool = False) -> list[FusedProducts]:
    """Products whose weights are constants are computed together, with what stands between them.

    Args:
        graph: changed in place; it knows what is returned by its number, so that must be kept as long as it runs.
        consume: lets go of codes and scales, where nothing else reads them.
    """
    register_fused_products()
    found: dict[str, _Found] = {}
    for kind, nodes in _alike(graph):
        product = _described(kind, nodes, found)
        _put_place(graph, nodes, product)
        found[product.place.output().debugName()] = product
    if not found:
        return []
    for product in found.values():
        product.look_again()
    room = WeightRoom([product.packed_size() for product in found.values()])
    readers = _readers(graph, found.values()) if consume else None
    return [_put_call(graph, group, room, readers) for group in _groups(graph, found)]


@dataclass
class _Part:
    """A value of the graph, or a part of one."""

    value: Any
    size: int
    """How many numbers a row of the value has."""
    begin: int = 0


@dataclass
class _Found:
    """One product, while its operands are values of the graph."""

    kind: Kind
    codes: list[Codes]
    """Of the same activations, as of queries, keys and values: they are one."""
    x: _Part
    gated: _Part | None = None
    normalizing: torch.Tensor | None = None
    epsilon: float = 0.0
    added: _Part | None = None
    place: Any = None
    """The node that stands for it."""

    def operands(self) -> list[_Part]:
        return [part for part in (self.x, self.gated, self.added) if part is not None]

    def look_again(self) -> None:
        """For the values that it takes by now: what others compute has another one since they were found."""
        for part, value in zip(self.operands(), self.place.inputs(), strict=True):
            part.value = value

    def outs(self) -> list[int]:
        return [self.kind.shape(one.codes)[0] for one in self.codes]

    def packed_size(self) -> int:
        return self.kind.packed_size(sum(self.outs()), self.kind.shape(self.codes[0].codes)[1])

    def read(self) -> list[torch.Tensor]:
        return [value for one in self.codes for value in (one.codes, one.scale)]


# --- what is computed together ---------------------------------------------------------------------------------------


def _alike(graph: Any) -> list[tuple[Kind, list[Any]]]:
    """The products, in order: those of the same activations together."""
    kinds = {kind.operator: kind for kind in KINDS if kind.runs()}
    found: dict[tuple[str, str, bool], list[Any]] = {}
    for node in graph.nodes():
        kind = kinds.get(node.kind())
        if kind is None:
            continue
        x, *weights = node.inputs()
        if all(value.node().kind() == "prim::Constant" for value in weights) and kind.takes(_codes(node).codes):
            found.setdefault((node.kind(), x.debugName(), _codes(node).bias is not None), []).append(node)
    return [(kinds[operator], nodes) for (operator, *_), nodes in found.items()]


def _codes(node: Any) -> Codes:
    return Codes(*(value.toIValue() for value in list(node.inputs())[1:]))


def _described(kind: Kind, nodes: Sequence[Any], known: dict[str, _Found]) -> _Found:
    codes = [_codes(node) for node in nodes]
    x, size = nodes[0].inputsAt(0), kind.shape(codes[0].codes)[1]
    product = _Found(kind, codes, _Part(x, size))
    normal, gate = normalization_of(x), gate_of(x)
    if normal is not None and normal.weights.node().t("value").shape == (size,):
        product.x, product.epsilon = _part(normal.x, size, known), normal.epsilon
        product.normalizing = normal.weights.node().t("value").to(torch.float32).contiguous()
    elif gate is not None:
        product.x, product.gated = (_part(value, size, known) for value in gate)
    else:
        product.x = _part(x, size, known)
    product.added = _added(nodes, sum(product.outs()), known)
    return product


def _part(value: Any, size: int, known: dict[str, _Found]) -> _Part:
    """Of a product's result where it is cut out of one."""
    cut = inputs_of(value, "aten::slice")
    if cut is not None and cut[0].debugName() in known:
        whole, axis, begin, end, step = (cut[0], *(constant_of(bound) for bound in cut[1:]))
        if axis == -1 and step == 1 and isinstance(begin, int) and isinstance(end, int) and end - begin == size:
            return _Part(whole, sum(known[whole.debugName()].outs()), begin)
    return _Part(value, size)


def _added(nodes: Sequence[Any], out: int, known: dict[str, _Found]) -> _Part | None:
    """What a product is added to, and nothing else reads the product; a single channel may become wider."""
    uses = nodes[0].output().uses()
    node = uses[0].user if len(nodes) == 1 and len(uses) == 1 and out > 1 else None
    if node is None or node.kind() != "aten::add" or constant_of(node.inputsAt(2)) != 1:
        return None
    first, second = node.inputsAt(0), node.inputsAt(1)
    other = second if first.debugName() == nodes[0].output().debugName() else first
    return _part(other, out, known) if other.type().kind() == "TensorType" else None


def _put_place(graph: Any, nodes: Sequence[Any], product: _Found) -> None:
    """In the place of nodes, and of what was put into the product."""
    if product.added is not None:
        nodes = [nodes[0].output().uses()[0].user]
    first = nodes[0]
    before = [value.node() for node in nodes for value in node.inputs()]
    graph.setInsertPoint(first)
    product.place = graph.insertNode(graph.create(_PLACE, [part.value for part in product.operands()], 1))
    product.place.output().setType(first.output().type())
    share_out(graph, nodes, product.place.output(), product.outs())
    _remove(before)


def _remove(nodes: Sequence[Any]) -> None:
    """Nodes whose results nothing uses, and what was there for them alone."""
    kinds = ("aten::", "prim::ListConstruct", *(kind.operator for kind in KINDS))
    for node in {str(next(one.outputs()).debugName()): one for one in nodes}.values():
        if not node.kind().startswith(kinds) or node.kind().endswith("_"):
            continue
        if any(value.uses() for value in node.outputs()):
            continue
        before = [value.node() for value in node.inputs()]
        node.destroy()
        _remove(before)


def _groups(graph: Any, found: dict[str, _Found]) -> list[list[_Found]]:
    """Products that can be computed where the first of them stands: each takes a value that those before it know."""
    place = {value.debugName(): -1 for value in graph.inputs()}
    groups: list[list[_Found]] = []
    begin, known, results = 0, set[str](), set[str]()
    for index, node in enumerate(graph.nodes()):
        place.update((value.debugName(), index) for value in node.outputs())
        product = found.get(node.output().debugName()) if node.kind() == _PLACE else None
        if product is None:
            continue
        names = {part.value.debugName() for part in product.operands()}
        if not names & known or any(place[name] >= begin for name in names - results):
            groups.append([])
            begin, known, results = index, set(), set()
        groups[-1].append(product)
        results.add(node.output().debugName())
        known |= names | results
    return groups


# --- the call --------------------------------------------------------------------------------------------------------


def _readers(graph: Any, found: Any) -> Counter[int]:
    """How many nodes read what lies at an address: others than products, and each product."""
    nodes = [node for node in graph.findAllNodes("prim::Constant", recurse=True) if node.hasAttribute("value")]
    kept = [node.t("value") for node in nodes if node.kindOf("value") == "t" and node.output().uses()]
    return Counter(value.data_ptr() for value in [*kept, *(value for product in found for value in product.read())])


def _put_call(graph: Any, group: Sequence[_Found], room: WeightRoom, readers: Counter[int] | None) -> FusedProducts:
    """One node in the place of the group's."""
    for product in group:
        product.look_again()
    results = [product.place.output().debugName() for product in group]
    given: dict[str, _Part] = {}
    for part in (part for product in group for part in product.operands()):
        name = part.value.debugName()
        if name not in results and part.size >= given.get(name, part).size:
            given[name] = part
    order = {name: index for index, name in enumerate([*given, *results])}
    wanted = [_read_elsewhere(product.place.output(), results) for product in group]
    made = FusedProducts(
        [part.size for part in given.values()], [_packed(product, order, room) for product in group], wanted
    )
    if readers is not None:
        _let_go(group, readers)
    first = group[0].place
    graph.setInsertPoint(first)
    listed = graph.insertNode(graph.create("prim::ListConstruct", [part.value for part in given.values()], 1))
    call = graph.insertNode(graph.create(FUSED_PRODUCTS, [listed.output(), graph.insertConstant(made.number)], 1))
    for node in (listed, call):
        node.output().setType(torch._C.ListType(torch._C.TensorType.get()))
    asked = [product for product, one in zip(group, wanted, strict=True) if one]
    unpacked = graph.insertNode(graph.create("prim::ListUnpack", [call.output()], len(asked)))
    for product, value in zip(asked, unpacked.outputs(), strict=True):
        value.setType(torch._C.TensorType.get())
        product.place.output().replaceAllUsesWith(value)
    for product in reversed(group):
        product.place.destroy()
    return made


def _read_elsewhere(value: Any, own: Sequence[str]) -> bool:
    users = [use.user for use in value.uses()]
    return any(user.kind() != _PLACE or user.output().debugName() not in own for user in users)


def _packed(product: _Found, order: dict[str, int], room: WeightRoom) -> Product:
    def operand(part: _Part | None) -> Operand | None:
        return None if part is None else Operand(order[part.value.debugName()], part.begin)

    x = operand(product.x)
    assert x is not None
    weights = product.kind.pack(product.codes, room.take(product.packed_size()))
    return Product(weights=weights, x=x, gated=operand(product.gated), normalizing=product.normalizing,
                   epsilon=product.epsilon, added=operand(product.added))  # fmt: skip


def _let_go(group: Sequence[_Found], readers: Counter[int]) -> None:
    read = [value for product in group for value in product.read()]
    readers.subtract(value.data_ptr() for value in read)
    for value in read:
        if not readers[value.data_ptr()]:
            value.set_()  # type: ignore[call-overload]
