"""Opens a shard's file and the weights that stand beside it: the compiler's checks and the ranks run the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import fx

from edgecompile.contract import plan
from edgecompile.execution import torchscript
from edgecompile.execution.attention import register_attention
from edgecompile.execution.low_precision import register_operators
from edgecompile.execution.prepack import ROWS_RECORD, prepack_exported, prepack_traced, rows_in
from edgecompile.execution.row_kernels import register_row_kernels
from edgecompile.execution.stored_weights import WEIGHTS_RECORD, read_record, stored_tensors
from edgecompile.execution.weight_only import register_weight_operators

__all__ = ["OpenedShard", "open_shard", "open_stage"]

Stage = Callable[..., Sequence[torch.Tensor]]


@dataclass(frozen=True, kw_only=True)
class OpenedShard:
    run: Stage
    """With its weights as they are stored."""
    prepacked: Callable[[], Stage]
    """Makes the same with prepacked weights; `run` is of no use then."""
    mapped: tuple[torch.Tensor, ...] = ()
    """Parts of the weights files."""


def open_stage(stage: plan.Stage, folder: Path, device: str = "cpu") -> OpenedShard:
    """A plan's stage; `folder` is the plan's. Raises as open_shard does."""
    return open_shard(folder / stage.shard, stage.artifact, folder, device)


def open_shard(path: Path, artifact: str, folder: Path, device: str = "cpu") -> OpenedShard:
    """A shard as a callable from tensors to a tuple of tensors. Its bytes have been checked.

    Args:
        folder: the plan's, in which the weights are.

    Raises:
        UserError: a weights file is missing, or what the shard says of its weights cannot be read.
        Exception: of torch, which cannot read the shard.
    """
    register_operators()
    register_weight_operators()
    register_attention()
    register_row_kernels()
    return _exported(path, folder, device) if artifact == "pt2" else _traced(path, folder, device)


# --- TorchScript -----------------------------------------------------------------------------------------------------


class _BoundProgram:
    """A TorchScript program with its weights as constants of its graph, which are not copied."""

    def __init__(self, program: Any, weights: Sequence[torch.Tensor]) -> None:
        self.graph = program.graph.copy()
        inputs = list(self.graph.inputs())
        first, count = next(iter(self.graph.nodes())), len(inputs) - len(weights)
        self.graph.setInsertPoint(first)
        for value, place in zip(weights, inputs[count:], strict=True):
            place.replaceAllUsesWith(self.graph.insertConstant(value))
        for index in (*range(len(inputs) - 1, count - 1, -1), 0):  # the last one is the module, which has nothing
            self.graph.eraseInput(index)
        self._run = torch._C._create_function_from_graph("forward", self.graph)

    def __call__(self, *inputs: torch.Tensor) -> Any:
        return self._run(*inputs)


def _traced(path: Path, folder: Path, device: str) -> OpenedShard:
    extra = {ROWS_RECORD: "", WEIGHTS_RECORD: ""}
    program = torchscript.load(str(path), device, extra)
    stored = read_record(extra[WEIGHTS_RECORD], path)
    weights = stored_tensors(stored, folder, device)
    run = _BoundProgram(program, weights) if stored else program
    rows = rows_in(extra[ROWS_RECORD])
    return OpenedShard(run=run, prepacked=lambda: prepack_traced(run, rows, consume=True), mapped=tuple(weights))


# --- torch.export ----------------------------------------------------------------------------------------------------


def _exported(path: Path, folder: Path, device: str) -> OpenedShard:
    extra = {ROWS_RECORD: "", WEIGHTS_RECORD: ""}
    program = torch.export.load(path, extra_files=extra)
    stored = read_record(extra[WEIGHTS_RECORD], path)
    weights, rows = stored_tensors(stored, folder), rows_in(extra[ROWS_RECORD])
    module = _plain_module(program, weights)
    if device != "cpu":
        module = module.to(device)
    return OpenedShard(run=cast(Stage, module), prepacked=lambda: cast(Stage, prepack_exported(module, rows)),
                       mapped=tuple(weights))  # fmt: skip


_ASSERTIONS = ("_assert_scalar", "_assert_async", "_assert_tensor_metadata", "sym_constrain_range")
"""What the compiler has made sure of; by name, since not every torch has all of them."""


def _is_assertion(node: fx.Node) -> bool:
    if node.op == "call_module":
        return node.target == "_guards_fn"
    return node.op == "call_function" and str(node.target).removeprefix("aten.").startswith(_ASSERTIONS)


def _is_number(node: fx.Node) -> bool:
    return node.op == "call_function" and isinstance(node.meta.get("val"), (int, bool, torch.SymInt, torch.SymBool))


def _plain_module(program: torch.export.ExportedProgram, weights: Sequence[torch.Tensor]) -> fx.GraphModule:
    """The program as a graph that takes positions, without export's own calling convention and its guards."""
    module = program.module()
    assert isinstance(module, fx.GraphModule)
    graph = module.graph
    graph.set_codegen(fx.graph.CodeGen())
    (output,) = [node for node in graph.nodes if node.op == "output"]
    output.args = (tuple(output.args[0]),)
    for node in reversed(list(graph.nodes)):
        if _is_assertion(node) or (_is_number(node) and not node.users):
            graph.erase_node(node)
    places = [node for node in graph.nodes if node.op == "placeholder"]
    for index, (node, value) in enumerate(zip(places[len(places) - len(weights) :], weights, strict=True)):
        name = f"stored_{index}"
        module.register_buffer(name, value, persistent=False)
        with graph.inserting_before(node):
            constant = graph.get_attr(name)
        constant.meta.update(node.meta)
        node.replace_all_uses_with(constant)
        graph.erase_node(node)
    return fx.GraphModule(module, graph, class_name="Stage")  # without the hooks that look at every input
