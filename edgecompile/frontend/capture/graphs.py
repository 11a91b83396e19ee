"""Helpers for passes over fx graphs: tensor metadata of nodes, constants, module paths."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

__all__ = [
    "OperatorFailed",
    "TensorFacts",
    "attribute",
    "called_module",
    "constant_nodes",
    "drop_each",
    "dtype_name",
    "erase_dead",
    "facts_of",
    "is_view",
    "module_path",
    "op_name",
    "propagate",
    "rebuild",
    "shapes_of",
    "tensors_in",
]

_HIDDEN_WRITE = re.compile(r"_foreach_\w+_")
"""Operators that write without counting up their arguments' versions, while fake tensors run."""


@dataclass(frozen=True)
class TensorFacts:
    """Shape, dtype name and size of one tensor, and which storage it lives in (an id within one propagation)."""

    shape: tuple[int, ...]
    dtype: str
    num_bytes: int
    storage: int
    strides: tuple[int, ...]
    offset: int = 0
    """Of the first element in its storage, in elements."""
    conjugated: bool = False
    """A view that stands for its storage's conjugate."""
    negated: bool = False
    """A view that stands for its storage's negative."""


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def propagate(graph_module: fx.GraphModule, inputs: Sequence[torch.Tensor]) -> None:
    """Runs the graph on fake tensors and leaves `facts`, `flops`, `view` and `writes` in each node's meta.

    `facts`: TensorFacts, or a tuple of them where the operator returns several tensors, or None for anything else.
    `flops`: floating-point operations, by torch's own counter; one an element where it does not know the operator.
    `view`: the node's result lives in the storage of one of its arguments, which it leaves as it was.
    `writes`: the operator writes into one of its arguments.

    Raises:
        OperatorFailed: an operator's result has a shape that depends on the data, is not a plain tensor, or is unknown.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    fakes = [mode.from_tensor(item, static_shapes=True) for item in inputs]
    counter = FlopCounterMode(display=False)  # entered once: to enter it takes longer than most operators
    with mode, counter, torch.no_grad():
        _Propagator(graph_module, mode, counter).run(*fakes)


def shapes_of(graph_module: fx.GraphModule, inputs: Sequence[torch.Tensor]) -> dict[fx.Node, tuple[int, ...] | None]:
    """The shape of each node's tensor, None of anything else. Leaves the nodes' meta as it is.

    Raises:
        OperatorFailed: as propagate does.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    shapes = _Shapes(graph_module, mode)
    with mode, torch.no_grad():
        shapes.run(*(mode.from_tensor(item, static_shapes=True) for item in inputs))
    return shapes.found


class OperatorFailed(Exception):
    """An operator cannot run on tensors whose values are unknown; its cause says why."""

    def __init__(self, node: fx.Node) -> None:
        super().__init__(node)
        self.node = node


_LITERALS = (bool, int, float, torch.Size, torch.dtype, torch.device)


