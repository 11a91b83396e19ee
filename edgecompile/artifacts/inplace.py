"""Checks that the in-place operators of a TorchScript graph write no constant, weight or input.

torch's recurrent cells, traced, add in place into pieces of a product. Where that product does not depend on an input,
freezing folds it into a constant, since `unsafe_chunk` hides that its results share memory with its argument: the
constant then grows with every run.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch

__all__ = ["all_nodes", "isolate_writes", "show_shared_memory", "unpack_constant"]

_HIDDEN_VIEWS = {
    "aten::unsafe_chunk": "aten::chunk",
    "aten::unsafe_split": "aten::split",
    "aten::unsafe_split_with_sizes": "aten::split_with_sizes",
    "aten::_unsafe_view": "aten::reshape",
}
"""Operators whose schema does not say that their results share memory with their argument, and those that say it."""

_PASSES_ON = frozenset({"aten::__getitem__", "aten::list", "aten::dict"})
_MAY_ALIAS = frozenset({"aten::dropout", "aten::alpha_dropout", "aten::feature_dropout", *_HIDDEN_VIEWS})
"""Operators that return their first argument, or a view of it, though their schema does not say so."""


def show_shared_memory(graph: Any) -> None:
    """Before freezing: replaces operators that hide what they share, so that freezing folds nothing that is written."""
    for node in all_nodes(graph):
        name = _HIDDEN_VIEWS.get(node.kind())
        if name is None:
            continue
        graph.setInsertPoint(node)
        shown = graph.insertNode(graph.create(name, list(node.inputs()), 1))
        shown.output().setType(node.output().type())
        node.output().replaceAllUsesWith(shown.output())
        node.destroy()


def isolate_writes(graph: Any) -> None:
    """Copies, at each run of a frozen graph, the constants and inputs that it writes."""
    for origin in _written_origins(graph):
        if origin.node().kind() == "prim::Constant" and isinstance(origin.toIValue(), list):
            unpack_constant(graph, origin)
    for origin in _written_origins(graph):
        kind = origin.node().kind()
        assert kind in ("prim::Param", "prim::Constant"), (
            f"the shard keeps state: it writes {kind} {origin.debugName()}"
        )
        _copy(graph, origin)
    left = [value.debugName() for value in _written_origins(graph)]
    assert not left, f"the shard writes constants or inputs: {left}"


def _copy(graph: Any, value: Any) -> None:
    graph.setInsertPoint(_first_after(graph, value))
    clone = graph.create("aten::clone", [value, graph.insertConstant(None)], 1)
    graph.insertNode(clone)
    clone.output().setType(value.type())
    for use in list(value.uses()):
        if use.user != clone:
            use.user.replaceInput(use.offset, clone.output())


def unpack_constant(graph: Any, value: Any) -> None:
    """A constant list becomes a list of constants, each of which can be copied."""
    graph.setInsertPoint(_first_after(graph, value))
    parts = [graph.insertConstant(part) for part in value.toIValue()]
    whole = graph.insertNode(graph.create("prim::ListConstruct", parts, 1))
    whole.output().setType(value.type())
    value.replaceAllUsesWith(whole.output())


def _first_after(graph: Any, value: Any) -> Any:
    """The node before which what stands for `value` is inserted."""
    nodes = list(graph.nodes())
    if value.node().kind() == "prim::Param":
        return nodes[0]
    return nodes[nodes.index(value.node()) + 1]


def all_nodes(block: Any) -> list[Any]:
    """Of a TorchScript graph, those in its branches and loops too."""
    found = []
    for node in block.nodes():
        found.append(node)
        for inner in node.blocks():
            found.extend(all_nodes(inner))
    return found


def _written_origins(graph: Any) -> list[Any]:
    """The constants, inputs and attributes whose memory an in-place operator may write, each once."""
    found: dict[str, Any] = {}
    for node in all_nodes(graph):
        for place in _written_arguments(node):
            for origin in _origins(node.inputsAt(place)):
                found.setdefault(origin.debugName(), origin)
    return list(found.values())


def _written_arguments(node: Any) -> list[int]:
    schema = _schema(node)
    if schema is None:
        return []
    return [
        place
        for place, argument in enumerate(schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]


def _schema(node: Any) -> Any:
    text = node.schema()
    return None if text == "(no schema)" else _parsed(text)


@cache
def _parsed(text: str) -> Any:
    return torch._C.parse_schema(text)


def _origins(value: Any) -> Iterator[Any]:
    """What the value's memory may belong to, as far as this run does not allocate it."""
    seen: set[str] = set()
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if value.debugName() in seen:
            continue
        seen.add(value.debugName())
        node = value.node()
        if node.kind() in ("prim::Param", "prim::Constant", "prim::GetAttr"):
            yield value
        else:
            waiting.extend(_shared_arguments(node))


def _shared_arguments(node: Any) -> list[Any]:
    """The arguments whose memory the node's results may share."""
    if node.kind().startswith("prim::") or node.kind() in _PASSES_ON or any(node.blocks()):
        inner = [value for block in node.blocks() for value in block.outputs()]
        return [*node.inputs(), *inner]
    if node.kind() in _MAY_ALIAS:
        return [node.inputsAt(0)]
    schema = _schema(node)
    if schema is None:
        return list(node.inputs())
    return [node.inputsAt(place) for place, argument in enumerate(schema.arguments) if argument.alias_info is not None]
