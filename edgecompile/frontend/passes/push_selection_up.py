"""Selects the tokens that are used before the work that would otherwise be done on all of them.

Where a classifier reads one token, the last block then computes its query, its projections and its MLP for that token
alone: 10 of the 12 matrix products of a transformer block shrink to one row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from edgecompile.frontend.capture.dims import DimInt
from edgecompile.frontend.capture.graphs import TensorFacts, erase_dead, op_name
from edgecompile.frontend.capture.sampling import axes_of, extents_of

__all__ = ["push_selection_up"]

_ELEMENTWISE = frozenset(
    {"gelu", "relu", "silu", "tanh", "sigmoid", "neg", "exp", "sqrt", "rsqrt", "hardswish", "leaky_relu", "elu", "erf"}
)
_PAIRWISE = frozenset({"add", "sub", "mul", "div"})
_MASK = 3
_ARGUMENTS: Mapping[Any, tuple[str, ...]] = {
    torch.ops.aten.select.int: ("dim", "index"),
    torch.ops.aten.slice.Tensor: ("dim", "start", "end", "step"),
    torch.ops.aten.narrow.default: ("dim", "start", "length"),
}
"""The selections, and the names of their arguments after the tensor."""


@dataclass(frozen=True)
class _Narrowing:
    """`length` entries from `start` along dimension `dim` of a tensor."""

    dim: int
    start: int
    length: int


def push_selection_up(graph_module: fx.GraphModule) -> int:
    """Rewrites each selection of one token so that it happens as far up as no other reader needs the rest."""
    pushed = 0
    for node in reversed(list(graph_module.graph.nodes)):
        narrowing = _selection(node)
        if narrowing is None:
            continue
        pusher = _Pusher(graph_module.graph, node)
        source = node.args[0]
        narrow = pusher.narrowed(source, narrowing)
        if pusher.num_moved == 0:
            pusher.forget()
            continue
        with graph_module.graph.inserting_before(node):
            if op_name(node) == "select":
                result = graph_module.graph.call_function(torch.ops.aten.select.int, (narrow, narrowing.dim, 0))
            else:
                result = narrow
        if result is not narrow:
            result.meta = {"nn_module_stack": node.meta.get("nn_module_stack")}
        node.replace_all_uses_with(result)
        erase_dead(graph_module.graph)
        pushed += 1
    return pushed


def _selection(node: fx.Node) -> _Narrowing | None:
    """What `x[:, i]` or `x[:, a:b]` reads of a tensor of three dimensions or more, dimension 0 left alone."""
    names = _ARGUMENTS.get(node.target)
    if names is None or not node.args or not isinstance(node.args[0], fx.Node):
        return None
    facts = node.args[0].meta.get("facts")
    if not isinstance(facts, TensorFacts) or len(facts.shape) < 3:
        return None
    given: dict[str, Any] = dict(zip(names, node.args[1:], strict=False)) | node.kwargs
    numbers = {name: value for name, value in given.items() if value is not None}
    if not all(isinstance(value, int) for value in numbers.values()):
        return None
    dim = int(numbers.get("dim", 0)) % len(facts.shape)
    whole = facts.shape[dim]
    if not _is_fixed(node.args[0], dim, given):
        return None
    if "index" in numbers or "length" in numbers:
        start, step = int(numbers.get("index", numbers.get("start", 0))) % max(1, whole), 1
        stop = start + int(numbers.get("length", 1))
    else:
        # A negative bound counts from the end and one too far out is the end, as in Python.
        start, stop, step = slice(given.get("start"), given.get("end"), given.get("step")).indices(whole)
    length = stop - start
    # The last dimension holds features, which products mix: a selection there goes nowhere.
    inside = 0 < dim < len(facts.shape) - 1 and 0 < length < whole
    return _Narrowing(dim, start, length) if inside and step == 1 else None


def _is_fixed(source: fx.Node, dim: int, given: Mapping[str, Any]) -> bool:
    """Whether the same entries are read at all sizes: of an extent that varies, some that count from its beginning."""
    axes, sampling = axes_of(source), source.meta.get("sampling")
    if sampling is None:
        return True
    axis = axes[dim] if axes is not None else None
    if axis is None or any(isinstance(value, DimInt) for value in given.values()):
        return False
    if not axis.names:
        return True
    least = axis.at({name: extent.min for name, extent in sampling.dims.items()})
    if "index" in given:
        return 0 <= int(given["index"]) < least
    start, end = given.get("start") or 0, given.get("end", given.get("length"))
    return start >= 0 and end is not None and 0 <= start + ("length" in given) * end <= least and 0 < end <= least


class _Pusher:
    """Builds the narrowed twin of a node, and of whatever it reads, before `anchor`."""

    def __init__(self, graph: fx.Graph, anchor: fx.Node) -> None:
        self.graph = graph
        self.anchor = anchor
        self.num_moved = 0
        self.twins: dict[tuple[fx.Node, _Narrowing], fx.Node] = {}
        self.made: list[fx.Node] = []
        self.rules: dict[str, Callable[[fx.Node, _Narrowing], Any]] = {
            "layer_norm": self._rowwise,
            "linear": self._rowwise,
            "transpose": self._transpose,
            "reshape": self._reshape,
            "scaled_dot_product_attention": self._attention,
            **dict.fromkeys(_ELEMENTWISE, self._rowwise),
            **dict.fromkeys(_PAIRWISE, self._pairwise),
        }

    def narrowed(self, node: Any, narrowing: _Narrowing, reader: fx.Node | None = None) -> fx.Node:
        """`node` restricted to `narrowing`: computed so where nothing else reads the rest, else sliced."""
        key = (node, narrowing)
        if key not in self.twins:
            twin = None
            readers = set(node.users) - {reader or self.anchor}
            if not readers and op_name(node) in self.rules and _is_plain(node):
                moved = self.num_moved
                arguments = self.rules[op_name(node)](node, narrowing)
                if arguments is None:
                    self.num_moved = moved  # what was narrowed on the way is not read
                else:
                    args, kwargs = arguments
                    twin = self._call(node.target, args, kwargs, node, narrowing)
                    self.num_moved += op_name(node) in ("linear", "scaled_dot_product_attention", "layer_norm")
            if twin is None:
                bounds = (node, narrowing.dim, narrowing.start, narrowing.start + narrowing.length)
                twin = self._call(torch.ops.aten.slice.Tensor, bounds, {}, node, narrowing)
            self.twins[key] = twin
        return self.twins[key]

    def _call(self, target: Any, args: Any, kwargs: Any, like: fx.Node, narrowing: _Narrowing) -> fx.Node:
        with self.graph.inserting_before(self.anchor):
            twin = self.graph.call_function(target, tuple(args), dict(kwargs))
        twin.meta = {"nn_module_stack": like.meta.get("nn_module_stack")}
        self.made.append(twin)
        return twin

    def forget(self) -> None:
        """Takes the twins back, where they save no work."""
        for twin in reversed(self.made):
            self.graph.erase_node(twin)

    def _rowwise(self, node: fx.Node, narrowing: _Narrowing) -> Any:
        """Operators that treat each row of the last dimension by itself."""
        if not _row_kept(node, narrowing):
            return None
        return (self.narrowed(node.args[0], narrowing, node), *node.args[1:]), node.kwargs

    def _pairwise(self, node: fx.Node, narrowing: _Narrowing) -> Any:
        shape = node.meta["facts"].shape
        args: list[Any] = []
        for argument in node.args:
            facts = argument.meta.get("facts") if isinstance(argument, fx.Node) else None
            if facts is None:
                args.append(argument)
            elif not isinstance(facts, TensorFacts):
                return None
            elif (own := narrowing.dim - (len(shape) - len(facts.shape))) < 0 or facts.shape[own] == 1:
                args.append(argument)  # broadcast along the dimension
            else:
                args.append(self.narrowed(argument, replace(narrowing, dim=own), node))
        return args, node.kwargs

    def _transpose(self, node: fx.Node, narrowing: _Narrowing) -> Any:
        rank = len(node.meta["facts"].shape)
        first, second = (int(value) % rank for value in node.args[1:3])  # type: ignore[arg-type]
        moved = {first: second, second: first}.get(narrowing.dim, narrowing.dim)
        inner = _Narrowing(moved, narrowing.start, narrowing.length)
        return (self.narrowed(node.args[0], inner, node), *node.args[1:]), node.kwargs

    def _reshape(self, node: fx.Node, narrowing: _Narrowing) -> Any:
        """The dimension must come through whole: as many elements before it, and as many in it, on both sides."""
        source = node.args[0]
        assert isinstance(source, fx.Node)
        before, after = source.meta["facts"].shape, node.meta["facts"].shape
        lead = math.prod(after[: narrowing.dim])
        for dim, extent in enumerate(before):
            if math.prod(before[:dim]) == lead and extent == after[narrowing.dim]:
                inner = _Narrowing(dim, narrowing.start, narrowing.length)
                extents = extents_of(node)
                if extents is None:
                    return None
                shape = [*extents[: narrowing.dim], narrowing.length, *extents[narrowing.dim + 1 :]]
                return (self.narrowed(source, inner, node), shape), {}
        return None

    def _attention(self, node: fx.Node, narrowing: _Narrowing) -> Any:
        """Rows of the result need only the same rows of the query, and all keys and values."""
        rank = len(node.meta["facts"].shape)
        causal = any(value is True for value in (*node.args[4:], *node.kwargs.values()))
        query = node.args[0].meta["facts"].shape  # type: ignore[union-attr]
        if narrowing.dim != rank - 2 or causal or len(query) != rank or len(node.args) < _MASK:
            return None
        args = [self.narrowed(node.args[0], narrowing, node), *node.args[1:]]
        kwargs = dict(node.kwargs)
        mask = args[_MASK] if len(args) > _MASK else kwargs.get("attn_mask")
        if isinstance(mask, fx.Node):
            rows = mask.meta["facts"].shape
            if len(rows) < 2:
                return None
            if rows[-2] != 1:
                cut = _Narrowing(len(rows) - 2, narrowing.start, narrowing.length)
                mask = self.narrowed(mask, cut, node)
            if len(args) > _MASK:
                args[_MASK] = mask
            else:
                kwargs["attn_mask"] = mask
        return args, kwargs


def _is_plain(node: fx.Node) -> bool:
    """An operator of torch's with a tensor as its first argument and one as its result, which writes nowhere."""
    first = node.args[0] if node.args else None
    facts = [item.meta.get("facts") if isinstance(item, fx.Node) else None for item in (node, first)]
    known = isinstance(node.target, torch._ops.OpOverload)
    return known and all(isinstance(item, TensorFacts) for item in facts) and not node.meta.get("writes")


def _row_kept(node: fx.Node, narrowing: _Narrowing) -> bool:
    """Whether the operator leaves the dimension as it is; a norm may run over several of the last ones."""
    rank = len(node.meta["facts"].shape)
    normalised = node.args[1] if op_name(node) == "layer_norm" else [0]
    assert isinstance(normalised, (list, tuple))
    return narrowing.dim < rank - len(normalised)
