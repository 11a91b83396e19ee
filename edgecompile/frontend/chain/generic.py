"""Rewrites a stage's graph so that a trace of it holds for messages of any size.

A trace records what torch's methods do with `x.size(axis)` and forgets what plain numbers came from. So each number
that follows from the message's sizes is computed of a tensor that reaches the stage, and the operators that take it are
called in the form that a trace follows.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.nn import functional

from edgecompile.frontend.capture.dims import DimInt, Expression, NotSymbolic, is_sized, map_numbers
from edgecompile.frontend.capture.graphs import TensorFacts, op_name

__all__ = ["Extents", "check_generic", "generic_call", "generic_module"]

_ALIKE = ("reshape", "expand", "repeat", "select", "narrow", "new_ones", "new_zeros", "new_full", "new_empty",
          "unflatten", "view", "split_with_sizes", "tril", "triu")  # fmt: skip
"""Methods that take what the operator of that name takes."""
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "eq": torch.eq,
    "ne": torch.ne,
    "lt": torch.lt,
    "le": torch.le,
    "gt": torch.gt,
    "ge": torch.ge,
    "roll": torch.roll,
    "pad": functional.pad,
    "constant_pad_nd": lambda value, pad, fill=0: functional.pad(value, pad, value=fill),
}
_MADE = ("arange", "full", "zeros", "ones")
"""Tensors that are made of numbers alone."""
_ELSEWHERE = ("device", "layout", "pin_memory", "implicit")
"""Arguments that say nothing about the values."""


class Extents:
    """The numbers of one stage: each dimension is the size of some tensor that reaches it."""

    def __init__(self, graph: fx.Graph, taken: Sequence[tuple[fx.Node, Sequence[str | None]]]) -> None:
        """`taken`: the stage's tensors, with the dimension of each axis."""
        self._graph = graph
        self._places = {
            name: (node, axis) for node, dims in reversed(taken) for axis, name in enumerate(dims) if name is not None
        }
        self._made: dict[Expression, fx.Node] = {}
        self.anchor = taken[0][0] if taken else None
        """Some tensor that reaches the stage: what is made of numbers is made where it is."""

    def of(self, number: DimInt) -> fx.Node:
        """Raises NotSymbolic where nothing that reaches the stage has the dimension."""
        expression = number.expression
        if expression not in self._made:
            self._made[expression] = self._sum(expression)
        return self._made[expression]

    def _sum(self, expression: Expression) -> fx.Node:
        total: Any = None
        for names, factor in expression.terms.items():
            term: Any = factor if not names else None
            for name in names:
                size = self._size(name)
                term = size if term is None else self._graph.call_function(operator.mul, (term, size))
            if names and factor != 1:
                term = self._graph.call_function(operator.mul, (term, factor))
            total = term if total is None else self._graph.call_function(operator.add, (total, term))
        assert isinstance(total, fx.Node), expression.terms
        return total

    def _size(self, name: str) -> fx.Node:
        own = Expression({(name,): 1})
        if own not in self._made:
            if name not in self._places:
                raise NotSymbolic(f"a stage that needs {name} gets no tensor that has it")
            node, axis = self._places[name]
            self._made[own] = self._graph.call_method("size", (node, axis))
        return self._made[own]


def check_generic(graph: fx.Graph) -> None:
    """Raises NotSymbolic where an operator takes a number that varies and a trace cannot follow it."""
    for node in graph.nodes:
        if is_sized(node):
            name = op_name(node)
            known = name in _FUNCTIONS or name in _ALIKE or name in _MADE or name == "slice"
            if node.op != "call_function" or not known or (name == "arange" and _step(node.args) not in (1, -1)):
                raise NotSymbolic(f"its operator {name or node.op} takes an extent that varies")


def generic_call(graph: fx.Graph, node: fx.Node, extents: Extents, copied: Callable[[fx.Node], fx.Node]) -> fx.Node:
    """The operator in `graph`, with its numbers computed there."""
    args, kwargs = map_numbers((node.args, node.kwargs), extents.of)
    args, kwargs = (
        fx.map_arg(part, lambda item: copied(item) if item.graph is node.graph else item) for part in (args, kwargs)
    )
    kwargs = {key: value for key, value in kwargs.items() if key not in _ELSEWHERE}
    name = op_name(node)
    if name == "slice":
        value, dim, *bounds = args
        return _sliced(graph, value, int(dim) % _rank(node), *bounds, **kwargs)
    if name in _MADE:
        return _made(graph, name, args, extents.anchor, _dtype(node))
    if name in _ALIKE:
        return graph.call_method(name, tuple(args), kwargs)
    return graph.call_function(_FUNCTIONS[name], tuple(args), kwargs)


def generic_module(captured: fx.GraphModule, input_dims: Sequence[Sequence[str | None]]) -> fx.GraphModule:
    """The whole graph for messages of any size, to be traced."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    places = [node for node in captured.graph.nodes if node.op == "placeholder"]
    for node in places:
        copies[node] = graph.node_copy(node)
    extents = Extents(graph, [(copies[node], dims) for node, dims in zip(places, input_dims, strict=True)])
    for node in captured.graph.nodes:
        if node.op == "placeholder":
            continue
        if is_sized(node):
            copies[node] = generic_call(graph, node, extents, copies.__getitem__)
        else:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    return fx.GraphModule(captured, graph, class_name="Model").eval()


def _made(graph: fx.Graph, name: str, args: Sequence[Any], anchor: fx.Node | None, dtype: torch.dtype) -> fx.Node:
    """On the device of `anchor`, which a trace cannot name."""
    assert anchor is not None, "a stage that takes nothing"
    if name in ("zeros", "ones"):
        return graph.call_method(f"new_{name}", (anchor, args[0]), {"dtype": dtype})
    if name == "full":
        return graph.call_method("new_full", (anchor, args[0], args[1]), {"dtype": dtype})
    start, end = (0, args[0]) if len(args) == 1 else args[:2]
    step = _step(args)
    count = graph.call_function(operator.mul, (graph.call_function(operator.sub, (end, start)), step))
    ones = graph.call_method("new_ones", (anchor, [count]), {"dtype": torch.int64})
    places = graph.call_function(torch.mul, (graph.call_method("cumsum", (ones, 0)), step))
    counted = graph.call_function(torch.sub, (graph.call_function(torch.add, (places, start)), step))
    return counted if dtype is torch.int64 else graph.call_method("to", (counted, dtype))


def _step(args: Sequence[Any]) -> Any:
    return args[2] if len(args) > 2 else 1


def _dtype(node: fx.Node) -> torch.dtype:
    facts = node.meta.get("facts")
    dtype: torch.dtype = getattr(torch, facts.dtype) if isinstance(facts, TensorFacts) else node.meta["val"].dtype
    return dtype


def _rank(node: fx.Node) -> int:
    facts = node.meta.get("facts")
    return len(facts.shape if isinstance(facts, TensorFacts) else node.meta["val"].shape)


def _sliced(
    graph: fx.Graph, value: fx.Node, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> fx.Node:
    end = None if isinstance(end, int) and end >= 2**62 else end
    assert dim >= 0, "an axis that counts from the end"
    return graph.call_function(operator.getitem, (value, (*[slice(None)] * dim, slice(start, end, step))))
