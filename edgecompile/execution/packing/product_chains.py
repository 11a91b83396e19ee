"""Finds products of weights of four bits in a graph of TorchScript, and puts one call in the place of several.

Between two attentions a language model's rows go through products one behind the other: of what attention gave, of the
gate, of the way back, of the next queries, keys and values; with normalizations, gates and sums between them. An
operator of Python costs as much as a small product, so all of it is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from edgecompile.execution.packing.packed_products import (
    MULTIPLY,
    MULTIPLY_AND_KEEP,
    Product,
    pack_products,
    register_packed_products,
)

__all__ = ["pack_chains"]

_PRODUCT, _NORMALIZE = "edgecompile::linear_weights4", "edgecompile::normalize_rows"


@dataclass
class _Step:
    """Products of the same rows, and what is computed before and behind them."""

    nodes: list[Any]
    norm: Any = None
    add: Any = None
    gated: bool = False
    """The step before gives what silu is of, and what its result is multiplied by."""

    def source(self) -> Any:
        """The value that it reads."""
        return self.nodes[0].inputsAt(0) if self.norm is None else self.norm.inputsAt(0)

    def results(self) -> list[Any]:
        return [self.add.output()] if self.add is not None else [node.output() for node in self.nodes]

    def kept(self) -> Any:
        """The value that is added."""
        first, second = self.add.inputsAt(0), self.add.inputsAt(1)
        return second if first.debugName() == self.nodes[0].output().debugName() else first

    def product(self) -> Product:
        read = [(node.inputsAt(1).node().t("value"), node.inputsAt(2).node().t("value")) for node in self.nodes]
        norm = None if self.norm is None else self.norm.inputsAt(1).node().t("value")
        return Product(
            codes=torch.cat([codes for codes, _ in read]),
            scale=torch.cat([scale for _, scale in read], 1),
            norm=norm,
            epsilon=0.0 if self.norm is None else self.norm.inputsAt(2).toIValue(),
            gated=self.gated,
            bias=self.nodes[0].inputsAt(3).toIValue(),
            added=self.add is not None,
        )

    def sizes(self) -> list[int]:
        return [len(node.inputsAt(1).node().t("value")) for node in self.nodes]


@dataclass
class _Chain:
    steps: list[_Step]
    kept: Any = None
    """The value whose rows are kept behind the last step."""
    inside: dict[str, int] = field(default_factory=dict)
    """Results of its steps, by name, and how many channels they have."""

    def uses_outside(self, value: Any) -> bool:
        own = {node.output().debugName() for step in self.steps for node in (step.norm, step.add) if node is not None}
        return any(_name(use.user) not in own for use in value.uses())


def pack_chains(graph: Any, *, consume: bool = False) -> list[torch.Tensor]:
    """Rewrites the products of 4 bits, where their weights are constants of the graph.

    Args:
        graph: changed in place, normalizations are folded; it takes the tensors that are returned behind its inputs.
        consume: lets go of the codes and scales themselves, where nothing else reads them.
    """
    register_packed_products()
    torch._C._jit_pass_dce(graph)  # what was folded still reads the rows
    given = []
    for chain in _chains(list(_steps(graph))):
        nodes = [node for step in chain.steps for node in step.nodes]
        read = [node.inputsAt(index).node().t("value") for node in nodes for index in (1, 2)]
        given.append(pack_products([step.product() for step in chain.steps]))
        _replace(graph, chain)
        torch._C._jit_pass_dce(graph)
        if consume:
            _let_go(graph, read)
    return given


def _let_go(graph: Any, values: Sequence[torch.Tensor]) -> None:
    nodes = [node for node in graph.findAllNodes("prim::Constant", recurse=True) if node.hasAttribute("value")]
    read = {node.t("value").data_ptr() for node in nodes if node.kindOf("value") == "t"}
    for own in values:
        if own.data_ptr() not in read:
            own.set_()  # type: ignore[call-overload]


def _steps(graph: Any) -> Iterator[_Step]:
    """In order; products of the same activations are one, as of queries, keys and values."""
    found: dict[object, list[Any]] = {}
    for node in graph.findAllNodes(_PRODUCT, recurse=False):
        x, codes, scale, bias = node.inputs()
        if any(value.node().kind() != "prim::Constant" for value in (codes, scale, bias)):
            continue
        found.setdefault(x.debugName() if bias.toIValue() is None else node, []).append(node)
    for nodes in found.values():
        step = _Step(nodes)
        x = nodes[0].inputsAt(0)
        if len(x.uses()) == len(nodes) and _is_normal(x):
            step.norm = x.node()
        if len(nodes) == 1:
            step.add = _sum_with_stream(nodes[0].output())
        yield step


def _chains(steps: Sequence[_Step]) -> Iterator[_Chain]:
    """Each step continues the chain before if that is all that it reads.

    A chain is replaced before the next one is made, which may read its results.
    """
    chain: _Chain | None = None
    for step in steps:
        if chain is not None and _follows(chain, step):
            _append(chain, step)
            continue
        if chain is not None:
            yield chain
        chain = _Chain([])
        if step.norm is None and step.add is not None:
            chain.kept = step.kept()
        _append(chain, step)
    if chain is not None:
        yield chain


def _append(chain: _Chain, step: _Step) -> None:
    if step.norm is not None:
        chain.kept = step.source()
    if step.add is not None and (chain.kept is None or chain.kept.debugName() != step.kept().debugName()):
        step.add = None
    chain.steps.append(step)
    if len(results := step.results()) == 1:
        chain.inside[results[0].debugName()] = sum(step.sizes())


def _follows(chain: _Chain, step: _Step) -> bool:
    last = chain.steps[-1].results()
    gate = _gate(step.nodes[0].inputsAt(0)) if len(step.nodes) == 1 and step.norm is None else None
    if gate is not None:
        names = [value.debugName() for value in gate]
        if sorted(value.debugName() for value in last) != sorted(names):
            return False
        chain.steps[-1].nodes.sort(key=lambda node: names.index(node.output().debugName()))
        step.gated = True
        return True
    if step.norm is None or len(last) != 1 or step.source().debugName() != last[0].debugName():
        return False
    return chain.kept is None or chain.kept.debugName() not in chain.inside or not chain.uses_outside(chain.kept)


def _replace(graph: Any, chain: _Chain) -> None:
    """One call for all; what was there before is of no use then."""
    first, last = chain.steps[0], chain.steps[-1]
    graph.setInsertPoint(first.nodes[0] if first.add is None else first.add)
    place = graph.addInput()
    place.setType(torch._C.TensorType.get())
    given = first.kept() if first.add is not None and first.norm is None else graph.insertConstant(None)
    sizes = last.sizes()
    inputs = [first.source(), given, place, graph.insertConstant(sum(sizes))]
    keeps = chain.kept is not None and chain.kept.debugName() in chain.inside and chain.uses_outside(chain.kept)
    if keeps:
        inputs.append(graph.insertConstant(chain.inside[chain.kept.debugName()]))
    made = graph.insertNode(graph.create(MULTIPLY_AND_KEEP if keeps else MULTIPLY, inputs, 2 if keeps else 1))
    whole, *rest = made.outputs()
    if keeps:
        chain.kept.replaceAllUsesWith(rest[0])
    results, end = last.results(), 0
    for value, size in zip(results, sizes if len(results) > 1 else [sum(sizes)], strict=True):
        begin, end, part = end, end + size, whole
        if len(results) > 1:
            bounds = [graph.insertConstant(number) for number in (-1, begin, end, 1)]
            part = graph.insertNode(graph.create("aten::slice", [whole, *bounds], 1)).output()
        value.replaceAllUsesWith(part)


# --- patterns --------------------------------------------------------------------------------------------------------


def _is_normal(value: Any) -> bool:
    node = value.node()
    if node.kind() != _NORMALIZE or any(node.inputsAt(index).node().kind() != "prim::Constant" for index in (1, 2)):
        return False
    users = [use.user for use in value.uses()]
    weights = node.inputsAt(1).node().t("value")
    return all(
        user.kind() == _PRODUCT and weights.shape == (2 * user.inputsAt(1).node().t("value").shape[1],)
        for user in users
    )


def _gate(value: Any) -> tuple[Any, Any] | None:
    """silu(gate) * up, which nothing else reads."""
    if value.node().kind() != "aten::mul" or len(value.uses()) != 1:
        return None
    factors = list(value.node().inputs())
    for one, up in (factors, factors[::-1]):
        if one.node().kind() != "aten::silu" or len(one.uses()) != 1 or len(up.uses()) != 1:
            continue
        gate = one.node().inputsAt(0)
        if len(gate.uses()) == 1 and gate.node().kind() == up.node().kind() == _PRODUCT:
            return gate, up
    return None


def _sum_with_stream(value: Any) -> Any:
    """The node that adds a value to a stream, which is normalized before or behind it; nothing else reads the value."""
    uses = value.uses()
    if len(uses) != 1 or uses[0].user.kind() != "aten::add":
        return None
    node = uses[0].user
    first, second, factor = node.inputs()
    if factor.node().kind() != "prim::Constant" or factor.toIValue() != 1:
        return None
    other = second if first.debugName() == value.debugName() else first
    readers = [use.user.kind() for use in (*other.uses(), *node.output().uses())]
    return node if _NORMALIZE in readers else None


def _name(node: Any) -> str:
    """Of its first result; of what returns a graph's: none."""
    return str(next(node.outputs()).debugName()) if node.outputsSize() else ""
