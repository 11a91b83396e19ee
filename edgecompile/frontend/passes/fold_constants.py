"""Computes at compile time whatever does not depend on the inputs: position ids, masks, biases."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from edgecompile.frontend.capture.dims import NotSymbolic, Sizes, is_sized, map_numbers
from edgecompile.frontend.capture.graphs import TensorFacts, attribute, facts_of, is_view, op_name
from edgecompile.frontend.capture.sampling import axes_of

__all__ = ["ConstantValues", "fold_constants"]

_MOST_BYTES = 64 << 20
_SHAPE_ONLY = frozenset(
    {"zeros_like", "ones_like", "full_like", "fill", "new_zeros", "new_ones", "new_full", "empty_like", "new_empty"}
)
_UNINITIALISED = frozenset({"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "empty_permuted"})
_RANDOM = ("rand", "bernoulli", "multinomial", "normal", "dropout", "exponential", "uniform")


def fold_constants(graph_module: fx.GraphModule) -> int:
    """Replaces constant results by buffers `folded_N`. Views stay operators, so that no weight is copied."""
    graph = graph_module.graph
    constant = _constants(graph)
    folder = ConstantValues(graph_module)
    folded = 0
    for node in list(graph.nodes):
        if node not in constant or not _worth_folding(node, constant):
            continue
        with torch.no_grad():
            value = folder.value(node)
        name = f"folded_{folded}"
        while hasattr(graph_module, name):
            name += "_"
        graph_module.register_buffer(name, value.detach().clone(memory_format=torch.contiguous_format))
        with graph.inserting_before(node):
            replacement = graph.get_attr(name)
        replacement.meta = {key: value for key, value in node.meta.items() if key != "view"}
        node.replace_all_uses_with(replacement)
        folded += 1
    return folded


def _constants(graph: fx.Graph) -> set[fx.Node]:
    constant: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op in ("placeholder", "output") or any(word in op_name(node) for word in _RANDOM):
            continue
        if is_sized(node) or (op_name(node) in _SHAPE_ONLY and _varies(node)):
            continue  # what follows from the sizes of the message
        shape_only = node.args[0] if node.args and op_name(node) in _SHAPE_ONLY else None
        read = [item for item in node.all_input_nodes if item is not shape_only]
        if all(argument in constant for argument in read):
            constant.add(node)
    return constant


def _varies(node: fx.Node) -> bool:
    axes = axes_of(node)
    return axes is not None and any(axis is None or axis.names for axis in axes)


def _worth_folding(node: fx.Node, constant: set[fx.Node]) -> bool:
    """Real work with one tensor as its result that is read by a view or by what is not constant."""
    facts = node.meta.get("facts")
    if node.op == "get_attr" or is_view(node) or not isinstance(facts, TensorFacts):
        return False
    if not any(user not in constant or is_view(user) for user in node.users):
        return False
    sources = sum(item.num_bytes for argument in node.all_input_nodes for item in facts_of(argument))
    return bool(facts.num_bytes <= max(_MOST_BYTES, sources))


class ConstantValues:
    """Runs constant nodes on real values; only the results of work are kept, not weights."""

    def __init__(self, graph_module: fx.GraphModule, sizes: Sizes | None = None) -> None:
        """`sizes`: of the message, for constants that follow from them; None: those that the graph has now."""
        self.graph_module, self.sizes = graph_module, sizes
        self.known: dict[fx.Node, Any] = {}

    def value(self, node: fx.Node) -> Any:
        if node not in self.known:
            self.known[node] = self._compute(node)
        return self.known[node]

    def _compute(self, node: fx.Node) -> Any:
        value = self._run(node)
        # Uninitialised memory would be different bytes in every compilation.
        return torch.zeros_like(value) if op_name(node) in _UNINITIALISED else value

    def _plain(self, arguments: Any) -> Any:
        sizes = self.sizes
        return arguments if sizes is None else map_numbers(arguments, lambda number: number.expression.at(sizes))

    def _shape(self, node: fx.Node) -> tuple[int, ...]:
        axes = axes_of(node)
        if self.sizes is None or axes is None:
            return facts_of(node)[0].shape
        if any(axis is None for axis in axes):
            raise NotSymbolic(f"the shape of {node} does not follow from the dimensions")
        return tuple(axis.at(self.sizes) for axis in axes if axis is not None)

    def _run(self, node: fx.Node) -> Any:
        if node.op == "get_attr":
            value = attribute(self.graph_module, str(node.target))
            return value.detach() if isinstance(value, nn.Parameter) else value
        if op_name(node) in _SHAPE_ONLY:
            first, *rest = node.args
            assert isinstance(first, fx.Node)
            facts = facts_of(first)[0]
            args: tuple[Any, ...] = (
                torch.empty(self._shape(first), dtype=getattr(torch, facts.dtype)),
                *fx.map_arg(self._plain(tuple(rest)), self.value),
            )
        else:
            args = fx.map_arg(self._plain(node.args), self.value)
        kwargs = fx.map_arg(self._plain(node.kwargs), self.value)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        if node.op == "call_module":
            return attribute(self.graph_module, str(node.target))(*args, **kwargs)
        assert callable(node.target)
        return node.target(*args, **kwargs)