class _OnFakes(fx.Interpreter):
    """Weights are fake tensors too."""

    def __init__(self, graph_module: fx.GraphModule, mode: FakeTensorMode) -> None:
        super().__init__(graph_module)
        self.mode = mode
        self.fakes: dict[int, torch.Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        try:
            return super().run_node(n)
        except Exception as error:  # whatever the operator raises
            raise OperatorFailed(n) from error

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        value = super().get_attr(target, args, kwargs)
        return self._fake(value) if isinstance(value, torch.Tensor) else value

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        return torch.func.functional_call(self.fetch_attr(target), self._weights(target), args, kwargs)

    def _weights(self, target: Any) -> dict[str, torch.Tensor]:
        module = self.fetch_attr(target)
        return {name: self._fake(item) for name, item in [*module.named_parameters(), *module.named_buffers()]}

    def _fake(self, value: torch.Tensor) -> torch.Tensor:
        if isinstance(value, FakeTensor):
            return value
        if id(value) not in self.fakes:
            self.fakes[id(value)] = self.mode.from_tensor(value, static_shapes=True)
        return self.fakes[id(value)]


class _Shapes(_OnFakes):
    def __init__(self, graph_module: fx.GraphModule, mode: FakeTensorMode) -> None:
        super().__init__(graph_module, mode)
        self.found: dict[fx.Node, tuple[int, ...] | None] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        shape = tuple(int(extent) for extent in result.shape) if isinstance(result, torch.Tensor) else None
        self.found[n] = shape
        return result


class _Propagator(_OnFakes):
    def __init__(self, graph_module: fx.GraphModule, mode: FakeTensorMode, counter: FlopCounterMode) -> None:
        super().__init__(graph_module, mode)
        self.counter = counter
        self.kept: list[Any] = []  # storage ids are addresses: nothing may be freed while they are compared

    def run_node(self, n: fx.Node) -> Any:
        try:
            return self._run_node(n)
        except Exception as error:  # whatever the operator raises
            raise OperatorFailed(n) from error

    def _run_node(self, n: fx.Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        read = [item for argument in n.all_input_nodes for item in _tensors_of(self.env[argument])]
        if n.op == "call_module":
            read += self._weights(n.target).values()
        versions = [item._version for item in read]
        flops = self.counter.get_total_flops()
        result = getattr(self, n.op)(n.target, args, kwargs)
        self.kept.append(result)
        hidden = n.op == "call_function" and _HIDDEN_WRITE.fullmatch(op_name(n)) is not None
        n.meta["writes"] = hidden or versions != [item._version for item in read]
        n.meta["facts"] = _facts(result)
        n.meta["literal"] = result if isinstance(result, _LITERALS) else None
        mine = {item.storage for item in facts_of(n)}
        others = {item.storage for argument in n.all_input_nodes for item in facts_of(argument)}
        calls = n.op in ("call_function", "call_method", "call_module")
        n.meta["view"] = calls and bool(mine) and mine <= others and not n.meta["writes"]
        n.meta["flops"] = int(self.counter.get_total_flops()) - flops
        if calls and not n.meta["view"] and n.meta["flops"] == 0:
            n.meta["flops"] = _uncounted_flops(n)
        return result


def _tensors_of(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [item for part in value for item in _tensors_of(part)] if isinstance(value, (tuple, list)) else []


def _facts(result: Any) -> Any:
    if isinstance(result, torch.Tensor):
        return TensorFacts(
            shape=tuple(int(extent) for extent in result.shape),
            dtype=dtype_name(result.dtype),
            num_bytes=result.numel() * result.element_size(),
            storage=result.untyped_storage()._cdata,
            strides=tuple(int(stride) for stride in result.stride()),
            offset=int(result.storage_offset()),
            conjugated=result.is_conj(),
            negated=result.is_neg(),
        )
    if isinstance(result, (tuple, list)):
        return tuple(_facts(item) for item in result)
    return None


def _uncounted_flops(node: fx.Node) -> int:
    """Operators that torch's counter does not know: attention on the CPU, and one an element for the rest."""
    if op_name(node) == "attend":
        query, value = facts_of(node.args[0])[0].shape, facts_of(node.args[2])[0].shape  # type: ignore[arg-type]
        return 2 * math.prod(query[:-1]) * (query[-1] + value[-1]) * (query[-2] + int(node.meta.get("context", 0)))
    if op_name(node) == "scaled_dot_product_attention":
        named = [node.kwargs[name] for name in ("query", "key", "value") if name in node.kwargs]
        query, key, value = (facts_of(item)[0].shape for item in [*node.args, *named][:3])  # type: ignore[arg-type]
        return 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
    return sum(math.prod(item.shape) for item in facts_of(node))


def facts_of(node: fx.Node) -> list[TensorFacts]:
    """The tensors that a node yields, flat."""
    return list(tensors_in(node.meta.get("facts")))


def tensors_in(facts: Any) -> Iterable[TensorFacts]:
    if isinstance(facts, TensorFacts):
        yield facts
    elif isinstance(facts, tuple):
        for item in facts:
            yield from tensors_in(item)


def is_view(node: fx.Node) -> bool:
    """Whether the node costs nothing: its result shares the storage of an argument."""
    return bool(node.meta.get("view"))


def attribute(graph_module: fx.GraphModule, target: str) -> Any:
    """The value behind a get_attr target such as `encoder.layer.0.weight`."""
    value: Any = graph_module
    for part in target.split("."):
        value = getattr(value, part)
    return value


def constant_nodes(graph: fx.Graph) -> set[fx.Node]:
    """Nodes that no input reaches: get_attr, and whatever is computed from those or from nothing."""
    constant: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op in ("placeholder", "output"):
            continue
        if all(argument in constant for argument in node.all_input_nodes):
            constant.add(node)
    return constant


def module_path(node: fx.Node) -> str:
    """The path of the module whose code made this node, such as `vit.layers.5.mlp.fc1`; empty for the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    entries = list(stack.values())
    path = str(entries[-1][0]) if entries else ""
    if node.op == "call_module":
        path = str(node.target)
    for prefix in ("L__self___module", "L['self'].module", "module"):
        if path == prefix:
            return ""
        if path.startswith(prefix + "."):
            return path[len(prefix) + 1 :]
    return path


def erase_dead(graph: fx.Graph) -> None:
    """Erases operators whose result is unused. fx itself spares attention, which in training draws random numbers."""
    for node in reversed(list(graph.nodes)):
        if not node.users and node.op not in ("placeholder", "output"):
            graph.erase_node(node)


def drop_each(graph: fx.Graph, stands_for: Callable[[fx.Node], object]) -> int:
    """Replaces every node for which `stands_for` gives another node by that one; returns how many were dropped."""
    dropped = 0
    for node in list(graph.nodes):
        other = stands_for(node)
        if isinstance(other, fx.Node):
            node.replace_all_uses_with(other)
            graph.erase_node(node)
            dropped += 1
    return dropped


def rebuild(graph_module: fx.GraphModule) -> fx.GraphModule:
    """The same module after its graph was edited: dead nodes gone, checked, only the attributes that it uses."""
    erase_dead(graph_module.graph)
    graph_module.graph.lint()
    return fx.GraphModule(graph_module, graph_module.graph, class_name="Model")


def called_module(node: fx.Node) -> Any:
    """The module that a call_module node calls."""
    owner = node.graph.owning_module
    assert owner is not None, "a graph without its module"
    return attribute(owner, str(node.target))


def op_name(node: fx.Node) -> str:
    """The operator's bare name, such as `linear`, whichever way the graph calls it; empty for no call."""
    if node.op == "call_function":
        schema = getattr(node.target, "_schema", None)
        if schema is not None:
            return str(schema.name).rpartition("::")[2]
        return str(getattr(node.target, "__name__", node.target))
    if node.op == "call_method":
        return str(node.target)
    if node.op == "call_module":
        return type(called_module(node)).__name__.lower()
    return ""
