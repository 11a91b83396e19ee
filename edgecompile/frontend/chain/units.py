"""Splits the graph into a chain of units and boundaries, with the cost of each."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import fx, nn

from edgecompile.contract.dim_rules import BATCH
from edgecompile.contract.dtypes import DTYPE_BYTES
from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import product
from edgecompile.frontend.capture.captured import Captured
from edgecompile.frontend.capture.dims import NotSymbolic, names_needed
from edgecompile.frontend.capture.graphs import (
    TensorFacts,
    attribute,
    called_module,
    constant_nodes,
    facts_of,
    is_view,
    module_path,
    op_name,
)
from edgecompile.frontend.capture.sampling import axes_of
from edgecompile.frontend.chain.item_axis import find_item_axes, item_axis_of
from edgecompile.frontend.chain.recompute import find_sources, sources_of
from edgecompile.frontend.passes.sink_views import sinks

__all__ = ["Boundary", "BoundaryTensor", "Chain", "Unit", "at_sizes", "build_chain", "unit_tensors", "unit_work"]

_READS_ROWS = frozenset({"embedding", "index_select", "gather", "index"})


@dataclass(frozen=True, kw_only=True)
class Weight:
    """One stored tensor; the same `key` in two units means the same tensor."""

    key: int
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class Unit:
    """The smallest schedulable group of operators."""

    index: int
    op: str
    """The main operator, named after its module: `vit.layers.5.mlp.fc1`, `vit.layers.5:add#2`."""
    kind: str
    """The main operator's bare name, such as `linear`."""
    module: str
    nodes: tuple[fx.Node, ...]
    flops: int
    moved_bytes: int
    """Read and written, weights included."""
    weights: tuple[Weight, ...]
    activation_bytes: int
    """Peak of live activations while it runs, those that only pass by included."""

    @property
    def weight_bytes(self) -> int:
        return sum(weight.num_bytes for weight in self.weights)


