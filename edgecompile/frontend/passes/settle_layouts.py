"""Makes operators that depend on a tensor's memory layout correct wherever a cut may fall.

A shard's inputs arrive contiguous, at an offset in a message's buffer, and passes drop copies: so what such an operator
reads gets a copy of its own, laid out as the model had it. Runs before all passes, and cannot be switched off.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.overrides import TorchFunctionMode

from edgecompile.frontend.capture.graphs import TensorFacts, is_view, op_name

__all__ = ["BitViews", "reads_layout", "settle_layouts", "view_bits"]

_STRIDED = frozenset({"as_strided", "as_strided_", "as_strided_copy", "as_strided_scatter"})


def settle_layouts(graph_module: fx.GraphModule) -> int:
    """Rewrites `as_strided` over whole tensors, `view_as_complex` as a sum of parts, and views of other dtypes."""
    settled = 0
    for node in list(graph_module.graph.nodes):
        if op_name(node) == "view_as_complex":
            settled += _settle_complex(graph_module.graph, node)
        elif op_name(node) in _STRIDED:
            settled += _settle_strided(graph_module.graph, node)
        elif op_name(node) == "view":
            settled += _settle_bits(graph_module.graph, node)
    return settled


def reads_layout(node: fx.Node) -> bool:
    """Whether the operator depends on its argument's strides or offset; its argument must keep its copies."""
    return op_name(node) in _STRIDED or node.target is view_bits


@functools.cache
def _scripted() -> Any:
    jit: Any = torch.jit  # does not export it to type checkers
    return jit.CompilationUnit(
        """
    def view_bits(value: Tensor, dtype: int):
        return torch.view_copy(value, dtype=dtype)
    """
    )


def view_bits(value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`value.view(dtype)`, copied: TorchScript takes the dtype of the other for a shape."""
    jit: Any = getattr(torch, "jit", None)
    if jit is not None and jit.is_tracing():
        bits: torch.Tensor = _scripted().view_bits(value, dtype)
        return bits
    return torch.view_copy(value, dtype=dtype)


class BitViews(TorchFunctionMode):
    """Lets a module that has not been captured be traced: `value.view(dtype)` becomes view_bits."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        given = [*args[1:], *kwargs.values()]
        if func is torch.Tensor.view and len(given) == 1 and isinstance(given[0], torch.dtype):
            return view_bits(args[0], given[0])
        return func(*args, **kwargs)


def _settle_bits(graph: fx.Graph, node: fx.Node) -> int:
    source = node.args[0] if node.args else None
    mine, theirs = node.meta["facts"], source.meta.get("facts") if isinstance(source, fx.Node) else None
    if not isinstance(source, fx.Node) or not isinstance(mine, TensorFacts) or not isinstance(theirs, TensorFacts):
        return 0
    if mine.dtype == theirs.dtype:
        return 0
    copy = _copy(graph, node, source)
    node.op, node.target = "call_function", view_bits
    node.args, node.kwargs = (copy, getattr(torch, mine.dtype)), {}
    return 1


def _copy(graph: fx.Graph, reader: fx.Node, source: fx.Node) -> fx.Node:
    with graph.inserting_before(reader):
        copy = graph.call_function(torch.ops.aten.clone.default, (source,), {"memory_format": torch.contiguous_format})
    copy.meta = {"nn_module_stack": reader.meta.get("nn_module_stack")}
    return copy


def _settle_complex(graph: fx.Graph, node: fx.Node) -> int:
    (source,) = node.all_input_nodes
    with graph.inserting_before(node):
        parts = tuple(graph.call_function(torch.ops.aten.select.int, (source, -1, index)) for index in (0, 1))
        value = graph.call_function(torch.ops.aten.complex.default, parts)
    for made in (*parts, value):
        made.meta = {"nn_module_stack": node.meta.get("nn_module_stack")}
    node.replace_all_uses_with(value)
    graph.erase_node(node)
    return 1


def _settle_strided(graph: fx.Graph, node: fx.Node) -> int:
    """`as_strided` means the storage: the tensor that all of it belongs to is copied in that storage's order.

    Left alone where no tensor of the graph is the whole storage without gaps.
    """
    source = node.args[0]
    if not isinstance(source, fx.Node) or not isinstance(source.meta.get("facts"), TensorFacts):
        return 0
    facts, whole = source.meta["facts"], _whole(source)
    base = whole.meta["facts"]
    order = sorted(range(len(base.shape)), key=lambda dim: (-base.strides[dim], dim))
    scatters = op_name(node) == "as_strided_scatter"
    plain = whole is source and order == list(range(len(order)))
    if not _is_dense(base, order) or base.dtype != facts.dtype or (scatters and not plain):
        return 0
    names = ("size", "stride", "storage_offset")
    given = dict(zip(names, node.args[2 if scatters else 1 :], strict=False)) | {
        name: value for name, value in node.kwargs.items() if name in names
    }
    if given.get("storage_offset") is None:
        given["storage_offset"] = facts.offset
    arguments: list[Any] = [given[name] for name in names]
    with graph.inserting_before(node):
        if order != list(range(len(order))):
            whole = graph.call_function(torch.ops.aten.permute.default, (whole, order))
            whole.meta = {"nn_module_stack": node.meta.get("nn_module_stack")}
    copy = _copy(graph, node, whole)
    if scatters:
        node.args = (copy, node.args[1], *arguments)
    else:
        node.op, node.target = "call_function", torch.ops.aten.as_strided.default
        node.args = (copy, *arguments)
    node.kwargs = {}
    return 1


def _whole(node: fx.Node) -> fx.Node:
    """The tensor that this one is a view of, through views of views."""
    while is_view(node):
        storages = {item.storage for item in (node.meta["facts"],) if isinstance(item, TensorFacts)}
        sources = [
            argument
            for argument in node.all_input_nodes
            if isinstance(facts := argument.meta.get("facts"), TensorFacts) and facts.storage in storages
        ]
        if len(sources) != 1:
            return node
        node = sources[0]
    return node


def _is_dense(facts: TensorFacts, order: list[int]) -> bool:
    """Whether the tensor begins its storage and has neither gaps nor elements in two places, in this order of axes."""
    if facts.offset or facts.conjugated or facts.negated:
        return False
    expected = 1
    for dim in reversed(order):
        if facts.shape[dim] != 1 and facts.strides[dim] != expected:
            return False
        expected *= facts.shape[dim]
    return True
