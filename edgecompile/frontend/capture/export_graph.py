"""Turns torch.export's program into a plain functional graph, without assertions and wrappers."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from edgecompile.contract.errors import UserError
from edgecompile.frontend.capture.graphs import OperatorFailed, attribute, constant_nodes, erase_dead
from edgecompile.frontend.capture.source_lines import first_line, node_place, operator_at

__all__ = ["explain_operator", "libraries_of", "library_notes", "plain_graph", "refuse_control_flow"]

_ASSERTIONS = frozenset(
    {
        torch.ops.aten._assert_scalar.default,
        torch.ops.aten._assert_async.default,
        torch.ops.aten._assert_async.msg,
        torch.ops.aten.sym_constrain_range.default,
        torch.ops.aten.sym_constrain_range_for_size.default,
        torch._check,
    }
)
_TRANSPARENT = frozenset({"wrap_with_set_grad_enabled", "wrap_with_autocast", "tag_activation_checkpoint"})
"""What stands around operators that always run: a trace holds these, and nothing of the wrapper."""
_OF_TORCH = frozenset(
    {"aten", "prim", "prims", "quantized", "mkldnn", "mkldnn_prepacked", "higher_order", "edgecompile"}
)
"""Namespaces of operators that `import torch` registers, and our own, which every rank has."""
_SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool)


def plain_graph(program: torch.export.ExportedProgram) -> fx.GraphModule:
    """The program as a graph that takes positions and returns a tuple.

    Raises:
        UserError: it branches or loops on data; names the operator and the line.
    """
    if any(_mutates(node) or _is_vmap(node) for node in program.graph.nodes):
        program = program.run_decompositions({})
    graph_module = program.module()
    assert isinstance(graph_module, fx.GraphModule)
    graph = graph_module.graph
    # A plain graph takes positions and returns a tuple; export's own calling convention carries guards with it.
    graph.set_codegen(fx.graph.CodeGen())
    (output,) = [node for node in graph.nodes if node.op == "output"]
    output.args = (tuple(output.args[0]),)
    for node in list(graph.nodes):
        if (node.op == "call_module" and node.target == "_guards_fn") or node.target in _ASSERTIONS:
            graph.erase_node(node)
        elif node.target in (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default):
            # A boundary's tensors arrive contiguous: what was a view of a transposed tensor may need a copy there.
            node.target = torch.ops.aten.reshape.default
        elif node.target is torch.ops.aten.copy_.default and node.args[0].op in ("placeholder", "get_attr"):
            # What the model writes into its input or a buffer is never read: purity.py has checked that.
            node.replace_all_uses_with(node.args[1])
            graph.erase_node(node)
        elif node.target is torch.ops.aten.zero.default:  # which TorchScript lacks
            node.target = torch.ops.aten.zeros_like.default
        elif node.target is torch.ops.aten.view_as.default:
            node.target = torch.ops.aten.reshape_as.default
    erase_dead(graph)
    refuse_control_flow(graph)
    _settle_scalars(graph_module)
    return fx.GraphModule(graph_module, graph, class_name="Model")


def refuse_control_flow(graph: fx.Graph) -> None:
    """Raises UserError where the graph branches or loops inside one of its operators: a trace would keep one way."""
    for node in graph.nodes:
        if not isinstance(node.target, torch._ops.HigherOrderOperator):
            continue
        name = str(node.target.name())  # type: ignore[no-untyped-call]
        if name in _TRANSPARENT:
            continue
        if name.startswith("auto_functionalized"):
            place = node_place(node)
            raise UserError(
                f"the model calls {node.args[0]}{f' at {place}' if place else ''}, which writes into its arguments: "
                "let it return a new tensor"
            )
        raise UserError(
            f"the model calls {operator_at(node)}, which a shard cannot hold: write it with tensor operators, such "
            "as torch.where, or as a Python loop of fixed length"
        )


def explain_operator(failed: OperatorFailed) -> str:
    """What to tell whoever wrote the model."""
    where, cause = operator_at(failed.node), failed.__cause__
    kind = type(cause).__name__
    if kind == "DataDependentOutputException":
        return (
            f"the model calls {where}, which turns a tensor into a Python number, so what runs depends on the data: "
            "compute with the tensor itself"
        )
    if kind == "DynamicOutputShapeException":
        return (
            f"the model calls {where}, whose result has a shape that depends on the data, and shapes must be known "
            "when it is compiled: keep the shape, and choose with a mask (torch.where)"
        )
    return f"the model calls {where}, which cannot be compiled: {kind}: {first_line(cause)}"


def library_notes(graph: fx.Graph, libraries: Sequence[str]) -> list[str]:
    """What to tell whoever sets up the ranks of a model with operators that torch itself does not have.

    Args:
        libraries: the modules that ranks import.
    """
    foreign = _foreign(graph)
    if not foreign:
        return []
    needed = f"the model uses operators that torch does not have ({', '.join(foreign)}), so that every rank needs"
    if libraries:
        return [f"{needed} {' and '.join(libraries)}, which it imports (runtime.import)"]
    named = ",".join(sorted({module for name in foreign if (module := _registered_by(name))})) or "MODULE"
    return [f"{needed} the library that registers them: name its module with runtime.import=[{named}]"]


def libraries_of(graph: fx.Graph) -> tuple[str, ...]:
    """The modules that register the operators that torch does not have; none where those of one are not known."""
    modules = [_registered_by(name) for name in _foreign(graph)]
    return tuple(sorted({module for module in modules if module})) if all(modules) else ()


def _foreign(graph: fx.Graph) -> list[str]:
    """The operators that torch does not have."""
    schemas = [getattr(node.target, "_schema", None) for node in graph.nodes if node.op == "call_function"]
    names = sorted({schema.name for schema in schemas if schema is not None})
    return [name for name in names if name.partition("::")[0] not in _OF_TORCH]


def _registered_by(name: str) -> str | None:
    """The module that made the operator with torch.library.custom_op; None: C++ did, or what was run as a script."""
    from torch._library.custom_ops import OPDEFS

    module = OPDEFS[name]._init_fn.__module__ if name in OPDEFS else None
    return None if module == "__main__" else module


def _mutates(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and bool(schema.is_mutable)


def _is_vmap(node: fx.Node) -> bool:
    return getattr(node.target, "__module__", None) == "torch._functorch.predispatch"


def _settle_scalars(graph_module: fx.GraphModule) -> None:
    """Python numbers that follow from the model's own tensors (`self.scale.item()`) become literals."""
    graph = graph_module.graph
    constant = constant_nodes(graph)
    values = _Values(graph_module)
    for node in list(graph.nodes):
        reads = node.target is torch.ops.aten.item.default and node in constant
        if reads or (not node.all_input_nodes and isinstance(node.meta.get("val"), _SYMBOLIC)):
            replace = functools.partial(_instead, node, values.of(node))
            for user in list(node.users):
                user.args, user.kwargs = fx.map_arg(user.args, replace), fx.map_arg(user.kwargs, replace)
            graph.erase_node(node)


def _instead(node: fx.Node, number: Any, argument: fx.Node) -> Any:
    return number if argument is node else argument


class _Values:
    """What constant nodes compute."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        self.graph_module = graph_module
        self.known: dict[fx.Node, Any] = {}

    def of(self, node: fx.Node) -> Any:
        if node not in self.known:
            self.known[node] = self._compute(node)
        return self.known[node]

    def _compute(self, node: fx.Node) -> Any:
        if node.op == "get_attr":
            return attribute(self.graph_module, str(node.target))
        assert callable(node.target), node.target
        with torch.no_grad():
            return node.target(*fx.map_arg(node.args, self.of), **fx.map_arg(node.kwargs, self.of))
