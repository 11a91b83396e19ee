"""Outputs that are decisions (labels, masks, picked boxes): whether what they are decided by depends on other items.

A label hides an influence until it changes, which on a few golden items it may not: the floats before it show it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import fx

from edgecompile.frontend.capture.captured import Captured
from edgecompile.frontend.capture.flat_model import FlatModel
from edgecompile.frontend.capture.graphs import TensorFacts, erase_dead, op_name
from edgecompile.frontend.golden.eager import Eager
from edgecompile.frontend.golden.independence import ItemsMixed, find_influence

__all__ = ["check_decisions"]

_DIM = {"argmax": 1, "argmin": 1, "sort": 1, "argsort": 1, "max": 1, "min": 1, "any": 1, "all": 1, "topk": 2,
        "gather": 1}  # fmt: skip
"""The operators that decide or pick along an axis, and the place of that among their arguments."""
_LAST = frozenset({"sort", "argsort", "topk"})
"""Along the last axis unless they are told."""
_KEEPS = frozenset(
    {"to", "_to_copy", "long", "int", "bool", "float", "gt", "lt", "ge", "le", "eq", "ne", "round", "floor", "ceil",
     "__and__", "__or__", "logical_not", "where", "masked_fill", "add", "sub", "mul", "one_hot", "view",
     "reshape", "unsqueeze", "squeeze", "flatten", "clone", "contiguous", "expand", "expand_as"}
)  # fmt: skip


def check_decisions(captured: Captured, golden: Sequence[torch.Tensor], microbatch: int) -> None:
    """Compares the floats that the outputs are decided by among other neighbours; `captured` has their facts.

    Raises:
        UserError: an item's depend on other items of its microbatch.
    """
    (output,) = [node for node in captured.graph_module.graph.nodes if node.op == "output"]
    deciding = {
        f"{name} (before {op_name(reader)})": source
        for name, node in zip(captured.output_names, output.args[0], strict=True)
        if microbatch > 1 and isinstance(node, fx.Node)
        for source, reader in _deciding(node, microbatch)
    }
    if not deciding:
        return
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    graph.graph_copy(captured.graph_module.graph, copies)
    graph.output({name: copies[source] for name, source in deciding.items()})
    erase_dead(graph)
    own_names = [str(node.target) for node in graph.nodes if node.op == "placeholder"]
    flat = FlatModel(fx.GraphModule(captured.graph_module, graph), own_names, ())
    eager = Eager(flat, golden)
    influence = find_influence(eager, eager.run_groups(microbatch), microbatch)
    if influence is not None:
        raise ItemsMixed(influence)


def _deciding(node: fx.Node, microbatch: int) -> Iterator[tuple[fx.Node, fx.Node]]:
    """The nearest floats by which `node` is decided, row by row, each with the operator that reads it."""
    waiting, seen = [node], {node}
    while waiting:
        reader = waiting.pop()
        if not _keeps_rows(reader):
            continue
        for source in reader.all_input_nodes:
            facts = source.meta.get("facts")
            if source in seen or (isinstance(facts, TensorFacts) and facts.shape[:1] != (microbatch,)):
                continue
            seen.add(source)
            if source.op != "placeholder" and _is_float(source) and not _is_float(reader):
                yield source, reader
            else:
                waiting.append(source)


def _is_float(node: fx.Node) -> bool:
    facts = node.meta.get("facts")
    return isinstance(facts, TensorFacts) and facts.dtype.startswith(("float", "bfloat"))


def _keeps_rows(node: fx.Node) -> bool:
    """Whether the first axis of the result is that of each tensor that it reads which has as many entries."""
    name = op_name(node)
    if name in _DIM:
        place = _DIM[name]
        dim = node.args[place] if len(node.args) > place else node.kwargs.get("dim", -1 if name in _LAST else None)
        rank = max((_rank(source) for source in node.all_input_nodes), default=0)
        return isinstance(dim, int) and rank > 0 and dim % rank != 0
    pointwise = isinstance(node.target, torch._ops.OpOverload) and torch.Tag.pointwise in node.target.tags
    if name == "getitem":  # of one of several results; of a tensor it may choose rows
        return not isinstance(node.all_input_nodes[0].meta.get("facts"), TensorFacts)
    ranks = {_rank(source) for source in node.all_input_nodes} - {0}
    return (pointwise or name in _KEEPS) and len(ranks) <= 1


def _rank(node: fx.Node) -> int:
    facts = node.meta.get("facts")
    return len(facts.shape) if isinstance(facts, TensorFacts) else 0