@dataclass(frozen=True, kw_only=True)
class BoundaryTensor:
    node: fx.Node
    name: str
    shape: tuple[int, ...]
    dtype: str
    num_bytes: int
    exact: bool = False
    """Whether it travels as it is in every wire format (exact_tensors.py)."""
    dims: tuple[str | None, ...] = ()
    """As TensorSpec has them."""
    item_axis: int | None = 0
    """Each entry along it belongs to one item; None where no axis is known to be so."""

    def at(self, sizes: Mapping[str, int]) -> BoundaryTensor:
        """As it is at these extents of the dimensions; itself where it has none of them."""
        if not any(self.dims):  # fixed, not understood (so that there is no cut), or a single number
            return self
        pairs = zip(self.shape, self.dims, strict=True)
        shape = tuple(extent if text is None else product(text, sizes) for extent, text in pairs)
        elements = max(1, math.prod(self.shape))
        return replace(self, shape=shape, num_bytes=self.num_bytes * math.prod(shape) // elements)


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """The tensors that travel before unit `index`, in the order of their creation; the last one holds the results.

    Those alive there, or what cheap operators make them of again (recompute.py).
    """

    index: int
    tensors: tuple[BoundaryTensor, ...]
    cuttable: bool
    live: tuple[BoundaryTensor, ...] = ()
    """What is alive there itself, with nothing to be made again."""

    @property
    def num_bytes(self) -> int:
        return sum(tensor.num_bytes for tensor in self.tensors)

    def at(self, sizes: Mapping[str, int]) -> Boundary:
        """What travels at these extents of the dimensions."""
        return replace(self, tensors=tuple(tensor.at(sizes) for tensor in self.tensors))


@dataclass(frozen=True, kw_only=True)
class Chain:
    captured: Captured
    units: tuple[Unit, ...]
    boundaries: tuple[Boundary, ...]
    """One more than units: the first holds the inputs, the last the outputs."""


def build_chain(captured: Captured) -> Chain:
    """Groups the graph's operators into units and finds what is alive between them.

    Raises:
        UserError: the model does nothing with its inputs, or yields what cannot travel.
    """
    graph = captured.graph_module.graph
    constant = constant_nodes(graph)
    groups = _group(graph, constant)
    if not groups:
        raise UserError("the model has no operator that depends on its inputs: there is nothing to run")
    find_sources(graph, constant)
    boundaries = _boundaries(captured, groups)
    peaks = _activation_peaks(graph, groups, constant)
    labels = _labels(groups)
    units = []
    for index, group in enumerate(groups):
        main = _main(group)
        flops, moved_bytes = unit_work(group)
        units.append(
            Unit(
                index=index,
                op=labels[index],
                kind=op_name(main),
                module=module_path(main),
                nodes=tuple(group),
                flops=flops,
                moved_bytes=moved_bytes,
                weights=tuple(_weights(captured.graph_module, group, constant)),
                activation_bytes=peaks[index],
            )
        )
    return Chain(captured=captured, units=tuple(units), boundaries=boundaries)


def at_sizes(chain: Chain, sizes: Mapping[str, int]) -> Chain:
    """The same units, with the activations and boundaries of these sizes, whose numbers the graph has now."""
    graph = chain.captured.graph_module.graph
    peaks = _activation_peaks(graph, [list(unit.nodes) for unit in chain.units], constant_nodes(graph))
    units = (replace(unit, activation_bytes=peak) for unit, peak in zip(chain.units, peaks, strict=True))
    return replace(chain, units=tuple(units), boundaries=tuple(boundary.at(sizes) for boundary in chain.boundaries))


def unit_work(nodes: Sequence[fx.Node]) -> tuple[int, int]:
    """Floating-point operations, and bytes read and written, at the sizes that the graph has now."""
    return sum(int(node.meta["flops"]) for node in nodes), sum(_moved_bytes(node) for node in nodes)


def _group(graph: fx.Graph, constant: set[fx.Node]) -> list[list[fx.Node]]:
    """Work starts a unit; a view as large as its source joins its reader, other views join their producer."""
    groups: list[list[fx.Node]] = []
    of_node: dict[fx.Node, int] = {}
    pending: list[fx.Node] = []
    for node in graph.nodes:
        if node.op in ("placeholder", "output") or node in constant:
            continue
        source = node.all_input_nodes[0]
        if isinstance(source.meta.get("facts"), tuple) and source in of_node:
            home = of_node[source]  # one of several results: it must travel as a tensor, not as a tuple
        elif (isinstance(source.meta.get("facts"), tuple) and source in pending) or (
            is_view(node) and (sinks(node) or not groups or pending)
        ):
            pending.append(node)
            continue
        elif is_view(node):
            home = len(groups) - 1
        else:
            groups.append(pending)
            pending = []
            home = len(groups) - 1
            for earlier in groups[home]:
                of_node[earlier] = home
        groups[home].append(node)
        of_node[node] = home
    if pending and groups:
        groups[-1].extend(pending)
    elif pending:
        groups.append(pending)
    return groups


def _main(group: list[fx.Node]) -> fx.Node:
    return max(group, key=lambda node: (not is_view(node), int(node.meta["flops"])))


def _labels(groups: list[list[fx.Node]]) -> list[str]:
    labels: list[str] = []
    counts: dict[str, int] = {}
    for group in groups:
        main = _main(group)
        path, name = module_path(main), op_name(main)
        whole = main.op == "call_module" or _is_leaf(main)
        label = path if path and whole else f"{path}:{name}" if path else name
        counts[label] = counts.get(label, 0) + 1
        labels.append(label if counts[label] == 1 else f"{label}#{counts[label]}")
    return labels


def _is_leaf(node: fx.Node) -> bool:
    """Whether the node's module is one of torch's own, whose path says it all."""
    entries = list((node.meta.get("nn_module_stack") or {}).values())
    kind = entries[-1][1] if entries else ""
    text = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
    return text.startswith("torch.nn.modules.") and "container" not in text


def _boundaries(captured: Captured, groups: list[list[fx.Node]]) -> tuple[Boundary, ...]:
    graph = captured.graph_module.graph
    position = {node: index for index, group in enumerate(groups) for node in group}
    last_use: dict[fx.Node, int] = {}
    order = [node for node in graph.nodes if node.op == "placeholder" or node in position]
    for node in order:
        uses = [len(groups) if user.op == "output" else position.get(user, -1) for user in node.users]
        last_use[node] = max(uses, default=-1)
    names = dict(zip((node for node in order if node.op == "placeholder"), captured.input_names, strict=True))
    microbatch = facts_of(order[0])[0].shape[0]  # of the first input
    find_item_axes(graph, microbatch)
    place = {node: index for index, node in enumerate(order)}
    inputs = [_travelling(node, name, microbatch) for node, name in names.items()]
    boundaries = [Boundary(index=0, tensors=tuple(inputs), cuttable=True, live=tuple(inputs))]
    for cut in range(1, len(groups)):
        alive = [node for node in order if position.get(node, -1) < cut <= last_use[node]]
        sent = sorted({source for node in alive for source in sources_of(node)}, key=place.__getitem__)
        whole = all(isinstance(node.meta["facts"], TensorFacts) for node in sent)
        tensors, live = (
            tuple(_travelling(node, names.get(node, node.name), microbatch) for node in nodes if facts_of(node))
            for nodes in (sent, alive)
        )
        exact = {source for node in alive if node.meta["remade"] for source in sources_of(node)}
        tensors = tuple(replace(tensor, exact=True) if tensor.node in exact else tensor for tensor in tensors)
        known = all(tensor.dtype in DTYPE_BYTES for tensor in tensors)
        sized = all(_dims_of(node) is not None for node in sent) and _has_sizes(captured, groups[cut:], sent)
        cuttable = known and whole and sized and bool(tensors)
        boundaries.append(Boundary(index=cut, tensors=tensors, cuttable=cuttable, live=live))
    results = _results(captured, microbatch)
    boundaries.append(Boundary(index=len(groups), tensors=results, cuttable=True, live=results))
    return tuple(boundaries)


def _has_sizes(captured: Captured, groups: Sequence[Sequence[fx.Node]], sent: Sequence[fx.Node]) -> bool:
    """Whether each dimension that these last units or results need is an axis of a tensor that is sent to them."""
    there = {name for node in sent for name in _dims_of(node) or ()}
    if there.issuperset(captured.dims):
        return True
    needed: set[str] = set()
    output = captured.graph_module.graph.output_node()
    seen, waiting = set(sent), [output, *(node for group in groups for node in group)]
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            needed |= names_needed(node)
            waiting += node.all_input_nodes
    return needed <= there


def _travelling(node: fx.Node, name: str, microbatch: int) -> BoundaryTensor:
    facts = facts_of(node)[0]
    return BoundaryTensor(
        node=node, name=name, shape=facts.shape, dtype=facts.dtype, num_bytes=facts.num_bytes,
        item_axis=item_axis_of(node, microbatch), dims=_dims_of(node) or (),
    )  # fmt: skip


def _dims_of(node: fx.Node) -> tuple[str | None, ...] | None:
    """For each axis what it is of the dimensions; None where one is something else. Empty: sizes are fixed."""
    axes = axes_of(node)
    if axes is None:
        return () if node.meta.get("sampling") is None else None
    if not all(axis is not None and (not axis.names or axis.text) for axis in axes):
        return None
    return tuple(axis.text if axis is not None and axis.names else None for axis in axes)


def _results(captured: Captured, microbatch: int) -> tuple[BoundaryTensor, ...]:
    (output,) = [node for node in captured.graph_module.graph.nodes if node.op == "output"]
    values = output.args[0]
    assert isinstance(values, (tuple, list))
    results = []
    for name, value in zip(captured.output_names, values, strict=True):
        if not isinstance(value, fx.Node) or not isinstance(value.meta.get("facts"), TensorFacts):
            raise UserError(f"model.output: {name!r} is not a tensor: leave it out with model.output")
        if _dims_of(value) is None:
            raise NotSymbolic(f"the shape of its output {name!r} does not follow from the dimensions that vary")
        tensor = _travelling(value, name, microbatch)
        if tensor.dims and tensor.dims[0] != BATCH:
            raise NotSymbolic(f"its output {name!r} does not have an entry for each item")
        if tensor.dtype not in DTYPE_BYTES:
            raise UserError(f"model.output: {name!r} has the dtype {tensor.dtype}, which cannot travel")
        results.append(tensor)
    return tuple(results)


def _activation_peaks(graph: fx.Graph, groups: list[list[fx.Node]], constant: set[fx.Node]) -> list[int]:
    """For each unit the largest sum of live storages at any of its operators, in bytes."""
    order = [node for node in graph.nodes if node.op == "placeholder"] + [node for group in groups for node in group]
    step = {node: index for index, node in enumerate(order)}
    size: dict[int, int] = {}
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for node in order:
        for facts in facts_of(node):
            # An expanded view is larger than the storage it reads; the one that made the storage comes first.
            size.setdefault(facts.storage, facts.num_bytes)
            first.setdefault(facts.storage, step[node])
            uses = [len(order) if user.op == "output" else step.get(user, step[node]) for user in node.users]
            last[facts.storage] = max([last.get(facts.storage, 0), step[node], *uses])
    change = [0] * (len(order) + 2)
    for storage, num_bytes in size.items():
        change[first[storage]] += num_bytes
        change[last[storage] + 1] -= num_bytes
    live, total = [], 0
    for difference in change:
        total += difference
        live.append(total)
    return [max(live[step[node]] for node in group) for group in groups]


def _moved_bytes(node: fx.Node) -> int:
    if is_view(node):
        return 0
    written = sum(item.num_bytes for item in facts_of(node))
    if op_name(node) in _READS_ROWS:
        return 2 * written
    if op_name(node) == "attend":  # a decode step reads what the slot holds, and that is most of it
        rows, groups, _, size = facts_of(node.args[1])[0].shape  # type: ignore[arg-type]
        more = size + facts_of(node.args[2])[0].shape[-1]  # type: ignore[arg-type]
        written += rows * groups * more * 4 * int(node.meta.get("context", 0))
    read = sum(math.prod(item.shape) and item.num_bytes for source in node.all_input_nodes for item in facts_of(source))
    if node.op == "call_module":
        module = called_module(node)
        read += sum(value.numel() * value.element_size() for value in module.parameters())
    return written + read


def _weights(graph_module: fx.GraphModule, group: list[fx.Node], constant: set[fx.Node]) -> Iterable[Weight]:
    """The stored tensors that these operators need, straight or through constant operators; each once."""
    seen: dict[int, Weight] = {}
    for _, value in unit_tensors(graph_module, group, constant):
        key = value.untyped_storage().data_ptr() or id(value)
        num_bytes = value.numel() * value.element_size()
        if key not in seen or seen[key].num_bytes < num_bytes:
            seen[key] = Weight(key=key, num_bytes=num_bytes)
    return seen.values()


def unit_tensors(
    graph_module: fx.GraphModule, group: Sequence[fx.Node], constant: Collection[fx.Node]
) -> Iterable[tuple[str, torch.Tensor]]:
    """The stored tensors that a unit's operators need, straight or through constant operators, with their names.

    Args:
        constant: the graph's constant_nodes.
    """
    members = set(group)
    open_nodes = list(group)
    visited: set[fx.Node] = set()
    while open_nodes:
        node = open_nodes.pop()
        if node in visited:
            continue
        visited.add(node)
        if node.op == "get_attr":
            value = attribute(graph_module, str(node.target))
            if isinstance(value, torch.Tensor):
                yield str(node.target), value
        elif node.op == "call_module":
            module = attribute(graph_module, str(node.target))
            assert isinstance(module, nn.Module)
            own = (*module.named_parameters(), *module.named_buffers())
            yield from ((f"{node.target}.{name}", value) for name, value in own)
        if node in members or node in constant:
            open_nodes.extend(argument for argument in node.all_input_nodes if argument in constant)
