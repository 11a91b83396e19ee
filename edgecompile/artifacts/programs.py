"""Parts a shard into a program, which takes weights behind its inputs, and where each of them is stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from edgecompile.artifacts.inplace import all_nodes, unpack_constant
from edgecompile.artifacts.weight_store import WeightStore
from edgecompile.contract.errors import UserError
from edgecompile.execution.stored_weights import StoredTensor
from edgecompile.frontend.capture.graphs import attribute

__all__ = ["export_program", "lift_attributes", "lift_constants"]


def lift_constants(frozen: Any, store: WeightStore) -> tuple[Any, list[StoredTensor]]:
    """A frozen module's graph with its weights as inputs behind its own, in the order of the list.

    Nothing is lifted where a weight may be written to, and so is not a constant: the shard keeps all as its own.
    """
    graph = frozen.graph.copy()
    if next(iter(graph.inputs())).uses():
        return graph, []
    for node in all_nodes(graph):
        if node.kind() == "prim::Constant" and _holds_tensors(node.output()):
            unpack_constant(graph, node.output())
    stored: list[StoredTensor] = []
    places: dict[StoredTensor, Any] = {}
    for node in all_nodes(graph):
        if node.kind() != "prim::Constant" or node.output().type().kind() != "TensorType":
            continue
        item = store.place(node.t("value"))
        if item is None:
            continue
        if item not in places:
            places[item] = graph.addInput()
            places[item].setType(torch._C.TensorType.get())
            stored.append(item)
        node.output().replaceAllUsesWith(places[item])
    graph.eraseInput(0)
    torch._C._jit_pass_dce(graph)
    return graph, stored


def _holds_tensors(value: Any) -> bool:
    if value.type().kind() != "ListType" or value.type().getElementType().kind() != "TensorType":
        return False
    return bool(value.toIValue())


def lift_attributes(
    module: fx.GraphModule, store: WeightStore
) -> tuple[fx.GraphModule, list[StoredTensor], list[torch.Tensor]]:
    """A stage's graph with its weights as inputs behind its own, where each is stored, and the tensors themselves."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    graph.output(graph.graph_copy(module.graph, copies))
    stored: list[StoredTensor] = []
    values: list[torch.Tensor] = []
    last = [copies[node] for node in module.graph.nodes if node.op == "placeholder"][-1]
    for node in [node for node in graph.nodes if node.op == "get_attr"]:
        value = attribute(module, str(node.target))
        item = store.place(value) if isinstance(value, torch.Tensor) else None
        if item is None:
            continue
        with graph.inserting_after(last):
            last = graph.placeholder(f"weight_{len(stored)}")
        stored.append(item)
        values.append(value)
        node.replace_all_uses_with(last)
        graph.erase_node(node)
    return fx.GraphModule(module, graph, class_name="Stage").eval(), stored, values


def export_program(
    module: fx.GraphModule,
    examples: Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor],
    dims: Sequence[Sequence[str | None]],
) -> torch.export.ExportedProgram:
    """torch.export's program of a stage.

    Args:
        dims: for each example the dimension of each axis, of a stage for messages of any size; otherwise empty.

    Raises:
        UserError: torch.export holds an axis to the example's extent that varies from message to message.
    """
    sizes: list[Any] | None = None
    if dims:
        auto = torch.export.Dim.AUTO
        axes = [{axis: auto for axis, name in enumerate(names) if name is not None} for names in dims]
        varying = [
            {axis: kind for axis, kind in given.items() if example.shape[axis] > 1}  # others are one in every message
            for given, example in zip(axes, examples, strict=True)
        ]
        sizes = [*varying, *({} for _ in weights)]
    given = (*examples, *weights)
    program = torch.export.export(module, given, strict=False, dynamic_shapes=_by_argument(module, sizes))
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    inputs = [nodes[name] for name in program.graph_signature.user_inputs if isinstance(name, str)]
    for node, own in zip(inputs, sizes or (), strict=False):
        for axis in own:
            if not isinstance(node.meta["val"].shape[axis], torch.SymInt):
                raise UserError("artifact=pt2: torch.export holds this model to one size of its messages",
                                fix="compile with artifact=torchscript, or without model.dims")  # fmt: skip
    return program


def _by_argument(module: fx.GraphModule, sizes: Sequence[Any] | None) -> Any:
    """As torch.export wants them: by the name of each argument."""
    if sizes is None:
        return None
    names = [str(node.target) for node in module.graph.nodes if node.op == "placeholder"]
    return dict(zip(names, sizes, strict=True))
